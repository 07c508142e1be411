"""Bundles: results that travel, as one zip of a store's own files and a list of their digests.

`pack` writes one without what names the machine or its user (`store/private.py`); `unpack` takes
one apart after every member was checked, so that nothing is written of a bundle that is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import struct
import tempfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Literal

import msgspec
from msgspec import Meta

from fewshot_bench.api.own_methods import FACTS
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import IMPORTED
from fewshot_bench.api.split_file import coop_text
from fewshot_bench.splits.imported import path_of_import
from fewshot_bench.splits.published import Lists, compare_lists, published_splits
from fewshot_bench.store.answer_files import FILE, parse
from fewshot_bench.store.kept_code import copy_code
from fewshot_bench.store.kept_files import copy_files
from fewshot_bench.store.kept_methods import copy_method
from fewshot_bench.store.private import find_private, refuse, remove, texts_of, texts_of_file
from fewshot_bench.store.record_files import parse_record, read_content
from fewshot_bench.store.standing import LISTS
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import examine
from fewshot_bench.utils.errors import FsbenchError, StoreError, UsageError
from fewshot_bench.utils.files import (
    FULL,
    Damaged,
    open_regular,
    read_regular,
    whole,
    write_whole,
)
from fewshot_bench.utils.progress import over
from fewshot_bench.utils.text import leaves, plain_text, printable, size_text

FORMAT: Literal[1] = 1
MANIFEST = "bundle.json"
# With more, a zip needs other headers, which no bundle has.
MOST_MEMBERS = 65_000
# The most bytes of a text and of answers, unpacked, and of all members together.
LARGEST_TEXT, LARGEST_ANSWERS, LARGEST_TOTAL = 64 * 2**20, 2**28, 16 * 2**30
# The most that a member may expand, and the bytes up to which it may expand more.
RATIO, FLOOR = 120, 4 * 2**20
# No level of trust, and nothing that a page shows as another name.
SUBMITTER = re.compile(
    r"(?!.*  |(?i:printed|submitted|verified|re-run|unverified|reference)\Z)"
    r"[^\W_](?:[\w .+&'-]{0,78}[\w.])?"
)

_HEX = "[0-9a-f]"
_PLACE = re.compile(
    rf"records/({_HEX}{{2}})/(\1{_HEX}{{62}})\.(json|npz)"
    # Deeper folders would cost memory: each of them is looked at.
    rf"|methods/{_HEX}{{16}}/(?:[^/]+/){{0,15}}[^/]+"
    rf"|code/{_HEX}{{64}}\.json|files/{_HEX}{{16}}/[^/]+|{LISTS}/[^/]+\.json"
    r"|splits/[^/]+/shot_\w+-seed_\d+\.json"
)
_RECORD = re.compile(r"records/../(.{64})\.json")
# Names that Windows refuses, or reads as a device, and names that hide.
_RESERVED = re.compile(
    r"(?:con(?:in\$|out\$)?|prn|aux|nul|(?:com|lpt)[\d¹²³])(?:\..*)?|\..*|.*[. ]|.*[<>:\"|?*\\].*",
    re.IGNORECASE,
)
_SCRIPT = re.compile(r"<\s*[A-Za-z/!?]")
_END = struct.Struct("<4s4H2IH")


class BundleError(StoreError):
    """A file that is no bundle, or one that must not be used; the text says why."""

    exit_code = 2


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `bundle.json`. signature: lines; members: SHA-256 of every other member."""

    format: Literal[1]
    submitter: Annotated[str, Meta(pattern=rf"\A{SUBMITTER.pattern}\Z")]
    signature: list[str]
    members: dict[str, Annotated[str, Meta(pattern=rf"\A{_HEX}{{64}}\Z")]]


