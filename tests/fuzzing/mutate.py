"""Changes to files: of their bytes, and of what their formats make of them."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

HOSTILE_NAMES = (
    "../../outside/x",
    "/tmp/fsbench-fuzz-outside",
    "..\\..\\outside\\x",
    "C:\\x",
    "a\0b",
    "a\nb",
    "\x1b[2J\x1b]0;x\x07",
    "\u202eevil",
    "=cmd|' /C calc'!A0",
    "-rf",
    "",
    ".",
    "..",
    "con",
    "a" * 300,
    "a/" * 600,
    "\ud800",
    "é",
    "~/x",
    "$(touch x)",
    "http://127.0.0.1:9/x",
)
VALUES: tuple[Any, ...] = (
    *HOSTILE_NAMES,
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**12, 10**30, -(10**30)),
    *(0.5, -0.0, 1e308, float("inf"), float("nan"), [], {}, [[]], [None], {"": ""}),
    *(["a", 0, "b"], [1, 2, 3], "1e999", "no", "0", "true", "é" * 50, "x" * 5000),
)
TOKENS = (
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b"\r", b"\t", b"\0", b"\\", b"\\u0000"),
    *(b"\\ud800", b"null", b"true", b"NaN", b"Infinity", b"-1", b"1e999", b"1e-999", b"99" * 40),
    *(b"9" * 5000, b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3\x28", b"\xed\xa0\x80", b"../", b"/etc/"),
    *(b"!!python/object/apply:os.system ['touch x']", b"&a [*a,*a]", b"<<: *a", b"---\n"),
    *(b"cos\nsystem\n", b"(S'touch x'\ntR.", b"\x93", b"\x80\x04", b"R", b"."),
    *(b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"ustar", b"\x89PNG", b"IHDR", b"\xff\xd8\xff"),
    *(b"=1+1", b"@x", b"\x1b[2J", b"{}", b"{0.__class__}", b"%s%n", b"\xe2\x80\xae"),
    *(struct.pack("<Q", 2**63 - 1), struct.pack(">I", 2**32 - 1), struct.pack("<I", 10**9)),
)
Change = Callable[[random.Random, bytes], bytes]


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _delete(rng: random.Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice((1, 4, 16, 64, 512))
    return data[:start] + data[start + length :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.choice((1, 4, 32))) + data[start:]


def _duplicate(rng: random.Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice((1, 8, 64, 512))
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[start : start + length] * rng.choice((1, 2, 50)) + data[at:]


def _token(rng: random.Random, data: bytes) -> bytes:
    start, token = rng.randrange(len(data) + 1), rng.choice(TOKENS)
    keep = rng.choice((0, len(token)))
    return data[:start] + token + data[start + keep :]


def _nest(rng: random.Random, data: bytes) -> bytes:
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b""), (b"(", b"")))
    depth, at = rng.choice((50, 2_000, 20_000)), rng.choice((0, rng.randrange(len(data) + 1)))
    return data[:at] + opening * depth + closing * depth + data[at:]


def _number(rng: random.Random, data: bytes) -> bytes:
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return _flip(rng, data)
    match = rng.choice(found)
    numbers = (b"0", b"-1", b"1000000000000", b"9" * 30, b"1.5", b"1e5", b"007", b"")
    return data[: match.start()] + rng.choice(numbers) + data[match.end() :]


def _lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.randrange(4)
    if how == 0:
        lines[one], lines[other] = lines[other], lines[one]
    elif how == 1:
        del lines[one]
    elif how == 2:
        lines.insert(other, lines[one])
    else:
        name = rng.choice(HOSTILE_NAMES).encode("utf-8", "surrogatepass")
        fields = re.split(rb"[,\t ]", lines[one])
        fields[rng.randrange(len(fields))] = name
        lines[one] = rng.choice((b",", b" ")).join(fields)
    return b"\n".join(lines)


PLAIN: tuple[Change, ...] = (
    *(_flip, _cut, _delete, _insert, _duplicate, _token, _token, _nest, _number, _lines),
)


def changed_tree(rng: random.Random, tree: Any) -> Any:
    """A parsed file with one to three nodes changed."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return rng.choice(VALUES)
        parent, key = rng.choice(places)
        how = rng.randrange(6)
        if how == 0:
            del parent[key]
        elif how == 1 and isinstance(parent, dict):
            name = rng.choice((*HOSTILE_NAMES, "role", "label", "trust_remote_code"))
            parent[name] = parent.pop(key)
        elif how == 2:
            other, place = rng.choice(places)
            # The node may have gone with an earlier change.
            has = place in other if isinstance(other, dict) else place < len(other)
            parent[key] = json.loads(json.dumps(other[place])) if has else None
        elif how == 3 and isinstance(parent, list):
            parent.insert(key, parent[key])
        elif how == 4 and isinstance(parent[key], str):
            parent[key] = rng.choice(HOSTILE_NAMES) + parent[key]
        else:
            parent[key] = rng.choice(VALUES)
    return tree


