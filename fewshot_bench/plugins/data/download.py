"""Downloads that can be broken off at any moment: several sources, resumption, checked content."""

from __future__ import annotations

import http.client
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from fewshot_bench.api.recipe import RemoteFile
from fewshot_bench.plugins.data.digests import CHUNK, difference
from fewshot_bench.plugins.data.extract import MAX_UNPACKED
from fewshot_bench.plugins.data.free_space import ROOM_STEP, StopError, refuse_full, refuse_no_room
from fewshot_bench.plugins.data.http import (
    SourceError,
    TemporaryError,
    ask,
    backoff_seconds,
    direct,
    of_failure,
    printable,
)
from fewshot_bench.plugins.data.partial import Origin, Part, size_of
from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.files import FULL
from fewshot_bench.utils.text import size_text

ATTEMPTS = 4
# An attempt that brought this many bytes does not count as failed.
PROGRESS_BYTES = 2**20
PARTIAL = 206
RANGE_REFUSED = 416
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_HTML = re.compile(rb"\s*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)


class Progress(Protocol):
    """Hears how far something is."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Something of `total` bytes (0: not known) begins, `done` of which are there."""

    def advance(self, count: int) -> None:
        """So many bytes more."""

    def say(self, line: str) -> None:
        """A line that stays."""


def fetch(file: RemoteFile, target: Path, progress: Progress, most: int = 0) -> str:
    """Download `file` to `target`, from the first source that gives it; returns the source.

    most: bytes above which nothing is downloaded (StopError); 0 for no bound. `progress` is told
    what was wrong with a source before the next one is tried; DataMissingError says it of the last.
    What came before a failure is kept for the next call.
    """
    if offline.is_on():
        raise StopError(
            f"{file.name} is not here, and --offline allows no download: run again without it, or "
            f"put the file to {target}"
        )
    part = Part.of(target)
    problem = "no source is known"
    _refuse_large(file, file.size, most)
    sources = _begun_first(file.urls, part.origin())
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


def _begun_first(urls: tuple[str, ...], origin: Origin | None) -> list[str]:
    return sorted(urls, key=lambda url: origin is None or origin.url != url)


def _check(file: RemoteFile, part: Part, progress: Progress) -> None:
    if file.digests:
        progress.begin(f"{file.name} (checking)", part.bytes.stat().st_size)
    problem = difference(file, part.bytes, progress.advance)
    if problem:
        part.drop()
        raise SourceError(f"{file.name} from here is another file, and was removed: {problem}")


def _from_source(file: RemoteFile, url: str, part: Part, progress: Progress, most: int) -> None:
    """Bring the part to its full size, with new attempts after temporary failures."""
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
    """One request, for the rest where a part of the same version is there."""
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
            raise SourceError(f"it came encoded as {printable(encoding[:40])}, which was not asked")
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
    """Bytes that a file of unknown size may have: an archive is no larger than what it holds."""
    return (file.max_unpacked if file.unpack else 0) or MAX_UNPACKED


def _continues(response: Any, origin: Origin, have: int) -> bool:
    """Whether the answer is the rest of what is there: same place, same size, same version."""
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
    """Append what comes; SourceError where it is more than `bound` bytes (0: any number).

    sized: whether there was room for all of it when it began; else the disk is watched.
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
    """The error for a file that cannot be written to the end; what is there is kept."""
    if error.errno in FULL:
        return StopError(
            f"{file.name}: the disk is full ({path.parent}): {size_of(path):,} bytes are kept; "
            "make room, then run the same command again"
        )
    return StopError(f"{file.name} cannot be written to {path.parent}: {error.strerror or error}")


def source_host(url: str) -> str:
    """The machine that a source is on."""
    return urlsplit(direct(url)).hostname or url