def is_bundle(path: Path) -> bool:
    """True for a file that is a zip, which `unpack` accepts or refuses."""
    try:
        with open_regular(path) as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an unpacked bundle; None for a folder that is none."""
    with suppress(OSError, Damaged):
        return _parse_manifest(read_regular(folder / MANIFEST))
    return None


def pack(
    store: Store,
    records: Sequence[Record],
    output: Path,
    *,
    submitter: str,
    sign: Callable[[Sequence[Record]], str] | None = None,
    own_images: bool = False,
) -> list[Record]:
    """Write finished cells of a store into a bundle; equal cells give equal bytes.

    sign: gives the line that describes records, as they are in the bundle. own_images: take cells
    of own images, too, whose names are in it. Returns the records as they are in the bundle.
    UsageError for own images without that, and for a submitter that is no name; StoreError for a
    cell that `fsbench store verify` would name, and for a text that names the machine or its user
    and is needed as it is.
    """
    if not SUBMITTER.fullmatch(submitter):
        raise UsageError(
            f"submitter '{printable(submitter, 80)}': expected a name of at most 80 letters, "
            "digits and . + - & ' that is no level (--submitter NAME)"
        )
    own = {n for r in records for n in (r.spec.dataset, r.spec.target) if ":" in n}
    if own and not own_images:
        raise UsageError(
            f"'{printable(min(own), 200)}' is of own images, whose file names would be in the "
            "bundle: add --own-images to include them, or leave these cells out with --dataset"
        )
    packed, digests = list[Record](), dict[str, str]()
    with tempfile.TemporaryDirectory() as scratch, _write(output) as archive:
        for name, content in _list_members(store, records, Path(scratch), packed):
            if name in digests:
                raise UsageError(
                    f"two folders of own images have one name ({name}): choose one with --dataset"
                )
            digests[name] = hashlib.sha256(content).hexdigest()
            _add(archive, name, content)
        packed.sort(key=lambda record: record.spec.key())
        manifest = Manifest(FORMAT, submitter, [sign(packed)] if sign else [], digests)
        _add(archive, MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    return packed


@contextmanager
def _write(output: Path) -> Iterator[zipfile.ZipFile]:
    """A zip that appears once it is whole and passes the checks of a reader."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole(output) as temporary:
            with zipfile.ZipFile(temporary, "x", allowZip64=False) as archive:
                yield archive
            with _open(temporary, output):
                pass
    except (zipfile.LargeZipFile, struct.error):
        raise UsageError(
            f"the bundle would have more than 4 GB or {MOST_MEMBERS:,} files: choose fewer cells"
        ) from None
    except OSError as error:
        parts = f", or its parts in '{tempfile.gettempdir()}'" if error.errno in FULL else ""
        raise StoreError(
            f"cannot write '{output}'{parts}: {error.strerror or error}; make room, or choose "
            "another file with --output"
        ) from error


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    # Answers are compressed already; files of methods may be of any kind.
    packs = name.endswith((".json", ".py"))
    info.compress_type = zipfile.ZIP_DEFLATED if packs else zipfile.ZIP_STORED
    archive.writestr(info, content)


