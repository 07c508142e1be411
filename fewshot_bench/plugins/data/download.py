"""Resumable downloads, checked before they are used.

`Download.run` gets one file from the first source that delivers it. Partial bytes lie beside a
note of the version that they belong to; known digests are always compared.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import msgspec

from fewshot_bench.api.dataset import RemoteFile
from fewshot_bench.plugins.data.extract import CHUNK, MAX_UNPACKED, MB, write_fully
from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.files import FULL, write_whole
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import one_line, size_text
from fewshot_bench.utils.version import __version__

if TYPE_CHECKING:
    import httpx

TIMEOUT, BACKOFF = "FSBENCH_HTTP_TIMEOUT", "FSBENCH_HTTP_BACKOFF"
SECONDS = {TIMEOUT: 30.0, BACKOFF: 1.0}
"""Default seconds until a silent server is given up, and before the first retry."""
MAX_REDIRECTS = 10
TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
HEADERS = {"User-Agent": f"fewshot-bench/{__version__}", "Accept-Encoding": "identity"}
# Bytes that a download of unknown size leaves free on the disk; checked every ROOM_STEP bytes.
KEPT_FREE, ROOM_STEP = 10**9, 64 * 2**20
TITLES = {"sha256": "SHA-256", "md5": "MD5"}
ATTEMPTS = 4
# An attempt that fetched this many bytes restarts the count of failures.
PROGRESS_BYTES = 2**20
# Smaller files are there before a line about their start could be read.
WORTH_A_LINE = 10**7
PARTIAL, RANGE_REFUSED = 206, 416
_DRIVE = re.compile(r"https://drive\.google\.com/(?:file/d/|open\?id=|uc\?(?:.*&)?id=)([\w-]+)")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_HTML = re.compile(rb"\s*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)


class SourceError(Exception):
    """A source does not deliver the file; the next one may."""


class TemporaryError(SourceError):
    """A source cannot deliver the file now; `wait`: seconds from its Retry-After, or 0."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class StopError(DataMissingError):
    """Another source would not help: the disk is full, or the user has to agree first."""


def seconds_of(variable: str) -> float:
    """Seconds in an environment variable of `SECONDS`, or its default."""
    text = os.environ.get(variable) or str(SECONDS[variable])
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86400:
        raise UsageError(f"{variable}={text}: expected a number of seconds above 0, such as 30")
    return seconds


def direct(url: str) -> str:
    """Download address of the file if `url` is a Google Drive page, else `url`."""
    match = _DRIVE.match(url)
    if match is None:
        return url
    host = "https://drive.usercontent.google.com"
    return f"{host}/download?id={match.group(1)}&export=download&confirm=t"


def source_host(url: str) -> str:
    """Host name of a source."""
    return urlsplit(direct(url)).hostname or url


