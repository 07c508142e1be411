"""HTTP requests with `ask`: checks addresses, follows redirects, separates temporary errors."""

from __future__ import annotations

import http.client
import math
import os
import re
import socket
import ssl
import string
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import one_line
from fewshot_bench.utils.version import __version__

TIMEOUT, BACKOFF = "FSBENCH_HTTP_TIMEOUT", "FSBENCH_HTTP_BACKOFF"
SECONDS = {TIMEOUT: 30.0, BACKOFF: 1.0}
"""Default seconds until a silent server is given up, and before the first retry."""
MAX_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})
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
    return (
        "https://drive.usercontent.google.com/download"
        f"?id={match.group(1)}&export=download&confirm=t"
    )


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


def _opener() -> urllib.request.OpenerDirector:
    """An opener that follows no redirects and knows no file, ftp or data URLs."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def ask(url: str, headers: Mapping[str, str], *, digest_known: bool) -> Any:
    """Send a GET request; returns a context manager with `status`, `headers` and `read`.

    Raises SourceError, or TemporaryError if the same request may succeed later.
    """
    common = {"User-Agent": f"fewshot-bench/{__version__}", "Accept-Encoding": "identity"}
    came_from, opener = "", _opener()
    for _ in range(1 + MAX_REDIRECTS):
        try:
            check_address(url, came_from, digest_known=digest_known)
            request = urllib.request.Request(url, headers=common | dict(headers))
            return opener.open(request, timeout=seconds_of(TIMEOUT))
        except urllib.error.HTTPError as error:
            with error:
                target = str(error.headers.get("Location") or "")
                if error.code not in REDIRECTS or not target:
                    raise _error_of_status(error) from None
            came_from, url = url, urljoin(url, quote(target, string.punctuation, "latin-1"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise error_of_failure(error) from None
    raise SourceError(f"it redirects more than {MAX_REDIRECTS} times")


def _error_of_status(error: urllib.error.HTTPError) -> SourceError:
    message = one_line(f"HTTP {error.code} {error.reason}")
    if error.code not in TEMPORARY:
        return SourceError(message, error.code)
    wait = str(error.headers.get("Retry-After") or "")
    return TemporaryError(message, min(float(wait), 60.0) if re.fullmatch("[0-9]+", wait) else 0.0)


def error_of_failure(error: Exception) -> SourceError:
    """Convert a connection failure to a SourceError; temporary if a retry may succeed."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return TemporaryError(f"no answer within {seconds_of(TIMEOUT):g} s ({TIMEOUT})")
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