def _list_members(
    store: Store, records: Sequence[Record], scratch: Path, packed: list[Record]
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the members of a bundle, checked for what is private.

    scratch: an empty folder for a while. packed: gets the records as they are packed.
    """
    private, seen = find_private(store.path), set[bytes]()
    for record in records:
        spec = record.spec
        copy_method(store.path, spec, scratch)
        copy_code(store.path, record, scratch)
        copy_files(store.path, spec.files, scratch)
        picks = path_of_import(store.path, spec.dataset, spec.shots, spec.split_seed)
        if spec.protocol == IMPORTED and picks.is_file():
            write_whole(scratch / picks.relative_to(store.path), read_regular(picks))
    used = {name for record in records for name in (record.spec.dataset, record.spec.target)}
    for name in used & published_splits().keys():
        with suppress(FsbenchError):
            pools = registry().dataset(name).items()
            published = compare_lists(pools, name) in (Lists.EQUAL, Lists.RENAMED)
            if published and len(lists := coop_text(pools).encode()) <= LARGEST_TEXT:
                write_whole(scratch / LISTS / f"{name}.json", lists)
    others = sorted(p.relative_to(scratch).as_posix() for p in scratch.rglob("*") if p.is_file())
    for name in others:
        content = read_regular(scratch / name)
        refuse(private, name, texts_of_file(content))
        yield name, content
    for key in over(sorted(record.spec.key() for record in records), "cells"):
        path = store.file(key)
        cell = examine(path)
        if cell.problems or cell.record.status != "done" or cell.stored is None:
            raise StoreError(
                f"cell {key[:12]} cannot be submitted: {'; '.join(cell.problems) or 'not done'} "
                "(fsbench store verify says what to do)"
            )
        record, text = remove(private, cell.record, read_content(path))
        packed.append(record)
        name = f"records/{record.spec.key()[:2]}/{record.spec.key()}"
        if cell.stored.names not in seen:
            refuse(private, f"{name}.npz (names of queries)", cell.stored.ids)
            seen.add(cell.stored.names)
        yield f"{name}.json", text
        yield f"{name}.npz", read_regular(path.with_suffix(".npz"), LARGEST_ANSWERS)


def unpack(path: Path, folder: Path) -> Store:
    """Unpack a bundle into a new folder: a store, and its `bundle.json`.

    BundleError for a file that is none or that is not what it says; nothing is written then, not
    even the folder. Nothing of a bundle is run or imported.
    """
    if folder.exists():
        raise StoreError(f"'{folder}' is there already: expected a new folder")
    with _open(path, path) as (archive, manifest):
        try:
            for name, content in _read_members(archive, manifest):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, Exception):
                raise StoreError(
                    f"cannot unpack '{path}' into '{folder.parent}': "
                    f"{getattr(error, 'strerror', '') or error}; make room there, or set TMPDIR"
                ) from error
            raise
    return Store(folder)


@contextmanager
def _open(path: Path, shown: Path) -> Iterator[tuple[zipfile.ZipFile, Manifest]]:
    """A bundle that passed all checks, and its manifest; BundleError for any other file.

    shown: its name in messages.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_regular(path))
            start = _find_list(file)
            archive = zipfile.ZipFile(file)
            _check_members(file, archive.infolist(), start)
            manifest = _parse_manifest(_read(archive, archive.infolist()[-1]))
            if odd := {*manifest.members} ^ {*archive.namelist()[:-1]}:
                raise Damaged(f"its list of members and its members differ in {min(odd)}")
            _check_contents(archive, manifest)
        except Exception as error:
            told = " ".join(str(getattr(error, "strerror", "") or error).split())
            raise BundleError(
                f"'{printable(str(shown), 200)}' is not a usable bundle: "
                f"{printable(told, 300) or type(error).__name__}; expected one as fsbench submit "
                "writes it"
            ) from None
        yield archive, manifest


def _find_list(file: IO[bytes]) -> int:
    """Offset of the list of members, which must fill the file from there to its end."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size))
    mark, *_, length, start, comment = _END.unpack(file.read(_END.size).ljust(_END.size))
    if mark != b"PK\x05\x06" or comment or start + length + _END.size != size:
        raise Damaged("it is no zip, or has bytes before or after its members and their list")
    if length > LARGEST_TEXT:
        raise Damaged(f"the list of its members has {size_text(length)}")
    return int(start)


def _check_members(file: IO[bytes], infos: Sequence[zipfile.ZipInfo], start: int) -> None:
    """Damaged for a zip that hides anything, or whose members cannot all be on every disk.

    Members must follow each other without gaps, each with the same words in both of its headers,
    up to the start of their list; the last is `bundle.json`.
    """
    if not infos or infos[-1].filename != MANIFEST or len(infos) > MOST_MEMBERS + 1:
        raise Damaged(f"its last member is not {MANIFEST}, or it has more than {MOST_MEMBERS:,}")
    place = 0
    for info in infos:
        shown = f"member {info.orig_filename[:120]!a}"
        if problem := _find_problem(info):
            raise Damaged(f"{shown} {problem}")
        file.seek(place)
        head = info.FileHeader(zip64=False)
        if info.header_offset != place or file.read(len(head)) != head:
            raise Damaged(f"{shown} is not where the list says, or says something else of itself")
        place = file.tell() + info.compress_size
    if place != start:
        raise Damaged("it has bytes between its members and their list")
    total = sum(info.file_size for info in infos)
    if total > LARGEST_TOTAL:
        raise Damaged(f"it unpacks to {size_text(total)}, more than {size_text(LARGEST_TOTAL)}")
    names = [info.filename for info in infos]
    folders = {folder for name in names for folder in map(str, PurePosixPath(name).parents)}
    same = Counter(unicodedata.normalize("NFKC", p).casefold() for p in (*names, *folders))
    path, count = same.most_common(1)[0]
    if count > 1:
        raise Damaged(f"member {path!a} is there twice, or as another that some disks take for it")


def _find_problem(info: zipfile.ZipInfo) -> str:
    """The problem of a member by its name and its header; empty if it may be in a bundle."""
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    most = LARGEST_ANSWERS if name.endswith(".npz") else LARGEST_TEXT
    problems = {
        "has control characters, or an uncommon form of Unicode": not plain_text(name)
        or name != unicodedata.normalize("NFC", name),
        "leads out of its folder, or is no name on every disk": leaves(name)
        or any(not part or _RESERVED.fullmatch(part) for part in name.split("/")),
        "is too long": len(name.encode()) > 400,
        "is no part of a store": name != MANIFEST and not _PLACE.fullmatch(name),
        "is encrypted, or packed as no bundle is": info.flag_bits & ~0x800
        or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
        "is a link, a device, or has more than a plain file": kind not in (0, stat.S_IFREG)
        or info.extra
        or info.comment,
        f"unpacks to {size_text(info.file_size)}, too much for what it has": info.file_size
        > min(most, max(FLOOR, RATIO * info.compress_size)),
    }
    return next((problem for problem, found in problems.items() if found), "")


def _parse_manifest(content: bytes) -> Manifest:
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Damaged(
            f"its {MANIFEST} is none of format {FORMAT}, which this version of fewshot_bench reads "
            f"(upgrade it for a later one): {error}"
        ) from None
    _check_texts(MANIFEST, [manifest.submitter, *manifest.signature])
    return manifest


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The content of a member; Damaged unless it has the stated size."""
    with archive.open(info) as member:
        content = member.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise Damaged(f"member {info.filename} has another size than it states")
    return content


