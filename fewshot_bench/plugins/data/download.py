"""Resumable downloads, checked before they are used.

`fetch` downloads one file from the first source that delivers it. Partial bytes are stored beside a
note of the version that they belong to; known digests are always compared.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from fewshot_bench.api.dataset import RemoteFile
from fewshot_bench.plugins.data.extract import MAX_UNPACKED
from fewshot_bench.plugins.data.http import (
    SourceError,
    TemporaryError,
    ask,
    backoff_seconds,
    direct,
    of_failure,
)
from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.files import FULL, write_whole
from fewshot_bench.utils.text import one_line, size_text

# Bytes that a download of unknown size leaves free on the disk; checked every ROOM_STEP bytes.
KEPT_FREE, ROOM_STEP = 10**9, 64 * 2**20
CHUNK = 2**20
TITLES = {"sha256": "SHA-256", "md5": "MD5"}
ATTEMPTS = 4
# An attempt that fetched this many bytes restarts the count of failures.
PROGRESS_BYTES = 2**20
PARTIAL = 206
RANGE_REFUSED = 416
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_HTML = re.compile(rb"\s*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Origin:
    """The version of a file that a partial download belongs to."""

    url: str
    etag: str
    modified: str
    size: int

    @property
    def validator(self) -> str:
        """Value for `If-Range`: a strong entity tag, or the modification time."""
        strong = self.etag if self.etag.startswith('"') else ""
        return strong or self.modified


@dataclass(frozen=True, slots=True)
class Part:
    """A partial download: `NAME.part` with its bytes and `NAME.part.json` with its origin."""

    bytes: Path
    about: Path

    @classmethod
    def of(cls, target: Path) -> Part:
        """The partial download of `target`."""
        return cls(
            target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")
        )

    def origin(self) -> Origin | None:
        """Origin of the partial bytes; None if there are none or their origin is not known."""
        try:
            content = json.loads(self.about.read_text("utf-8"))
            origin = Origin(**content)
            kinds = [type(value) for value in asdict(origin).values()]
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        known = kinds == [str, str, str, int]
        there = self.bytes.is_file() and not self.bytes.is_symlink()
        return origin if known and there else None

    def start(self, origin: Origin) -> None:
        """Drop the old bytes, and record the origin of the new ones."""
        self.drop()
        write_whole(self.about, json.dumps(asdict(origin)).encode())
        self.bytes.touch()

    def finish(self, target: Path) -> None:
        """Move the finished bytes to `target`, with the note of their source beside it."""
        self.about.replace(note_of(target))
        self.bytes.replace(target)

    def drop(self) -> None:
        """Remove both files."""
        self.bytes.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)


def note_of(target: Path) -> Path:
    """Path of the note of a finished download's source; files put there by hand have no note."""
    return target.with_name(f"{target.name}.source.json")