def check_address(url: str, came_from: str, *, digest_known: bool) -> None:
    """Raise SourceError unless `url` is http(s) and does not downgrade from https to http.

    The downgrade is allowed if a digest is known, since the content is checked then.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SourceError(f"the address {url[:200]!r} is refused: expected http:// or https://")
    secure = urlsplit(came_from).scheme == "https"
    if secure and parts.scheme == "http" and not digest_known:
        raise SourceError(
            f"it redirects from https to {one_line(url[:200])}, which is refused where no digest "
            "of the file is known"
        )


@contextmanager
def ask(url: str, headers: Mapping[str, str], *, digest_known: bool) -> Iterator[httpx.Response]:
    """The answer to a GET request, after redirects; its body is read within the context.

    Any status is an answer. SourceError for addresses and connections that fail, TemporaryError if
    the same request may succeed later.
    """
    import httpx

    context, timeout = ssl.create_default_context(), seconds_of(TIMEOUT)

    def check_redirect(response: httpx.Response) -> None:
        if response.has_redirect_location:
            target = urljoin(url, response.headers["Location"])
            check_address(target, url, digest_known=digest_known)

    check_address(url, "", digest_known=digest_known)
    options: dict[str, Any] = {"verify": context, "timeout": timeout, "headers": HEADERS}
    try:
        with httpx.Client(**options, event_hooks={"response": [check_redirect]}) as client:
            for _ in range(1 + MAX_REDIRECTS):
                with client.stream("GET", url, headers=headers) as response:
                    if not response.has_redirect_location:
                        yield response
                        return
                    url = urljoin(url, response.headers["Location"])
            raise SourceError(f"it redirects more than {MAX_REDIRECTS} times")
    except httpx.TimeoutException:
        raise TemporaryError(f"no answer within {timeout:g} s ({TIMEOUT})") from None
    except (httpx.TransportError, httpx.InvalidURL, ValueError) as error:
        raise _explain(error) from None


def _explain(error: Exception) -> SourceError:
    """A failed connection as a SourceError; temporary if a retry may succeed."""
    import httpx

    reason: BaseException = error
    while not isinstance(reason, OSError) and reason.__context__ is not None:
        reason = reason.__context__
    if isinstance(reason, socket.gaierror):
        return SourceError(f"the host name cannot be looked up ({reason.strerror})")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return SourceError(f"the certificate is not valid ({reason.verify_message})")
    text = one_line(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)
    if not isinstance(error, httpx.TransportError):
        return SourceError(f"the address or the answer is malformed ({text})")
    return TemporaryError(f"the connection failed ({text})")


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version of a file that a download belongs to; size: 0 if unknown."""

    url: str
    etag: str
    modified: str
    size: int

    @classmethod
    def read(cls, path: Path) -> Origin | None:
        """The origin in a note; None if there is none that can be read."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, ValueError, RecursionError):
            return None

    @property
    def validator(self) -> str:
        """Value for `If-Range`: a strong entity tag, or the modification time."""
        strong = self.etag if self.etag.startswith('"') else ""
        return strong or self.modified


def note_of(target: Path) -> Path:
    """Path of the note of a finished download's source; files put there by hand have no note."""
    return target.with_name(f"{target.name}.source.json")


def source_of(target: Path) -> str:
    """The source that a finished download came from; empty when it was put there by hand."""
    origin = Origin.read(note_of(target))
    return origin.url if origin is not None else ""


def difference(file: RemoteFile, path: Path) -> str | None:
    """Describe how a file differs from its known size or digests; None if it does not."""
    size = path.stat().st_size
    if file.size and size != file.size:
        return f"it has {size:,} bytes, expected {file.size:,}"
    if file.digests:
        current().step(f"{file.name} (checking), MB", size / MB)
    for name, expected in file.digests.items():
        digest = hashlib.new(name, usedforsecurity=False)
        with path.open("rb") as content:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
                current().advance(len(chunk) / MB / len(file.digests))
        if digest.hexdigest() != expected:
            return f"its {TITLES[name]} is {digest.hexdigest()}, expected {expected}"
    return None


def digest_titles(file: RemoteFile) -> str:
    """The known digests, in words."""
    titles = [TITLES[name] for name in file.digests]
    return " and ".join(titles) or "not verified: no digest is known"


def describe_check(file: RemoteFile) -> str:
    """Text on the digests that a file without `difference` was compared with."""
    return f"{digest_titles(file)} as expected" if file.digests else digest_titles(file)