def _read_members(archive: zipfile.ZipFile, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    """Every member with its content, which has the digest of the manifest."""
    for info in over(archive.infolist(), "members"):
        content = _read(archive, info)
        digest = manifest.members.get(info.filename)
        if info.filename != MANIFEST and hashlib.sha256(content).hexdigest() != digest:
            raise Damaged(f"member {info.filename} has not the digest that {MANIFEST} states")
        yield info.filename, content


def _check_contents(archive: zipfile.ZipFile, manifest: Manifest) -> None:
    """Damaged unless every member holds what its place says, and belongs to what it stands for."""
    answers = {name: d for name, d in manifest.members.items() if name.endswith(".npz")}
    ids, picks = set[bytes](), {n for n in manifest.members if n.startswith("splits/")}
    for name, content in _read_members(archive, manifest):
        if name.endswith(".npz"):
            most = max(LARGEST_TEXT, RATIO * len(content))
            names = parse(content, min(most, LARGEST_ANSWERS), kept=False)["names"].tobytes()
            digest = hashlib.sha256(names).digest()
            if digest not in ids:
                _check_texts(name, texts_of(msgspec.json.decode(names)))
                ids.add(digest)
        elif match := _RECORD.fullmatch(name):
            record = parse_record(name, content)
            stated = answers.pop(f"{name.removesuffix('.json')}.npz", None)
            if record.spec.key() != match[1] or record.status != "done":
                raise Damaged(f"{name} is not a finished cell with this key")
            if stated is None or record.digests.get(FILE) != stated:
                raise Damaged(f"the answers of {name} are not there, or not those it states")
            spec = record.spec
            if spec.protocol == IMPORTED:
                own = path_of_import(Path(), spec.dataset, spec.shots, spec.split_seed)
                picks.discard(own.as_posix())
            strict = (spec.to_dict(), record.split, record.metrics, record.footprint)
            _check_texts(name, texts_of(strict))
            _check_texts(name, texts_of(record.to_dict()), scripts=False)
        elif name.endswith(FACTS) or name.startswith((LISTS, "splits", "code")):
            # Deep or damaged JSON would only be found when it is used.
            msgspec.json.decode(content)
    if picks:
        raise Damaged(f"{min(picks)} has the picks of no cell")
    if answers or not any(map(_RECORD.fullmatch, manifest.members)):
        raise Damaged("it has answers without a record, or no record at all")


def _check_texts(where: str, texts: Iterable[str], *, scripts: bool = True) -> None:
    """Damaged for a text that could command a terminal or, in a name, a browser."""
    for text in texts:
        if not plain_text(text.replace("\n", "").replace("\t", "")):
            raise Damaged(f"{where} holds control characters: {text[:60]!a}")
        if scripts and _SCRIPT.search(text):
            raise Damaged(f"{where} holds what a browser may run: {text[:60]!a}")
