"""HTTP requests with `ask`: checks addresses, follows redirects, separates temporary errors."""

from __future__ import annotations

import http.client
import math
import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import IO, Any
from urllib.parse import urlsplit

from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import one_line
from fewshot_bench.utils.version import __version__

TIMEOUT_VARIABLE = "FSBENCH_HTTP_TIMEOUT"
BACKOFF_VARIABLE = "FSBENCH_HTTP_BACKOFF"
TIMEOUT_SECONDS = 30.0
BACKOFF_SECONDS = 1.0
MAX_REDIRECTS = 10
TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_DRIVE = re.compile(r"https://drive\.google\.com/(?:file/d/|open\?id=|uc\?(?:.*&)?id=)([\w-]+)")


class SourceError(Exception):
    """A source does not deliver the file; the next one may. `status`: HTTP status, or 0."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class TemporaryError(SourceError):
    """A source cannot deliver the file now; `wait`: seconds from its Retry-After, or 0."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def timeout_seconds() -> float:
    """Seconds until a silent server is given up (FSBENCH_HTTP_TIMEOUT, 30 unless set)."""
    return _seconds(TIMEOUT_VARIABLE, TIMEOUT_SECONDS)


def backoff_seconds() -> float:
    """Seconds before the first retry (FSBENCH_HTTP_BACKOFF, 1 unless set); doubled each time."""
    return _seconds(BACKOFF_VARIABLE, BACKOFF_SECONDS)


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    if not text:
        return default
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
    return (
        "https://drive.usercontent.google.com/download"
        f"?id={match.group(1)}&export=download&confirm=t"
    )


def check_address(url: str, came_from: str = "", *, digest_known: bool) -> None:
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


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def __init__(self, digest_known: bool) -> None:
        self._digest_known = digest_known

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Follow a redirect to an allowed address, with the headers of the first request."""
        check_address(newurl, req.full_url, digest_known=self._digest_known)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
    ) -> Any:
        """Redirect as urllib does, but check schemes for which it skips `redirect_request`."""
        target = headers.get("location") or headers.get("uri") or ""
        scheme = urlsplit(target).scheme
        if scheme not in ("", "http", "https"):
            check_address(target, req.full_url, digest_known=self._digest_known)
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener(digest_known: bool) -> urllib.request.OpenerDirector:
    """An opener for http and https only: no file, ftp or data URLs."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(digest_known),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def ask(url: str, headers: Mapping[str, str], *, digest_known: bool) -> Any:
    """Send a GET request; returns a context manager with `status`, `headers` and `read`.

    Raises SourceError, or TemporaryError if the same request may succeed later.
    """
    check_address(url, digest_known=digest_known)
    common = {"User-Agent": f"fewshot-bench/{__version__}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=common | dict(headers))
    try:
        return _opener(digest_known).open(request, timeout=timeout_seconds())
    except urllib.error.HTTPError as error:
        with error:
            raise _of_status(error) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise of_failure(error) from None


def _of_status(error: urllib.error.HTTPError) -> SourceError:
    message = one_line(f"HTTP {error.code} {error.reason}")
    if error.code in TEMPORARY:
        return TemporaryError(message, _retry_after(error.headers))
    return SourceError(message, error.code)


def _retry_after(headers: Message) -> float:
    text = str(headers.get("Retry-After") or "")
    return min(float(text), 60.0) if text.isascii() and text.isdigit() else 0.0


def of_failure(error: Exception) -> SourceError:
    """Convert a connection failure to a SourceError; temporary if a retry may succeed."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, SourceError):
        return reason
    if isinstance(reason, TimeoutError):
        return TemporaryError(f"no answer within {timeout_seconds():g} s ({TIMEOUT_VARIABLE})")
    if isinstance(reason, socket.gaierror):
        return SourceError(f"the host name cannot be looked up ({reason.strerror})")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return SourceError(f"the certificate is not valid ({reason.verify_message})")
    if isinstance(error, ValueError):
        return SourceError(f"the address or the answer is malformed ({one_line(str(reason))})")
    if isinstance(reason, http.client.IncompleteRead):
        return TemporaryError("the connection was cut")
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return TemporaryError(f"the connection failed ({one_line(str(text))})")