def source_of(target: Path) -> str:
    """The source that a finished download came from; empty when it was put there by hand."""
    try:
        return str(json.loads(note_of(target).read_text("utf-8"))["url"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class StopError(DataMissingError):
    """Another source would not help: the disk is full, or the user has to agree first."""


def refuse_full(file: RemoteFile, part: Part, size: int, have: int) -> None:
    """Raise StopError unless the disk has room for the rest of the file and its unpacked members.

    Image archives are assumed to unpack to about their own size.
    """
    folder = part.bytes.parent
    folder.mkdir(parents=True, exist_ok=True)
    needed = size - have + (size if file.unpack else 0)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StopError(
            f"{file.name} needs {size_text(needed)} in {folder} and {size_text(free)} are free: "
            "make room, or choose another disk with --root"
        )


def refuse_no_room(file: RemoteFile, part: Part) -> None:
    """Raise StopError if less than KEPT_FREE bytes are free; the partial download is kept."""
    folder = part.bytes.parent
    free = shutil.disk_usage(folder).free
    if free < KEPT_FREE:
        raise StopError(
            f"{file.name}: {size_text(free)} are free in {folder}, and {size_text(KEPT_FREE)} are "
            f"left alone: {size_of(part.bytes):,} bytes are kept; make room, then run the same "
            "command again"
        )


def _ignore(count: int) -> None:
    """Ignore progress."""


def digests_of(
    path: Path, algorithms: Mapping[str, str], advance: Callable[[int], None] = _ignore
) -> dict[str, str]:
    """Digests of a file, keyed by algorithm; `advance` gets the size of each chunk read."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for value in hashes.values():
                value.update(chunk)
            advance(len(chunk))
    return {name: value.hexdigest() for name, value in hashes.items()}


def difference(
    file: RemoteFile, path: Path, advance: Callable[[int], None] = _ignore
) -> str | None:
    """Describe how a file differs from its known size or digests; None if it does not."""
    size = path.stat().st_size
    if file.size and size != file.size:
        return f"it has {size:,} bytes, expected {file.size:,}"
    found = digests_of(path, file.digests, advance)
    for name, expected in file.digests.items():
        if found[name] != expected:
            return f"its {TITLES[name]} is {found[name]}, expected {expected}"
    return None


def verified_as(file: RemoteFile) -> str:
    """Text on the digests that a file without `difference` was compared with."""
    return f"{known_digests(file)} as expected" if file.digests else known_digests(file)


def known_digests(file: RemoteFile) -> str:
    """The known digests, in words."""
    titles = [TITLES[name] for name in file.digests]
    return " and ".join(titles) or "not verified: no digest is known"


class Progress(Protocol):
    """Receiver of progress reports."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Start a task of `total` bytes (0: unknown), `done` of which are already present."""

    def advance(self, count: int) -> None:
        """Add `count` bytes to the current task."""

    def say(self, line: str) -> None:
        """Print a line that stays visible."""


def fetch(file: RemoteFile, target: Path, progress: Progress, most: int = 0) -> str:
    """Download `file` to `target` from the first source that delivers it; returns the source.

    most: bytes above which nothing is downloaded (StopError); 0 for no bound. `progress` reports
    why a source failed before the next one is tried; DataMissingError has the reason of the last.
    Bytes fetched before an interruption are kept for the next call.
    """
    if offline.is_on():
        raise StopError(
            f"{file.name} is not here, and --offline allows no download: run again without it, or "
            f"put the file to {target}"
        )
    part = Part.of(target)
    problem = "no source is known"
    _refuse_large(file, file.size, most)
    origin = part.origin()
    # The source of a begun download comes first.
    sources = sorted(file.urls, key=lambda url: origin is None or origin.url != url)
    for url in sources:
        try:
            _from_source(file, url, part, progress, most)
            _check(file, part, progress)
        except SourceError as error:
            problem = f"{url}: {error}"
            if url != sources[-1]:
                progress.say(f"{file.name}: {url}: {error}; next source")
        else:
            with part.bytes.open("r+b") as done:
                os.fsync(done.fileno())
            part.finish(target)
            return url
    rest = f" ({len(sources)} sources were tried)" if len(sources) > 1 else ""
    raise DataMissingError(f"{file.name} cannot be downloaded: {problem}{rest}")


def _check(file: RemoteFile, part: Part, progress: Progress) -> None:
    if file.digests:
        progress.begin(f"{file.name} (checking)", part.bytes.stat().st_size)
    problem = difference(file, part.bytes, progress.advance)
    if problem:
        part.drop()
        raise SourceError(f"{file.name} from here is another file, and was removed: {problem}")


def _from_source(file: RemoteFile, url: str, part: Part, progress: Progress, most: int) -> None:
    """Complete the partial download, retrying with backoff after temporary failures."""
    failures = 0
    while True:
        before = size_of(part.bytes)
        try:
            _attempt(file, url, part, progress, most)
        except TemporaryError as error:
            failures = 1 if size_of(part.bytes) - before >= PROGRESS_BYTES else failures + 1
            if failures >= ATTEMPTS:
                raise SourceError(f"{error}, after {failures} attempts") from None
            wait = max(backoff_seconds() * 2 ** (failures - 1), error.wait)
            progress.say(f"{file.name}: {error}; next attempt in {wait:g} s")
            time.sleep(wait)
        else:
            return


def _attempt(file: RemoteFile, url: str, part: Part, progress: Progress, most: int) -> None:
    """Send one request, for the remaining bytes if a part of the same version exists."""
    origin = part.origin()
    have = size_of(part.bytes) if origin is not None and origin.url == url else 0
    if origin is None or not 0 < have <= origin.size or not (origin.validator or file.digests):
        origin, have = None, 0
    if origin is not None and have == origin.size:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    if origin is not None and origin.validator:
        headers["If-Range"] = origin.validator
    try:
        response = ask(direct(url), headers, digest_known=bool(file.digests))
    except TemporaryError:
        raise
    except SourceError as error:
        if error.status == RANGE_REFUSED:
            part.drop()
            raise TemporaryError("the rest of a broken download is refused") from None
        raise
    with response:
        if origin is None or not _continues(response, origin, have):
            if response.status == PARTIAL:
                part.drop()
            origin, have = _origin(response, url), 0
        encoding = str(response.headers.get("Content-Encoding") or "identity").lower()
        if encoding != "identity":
            raise SourceError(f"it came encoded as {one_line(encoding[:40])}, which was not asked")
        chunks = _chunks(response)
        first = next(chunks, b"")
        if not have:
            _refuse_html(file, response, first)
        _refuse_size(file, origin, have, most)
        refuse_full(file, part, origin.size, have)
        if not have:
            _start(file, part, origin)
        progress.begin(file.name, origin.size, have)
        bound = origin.size or file.size or _expected_most(file)
        bound = min(bound, have + most) if most and not origin.size and not file.size else bound
        _write(file, part, first, chunks, progress, bound, sized=bool(origin.size))
    got = size_of(part.bytes)
    if not got:
        raise SourceError("the answer is empty")
    if origin.size and got != origin.size:
        if got > origin.size:
            part.drop()
        raise TemporaryError(f"the connection was cut after {got:,} of {origin.size:,} bytes")


def _expected_most(file: RemoteFile) -> int:
    """Size limit for a file of unknown size: an archive is no larger than its members."""
    return (file.max_unpacked if file.unpack else 0) or MAX_UNPACKED


def _continues(response: Any, origin: Origin, have: int) -> bool:
    """True if the response continues the partial download: same offset, size and version."""
    headers = response.headers
    for name, before in (("ETag", origin.etag), ("Last-Modified", origin.modified)):
        if before and str(headers.get(name) or before) != before:
            return False
    match = _RANGE.fullmatch(str(response.headers.get("Content-Range") or ""))
    return (
        response.status == PARTIAL
        and match is not None
        and (int(match.group(1)), int(match.group(2))) == (have, origin.size)
    )


def _origin(response: Any, url: str) -> Origin:
    if response.status != 200:
        raise TemporaryError(f"HTTP {response.status}, expected the whole file")
    length = str(response.headers.get("Content-Length") or "")
    return Origin(
        url,
        str(response.headers.get("ETag") or ""),
        str(response.headers.get("Last-Modified") or ""),
        int(length) if length.isascii() and length.isdigit() else 0,
    )


def _refuse_size(file: RemoteFile, origin: Origin, have: int, most: int) -> None:
    if file.size and origin.size and origin.size != file.size:
        raise SourceError(f"it is another file: {origin.size:,} bytes, expected {file.size:,}")
    _refuse_large(file, origin.size - have, most)


def _refuse_large(file: RemoteFile, size: int, most: int) -> None:
    if most and size > most:
        raise StopError(f"{file.name} is {size_text(size)}: to download it, run again with --yes")


def _refuse_html(file: RemoteFile, response: Any, first: bytes) -> None:
    kind = str(response.headers.get("Content-Type") or "").lower()
    wanted = file.name.lower().endswith((".html", ".htm"))
    if not wanted and (_HTML.match(first) or kind.startswith("text/html")):
        raise SourceError(
            f"an HTML page came in place of {file.name} (a login, quota or error page)"
        )


def _chunks(response: Any) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise of_failure(error) from None
        if not chunk:
            return
        yield chunk


def _start(file: RemoteFile, part: Part, origin: Origin) -> None:
    try:
        part.start(origin)
    except OSError as error:
        raise cannot_write(file, part.bytes, error) from None


def _write(
    file: RemoteFile,
    part: Part,
    first: bytes,
    chunks: Iterator[bytes],
    progress: Progress,
    bound: int,
    *,
    sized: bool,
) -> None:
    """Append the chunks; SourceError if the file exceeds `bound` bytes (0: no bound).

    sized: the size is known, and room for it was checked; else free space is checked on the way.
    """
    written = size_of(part.bytes)
    checked = ROOM_STEP
    with part.bytes.open("ab", buffering=0) as out:
        chunk = first
        while chunk:
            written += len(chunk)
            if bound and written > bound:
                part.drop()
                raise SourceError(f"it is another file: it goes on after {bound:,} bytes")
            view = memoryview(chunk)
            while view:
                try:
                    view = view[out.write(view) :]
                except OSError as error:
                    raise cannot_write(file, part.bytes, error) from None
            progress.advance(len(chunk))
            chunk = next(chunks, b"")
            checked += len(chunk)
            if checked >= ROOM_STEP and not sized:
                refuse_no_room(file, part)
                checked = 0


def cannot_write(file: RemoteFile, path: Path, error: OSError) -> StopError:
    """The error for a file that cannot be written; the bytes already written are kept."""
    if error.errno in FULL:
        return StopError(
            f"{file.name}: the disk is full ({path.parent}): {size_of(path):,} bytes are kept; "
            "make room, then run the same command again"
        )
    return StopError(f"{file.name} cannot be written to {path.parent}: {error.strerror or error}")


def source_host(url: str) -> str:
    """Host name of a source."""
    return urlsplit(direct(url)).hostname or url
