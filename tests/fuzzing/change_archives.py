"""Changes to archives: zip files and the arrays in them, tar files."""

from __future__ import annotations

import io
import random
import re
import struct
import tarfile
import zipfile

from tests.fuzzing.change_bytes import PLAIN
from tests.fuzzing.hostile import HOSTILE_NAMES, VALUES


def changed_zip(rng: random.Random, data: bytes) -> bytes:
    """Change the names, modes, sizes and contents of zip members, or add zip bombs."""
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
    """Change an array's header so that it contradicts its content."""
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


def changed_tar(rng: random.Random, data: bytes) -> bytes:
    """Change names, kinds, sizes and link targets of tar members; or a header and its checksum."""
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
    """Change one field of one header, and recompute its checksum."""
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


def changed_gzip(rng: random.Random, data: bytes) -> bytes:
    """Change the content of a compressed tar file, or append content that expands greatly."""
    import gzip

    content = changed_tar(rng, gzip.decompress(data))
    if rng.random() < 0.01:
        content += b"\0" * 60_000_000
    return gzip.compress(content, 1)