@dataclass(frozen=True, slots=True)
class Download:
    """A file on its way to `target`: partial bytes in `NAME.part`, their `Origin` beside them.

    say: gets a line for each step. most: bytes above which nothing is downloaded; 0 for no bound.
    """

    file: RemoteFile
    target: Path
    say: Callable[[str], None]
    most: int = 0

    @property
    def part(self) -> Path:
        """The partial bytes."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def note(self) -> Path:
        """The origin of the partial bytes."""
        return self.target.with_name(f"{self.target.name}.part.json")

    @property
    def size(self) -> int:
        """The number of partial bytes."""
        return self.part.stat().st_size if self.part.exists() else 0

    def origin(self) -> Origin | None:
        """Origin of the partial bytes; None if there are none or their origin is not known."""
        regular = self.part.is_file() and not self.part.is_symlink()
        return Origin.read(self.note) if regular else None

    def start(self, origin: Origin) -> None:
        """Drop the old bytes, and record the origin of the new ones."""
        self.drop()
        write_whole(self.note, msgspec.json.encode(origin))
        self.part.touch()

    def drop(self) -> None:
        """Remove the partial bytes and their origin."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def run(self) -> str:
        """Download from the first source that delivers the file; returns the source.

        Says why a source failed before the next one is tried; DataMissingError has the reason of
        the last, StopError for a file that is too large or has no room. Bytes fetched before an
        interruption are kept for the next call.
        """
        name = self.file.name
        if offline.is_on():
            raise StopError(
                f"{name} is not here, and --offline allows no download: run again without it, or "
                f"put the file to {self.target}"
            )
        self._refuse_large(self.file.size)
        origin, problem = self.origin(), "no source is known"
        # The source of a begun download comes first.
        sources = sorted(self.file.urls, key=lambda url: origin is None or origin.url != url)
        for url in sources:
            try:
                self._complete(url)
            except SourceError as error:
                problem = f"{url}: {error}"
                if url != sources[-1]:
                    self.say(f"{name}: {problem}; next source")
            else:
                with self.part.open("r+b") as file:
                    os.fsync(file.fileno())
                self.note.replace(note_of(self.target))
                self.part.replace(self.target)
                return url
        rest = f" ({len(sources)} sources were tried)" if len(sources) > 1 else ""
        raise DataMissingError(f"{name} cannot be downloaded: {problem}{rest}")

    def _complete(self, url: str) -> None:
        """Complete and check the partial download, retrying after temporary failures."""
        failures = 0
        while True:
            before = self.size
            try:
                self._attempt(url)
                break
            except TemporaryError as error:
                failures = 1 if self.size - before >= PROGRESS_BYTES else failures + 1
                if failures >= ATTEMPTS:
                    raise SourceError(f"{error}, after {failures} attempts") from None
                wait = max(seconds_of(BACKOFF) * 2 ** (failures - 1), error.wait)
                self.say(f"{self.file.name}: {error}; next attempt in {wait:g} s")
                time.sleep(wait)
        if problem := difference(self.file, self.part):
            self.drop()
            name = self.file.name
            raise SourceError(f"{name} from here is another file, and was removed: {problem}")

    def _attempt(self, url: str) -> None:
        """Send one request, for the remaining bytes if a part of the same version exists."""
        origin, have, digest_known = self.origin(), self.size, bool(self.file.digests)
        same = origin is not None and origin.url == url and (origin.validator or digest_known)
        if origin is None or not same or not 0 < have <= origin.size:
            origin, have = None, 0
        elif have == origin.size:
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        if origin is not None and origin.validator:
            headers["If-Range"] = origin.validator
        with ask(direct(url), headers, digest_known=digest_known) as response:
            if response.status_code == RANGE_REFUSED:
                self.drop()
                raise TemporaryError("the rest of a broken download is refused")
            _check_status(response)
            if origin is None or not _continues(response, origin, have):
                if response.status_code == PARTIAL:
                    self.drop()
                origin, have = _origin_of(response, url), 0
            self._receive(response, origin, have)
        size = self.size
        if not size:
            raise SourceError("the answer is empty")
        if origin.size and size != origin.size:
            raise TemporaryError(f"the connection was cut after {size:,} of {origin.size:,} bytes")

    def _receive(self, response: httpx.Response, origin: Origin, have: int) -> None:
        """Check the head of a response, and append its body to the partial download."""
        file, headers = self.file, response.headers
        encoding = headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise SourceError(f"it came encoded as {one_line(encoding[:40])}, which was not asked")
        if file.size and origin.size and origin.size != file.size:
            raise SourceError(f"it is another file: {origin.size:,} bytes, expected {file.size:,}")
        self._refuse_large(origin.size - have)
        chunks = _chunks(response, sized=bool(origin.size))
        first = next(chunks, b"")
        page = _HTML.match(first) or headers.get("Content-Type", "").lower().startswith("text/html")
        if page and not have and not file.name.lower().endswith((".html", ".htm")):
            raise SourceError(
                f"an HTML page came in place of {file.name} (a login, quota or error page)"
            )
        self._refuse_full(origin.size, have)
        if origin.size >= WORTH_A_LINE or not origin.size:
            size = f", {size_text(origin.size)}" if origin.size else ""
            self.say(f"{file.name}{size}{f', from {size_text(have)} on' if have else ''}")
        current().step(f"{file.name}, MB", origin.size / MB, have / MB)
        try:
            if not have:
                self.start(origin)
            self._append(first, chunks, origin)
        except OSError as error:
            folder, why = self.part.parent, error.strerror or error
            if error.errno in FULL:
                text = f"the disk is full ({folder}): {self._resume_hint()}"
                raise StopError(f"{file.name}: {text}") from None
            raise StopError(f"{file.name} cannot be written to {folder}: {why}") from None

    def _append(self, chunk: bytes, chunks: Iterator[bytes], origin: Origin) -> None:
        """Append the chunks; SourceError if the file exceeds its largest size."""
        # An archive of unknown size is no larger than its members.
        unpacked = (self.file.max_unpacked if self.file.unpack else 0) or MAX_UNPACKED
        size, checked = self.size, ROOM_STEP
        bound = origin.size or self.file.size or min(unpacked, size + (self.most or unpacked))
        with self.part.open("ab", buffering=0) as out:
            while chunk:
                size += len(chunk)
                if size > bound:
                    self.drop()
                    raise SourceError(f"it is another file: it goes on after {bound:,} bytes")
                write_fully(out, chunk)
                chunk = next(chunks, b"")
                checked += len(chunk)
                if checked >= ROOM_STEP and not origin.size:
                    self._refuse_no_room()
                    checked = 0

    def _refuse_large(self, size: int) -> None:
        if self.most and size > self.most:
            raise StopError(
                f"{self.file.name} is {size_text(size)}: to download it, run again with --yes"
            )

    def _refuse_full(self, size: int, have: int) -> None:
        """StopError unless the disk has room for the rest of the file and its unpacked members.

        Image archives are assumed to unpack to about their own size.
        """
        folder = self.part.parent
        folder.mkdir(parents=True, exist_ok=True)
        needed = size - have + (size if self.file.unpack else 0)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise StopError(
                f"{self.file.name} needs {size_text(needed)} in {folder} and {size_text(free)} are "
                "free: make room, or choose another disk with --root"
            )

    def _refuse_no_room(self) -> None:
        """StopError if less than KEPT_FREE bytes are free; the partial download is kept."""
        folder = self.part.parent
        free = shutil.disk_usage(folder).free
        if free < KEPT_FREE:
            raise StopError(
                f"{self.file.name}: {size_text(free)} are free in {folder}, and "
                f"{size_text(KEPT_FREE)} are left alone: {self._resume_hint()}"
            )

    def _resume_hint(self) -> str:
        return f"{self.size:,} bytes are kept; make room, then run the same command again"


