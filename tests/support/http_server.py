"""A local HTTP server that can be correct, slow, broken, truncated, redirecting or wrong."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LAST_MODIFIED = "Mon, 06 Jan 2025 10:00:00 GMT"


@dataclass(frozen=True)
class Page:
    """The answer to requests for one path.

    cut: bytes after which the connection is closed, `cuts` times. failures: initial answers with
    status `failure`. ranges: whether Range is supported. pause: seconds between pieces of `piece`
    bytes. hold: bytes after which the answer stalls until the server closes. etag, modified,
    length: headers that are sent. encoding: its Content-Encoding. careless: sends the rest of any
    version, under another entity tag. reason: the reason phrase of a failure.
    """

    content: bytes = b""
    kind: str = "application/octet-stream"
    cut: int = 0
    cuts: int = 10**9
    failure: int = 0
    failures: int = 10**9
    redirect: str = ""
    ranges: bool = True
    pause: float = 0.0
    hold: int = 0
    piece: int = 2**16
    etag: bool = True
    modified: bool = False
    length: bool = True
    encoding: str = ""
    careless: bool = False
    reason: str | None = None


@dataclass
class Site:
    """The pages of a running server, and the requests it received (path, Range)."""

    address: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def put(self, path: str, content: bytes, **how: Any) -> str:
        """Serve this content at `path` from now on; return the address."""
        self.pages[path] = Page(content, **how)
        return f"{self.address}{path}"

    def asked(self, path: str) -> list[str]:
        """The Range headers of all requests for a path, in order."""
        return [asked for name, asked in self.requests if name == path]

    def next_page(self, path: str, asked: str) -> Page | None:
        """The answer to this request; decrements the counters of limited answers."""
        with self.lock:
            self.requests.append((path, asked))
            page = self.pages.get(path)
            if page is None:
                return None
            if page.failure and page.failures > 0:
                self.pages[path] = replace(page, failures=page.failures - 1)
                return page
            page = replace(page, failure=0)
            if page.cut and page.cuts > 0:
                self.pages[path] = replace(self.pages[path], cuts=page.cuts - 1)
                return page
            return replace(page, cut=0)


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        """Send the page configured for the path."""
        asked = self.headers.get("Range", "")
        page = self.site.next_page(self.path, asked)
        if page is None or page.failure:
            self.send_error(page.failure if page else 404, page.reason if page else None)
            return
        if page.redirect:
            self.send_response(302)
            self.send_header("Location", page.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(page, self._start(page, asked))

    def _start(self, page: Page, asked: str) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", asked)
        condition = self.headers.get("If-Range", "")
        if not match or not page.ranges or condition not in ("", _etag(page), LAST_MODIFIED):
            return 0
        return int(match.group(1))

    def _send(self, page: Page, start: int) -> None:
        rest = page.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", page.kind)
        if page.encoding:
            self.send_header("Content-Encoding", page.encoding)
        if page.length:
            self.send_header("Content-Length", str(len(rest)))
        if page.etag:
            self.send_header("ETag", '"other"' if page.careless and start else _etag(page))
        if page.modified:
            self.send_header("Last-Modified", LAST_MODIFIED)
        if start:
            total = len(page.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        sent = rest[: page.cut] if page.cut else rest
        for begin in range(0, len(sent), page.piece):
            if page.hold and begin >= page.hold:
                self.site.closing.wait()
            self.wfile.write(sent[begin : begin + page.piece])
            self.wfile.flush()
            time.sleep(page.pause)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Suppress logging."""


def _etag(page: Page) -> str:
    return f'"{hashlib.sha256(page.content).hexdigest()[:16]}"'


@contextmanager
def serving(wrap: Callable[[ThreadingHTTPServer], str] | None = None) -> Iterator[Site]:
    """Run a server; `wrap` may modify it before it starts and returns the URL scheme."""
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    scheme = wrap(server) if wrap else "http"
    site.address = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()