def _places(tree: Any) -> Any:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def _json(rng: random.Random, data: bytes) -> bytes:
    tree = changed_tree(rng, json.loads(data))
    return json.dumps(tree, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")


def _json_lines(rng: random.Random, data: bytes) -> bytes:
    rows = changed_tree(rng, [json.loads(line) for line in data.splitlines() if line.strip()])
    rows = rows if isinstance(rows, list) else [rows]
    return "\n".join(json.dumps(row) for row in rows).encode("utf-8", "surrogatepass")


def _yaml(rng: random.Random, data: bytes) -> bytes:
    import yaml

    tree = changed_tree(rng, yaml.safe_load(data))
    return yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _zip(rng: random.Random, data: bytes) -> bytes:
    """Members with other names, modes, sizes and contents, or bombs."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        names = source.namelist()
        chosen = rng.randrange(len(names))
        for number, name in enumerate(names):
            content, info = source.read(name), zipfile.ZipInfo(name)
            info.compress_type = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            if number == chosen:
                info, content = _changed_member(rng, info, content)
            if info.filename:
                target.writestr(info, content)
    return out.getvalue()


def _changed_member(
    rng: random.Random, info: zipfile.ZipInfo, content: bytes
) -> tuple[zipfile.ZipInfo, bytes]:
    how = rng.randrange(5)
    if how == 0:
        name = rng.choice(HOSTILE_NAMES).encode("utf-8", "replace").decode()
        info = zipfile.ZipInfo(name or "x")
        info.filename = name[:60_000] or "x"
    elif how == 1:
        info.create_system = 3
        info.external_attr = rng.choice((0o120777, 0o020666, 0o060666, 0o010666, 0o104777)) << 16
        content = rng.choice(HOSTILE_NAMES).encode("utf-8", "replace")
    elif how == 2 and rng.random() < 0.05:
        info.compress_type, content = zipfile.ZIP_DEFLATED, b"\0" * 40_000_000
    elif how == 3 and content:
        content = rng.choice(PLAIN)(rng, content)
    else:
        content = _npy(rng, content)
    return info, content


def _npy(rng: random.Random, content: bytes) -> bytes:
    """An array whose header says something else than what follows."""
    if not content.startswith(b"\x93NUMPY"):
        return content + b"x"
    length = struct.unpack("<H", content[8:10])[0]
    head, body = content[10 : 10 + length].decode("latin1"), content[10 + length :]
    kind = rng.choice(("'|O'", "'<f8'", "'<U1000000000'", "'|V99999999'", "'<M8[ns]'", "[('a',"))
    shape = rng.choice(("(1000000000000,)", "(0,)", "(-1, 2)", "()", "(2, 2, 2, 2)", "(1e9,)"))
    which = rng.randrange(4)
    if which == 0:
        head = re.sub(r"'descr': *[^,]+", f"'descr': {kind}", head)
    elif which == 1:
        head = re.sub(r"'shape': *\([^)]*\)", f"'shape': {shape}", head)
    elif which == 2:
        head = rng.choice(("__import__('os').system('touch x')", "{" * 500, "[" * 9000, "{}"))
    else:
        head = head.replace("False", "True")
    text = head.encode("latin1").ljust(length)
    return content[:8] + struct.pack("<H", len(text)) + text + body


def _tar(rng: random.Random, data: bytes) -> bytes:
    """Members with other names, kinds, sizes and link targets; or a header, its sum corrected."""
    if rng.random() < 0.5:
        return _tar_header(rng, data)
    out = io.BytesIO()
    form = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as source,
        tarfile.open(
            fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogatepass"
        ) as target,
    ):
        infos = source.getmembers()
        chosen = rng.randrange(len(infos))
        for number, info in enumerate(infos):
            file = source.extractfile(info) if info.isreg() else None
            content = file.read() if file else b""
            if number == chosen:
                content = _changed_tar_member(rng, info, content)
            target.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return out.getvalue()


def _changed_tar_member(rng: random.Random, info: tarfile.TarInfo, content: bytes) -> bytes:
    how = rng.randrange(4)
    if how == 0:
        info.name = rng.choice(HOSTILE_NAMES).replace("\0", "?")
    elif how == 1:
        kinds = (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"x", b"g", b"L", b"K")
        info.type, info.linkname = rng.choice(kinds), rng.choice(HOSTILE_NAMES).replace("\0", "?")
        info.size, content = 0, b""
    elif how == 2:
        pax = ("path", "size", "linkpath", "GNU.sparse.map", "GNU.sparse.size", "hdrcharset")
        info.pax_headers = {rng.choice(pax): str(rng.choice(VALUES)).replace("\0", "")}
    elif content:
        content = rng.choice(PLAIN)(rng, content)
        info.size = len(content)
    return content


def _tar_header(rng: random.Random, data: bytes) -> bytes:
    """One field of one header, with a sum that fits."""
    changed = bytearray(data)
    start = 512 * rng.randrange(max(1, len(data) // 512))
    fields = ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
    offset, width = rng.choice(fields)
    values = (
        b"77777777777\0",
        b"\x80" + b"\xff" * 11,
        b"-1\0",
        b"\xff" * 12,
        b"S",
        b"x",
        b"../x\0",
    )
    value = rng.choice(values)[:width]
    changed[start + offset : start + offset + len(value)] = value
    changed[start + 148 : start + 156] = b" " * 8
    total = sum(changed[start : start + 512])
    changed[start + 148 : start + 156] = f"{total:06o}\0 ".encode()
    return bytes(changed)


def _gzip(rng: random.Random, data: bytes) -> bytes:
    import gzip

    content = _tar(rng, gzip.decompress(data))
    if rng.random() < 0.01:
        content += b"\0" * 60_000_000
    return gzip.compress(content, 1)


def _safetensors(rng: random.Random, data: bytes) -> bytes:
    """Another head, its length corrected; or another length."""
    (length,) = struct.unpack("<Q", data[:8])
    if rng.random() < 0.2:
        return struct.pack("<Q", rng.choice((0, 2**63, length + 1, 10**9))) + data[8:]
    head = json.dumps(changed_tree(rng, json.loads(data[8 : 8 + length]))).encode()
    return struct.pack("<Q", len(head)) + head + data[8 + length :]


def _pickle(rng: random.Random, data: bytes) -> bytes:
    """Operations that name and call something, or change the stack, anywhere in it."""
    pieces = (
        *(b"cos\nsystem\n(S'touch x'\ntR", b"cbuiltins\neval\n(S'1'\ntR", b"\x93", b"R", b"b"),
        *(b"cposix\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"0", b"(", b"t", b"l", b"d", b"e"),
        *(b"q\x00", b"h\x00", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\xff", b"2" * 50, b"\x94" * 9),
        *(
            b"]" * 200,
            b"\x85" * 40,
            b"\x8a\xff" + b"\x7f" * 255,
            b"B\xff\xff\xff\x7f",
            b"(i",
            b"\x82\x01",
        ),
        *(
            b"c__main__\nx\n",
            b"Ppersid\n",
            b"\x81",
            b"\x92",
            b"o",
            b"\x97",
            b"\x98",
            b"\x96" + b"\xff" * 8,
        ),
    )
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(pieces) + data[at + rng.choice((0, 0, 1, 4)) :]


def _png(rng: random.Random, data: bytes) -> bytes:
    """A chunk with other content and a sum that fits."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    chosen = rng.randrange(len(chunks))
    kind, body = chunks[chosen]
    how = rng.randrange(4)
    if how == 0:
        side = rng.choice((0, 1, 60_000, 2**31 - 1))
        head = dict(chunks)[b"IHDR"]
        chunks[0] = (b"IHDR", struct.pack(">II", side, rng.choice((1, side))) + head[8:])
    elif how == 1 and body:
        chunks[chosen] = (kind, rng.choice(PLAIN)(rng, body))
    elif how == 2:
        kinds = (b"iCCP", b"zTXt", b"iTXt", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"eXIf", b"gAMA")
        content = (b"x\0\0" + zlib.compress(b"\0" * 1_000_000), b"", body, b"\xff" * 13)
        chunks.insert(chosen, (rng.choice(kinds), rng.choice(content)))
    else:
        chunks.insert(rng.randrange(len(chunks)), chunks.pop(chosen))
    return data[:8] + b"".join(
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks
    )


def _resealed(rng: random.Random, data: bytes) -> bytes:
    """A file of digests whose own digest fits what was changed."""
    body = rng.choice(PLAIN)(rng, data[:-32])
    return body + hashlib.sha256(body).digest()


def _pixels(rng: random.Random, data: bytes) -> bytes:
    """A file of decoded images whose description was changed and fits its digest."""
    tail = struct.Struct("<Q32s16s")
    length, _, magic = tail.unpack(data[-tail.size :])
    start = len(data) - tail.size - length
    line, _, digests = data[start : -tail.size].partition(b"\n")
    head = changed_tree(rng, json.loads(line))
    if rng.random() < 0.3:
        digests = rng.choice(PLAIN)(rng, digests)
    body = json.dumps(head).encode() + b"\n" + digests
    pixels = data[:start] if rng.random() < 0.8 else data[: start // 2]
    return pixels + body + tail.pack(len(body), hashlib.sha256(body).digest(), magic)


BY_KIND: dict[str, Change] = {
    "json": _json,
    "jsonl": _json_lines,
    "yaml": _yaml,
    "zip": _zip,
    "tar": _tar,
    "tar.gz": _gzip,
    "safetensors": _safetensors,
    "pickle": _pickle,
    "png": _png,
    "digests": _resealed,
    "pixels": _pixels,
}


def mutated(rng: random.Random, data: bytes, kind: str) -> bytes:
    """A changed file: half of the time as its format allows, else in its bytes."""
    change = BY_KIND.get(kind)
    if change is not None and rng.random() < 0.5:
        try:
            data = change(rng, data)
        except (ValueError, OSError, struct.error, tarfile.TarError, RecursionError):
            # A value that the format cannot write.
            data = _flip(rng, data)
        if rng.random() < 0.8:
            return data
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if data:
            data = rng.choice(PLAIN)(rng, data)
    return data