def _check_status(response: httpx.Response) -> None:
    if response.is_success:
        return
    message = one_line(f"HTTP {response.status_code} {response.reason_phrase}")
    if response.status_code not in TEMPORARY:
        raise SourceError(message)
    wait = response.headers.get("Retry-After", "")
    raise TemporaryError(message, min(float(wait), 60.0) if re.fullmatch("[0-9]+", wait) else 0.0)


def _continues(response: httpx.Response, origin: Origin, have: int) -> bool:
    """True if the response continues the partial download: same offset, size and version."""
    headers = response.headers
    for name, before in (("ETag", origin.etag), ("Last-Modified", origin.modified)):
        if before and headers.get(name, before) != before:
            return False
    match = _RANGE.fullmatch(headers.get("Content-Range", ""))
    return (
        response.status_code == PARTIAL
        and match is not None
        and (int(match.group(1)), int(match.group(2))) == (have, origin.size)
    )


def _origin_of(response: httpx.Response, url: str) -> Origin:
    if response.status_code != 200:
        raise TemporaryError(f"HTTP {response.status_code}, expected the whole file")
    names = ("ETag", "Last-Modified", "Content-Length")
    etag, modified, length = (response.headers.get(name, "") for name in names)
    return Origin(url, etag, modified, int(length) if re.fullmatch("[0-9]+", length) else 0)


def _chunks(response: httpx.Response, *, sized: bool) -> Iterator[bytes]:
    """The body as it comes; TemporaryError if it is cut and no known size would show that."""
    import httpx

    try:
        yield from response.iter_raw()
    except httpx.RemoteProtocolError:
        if not sized:
            raise TemporaryError("the connection was cut") from None
