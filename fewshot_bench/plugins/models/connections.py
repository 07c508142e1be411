"""The server of `fsbench app`: how many connections are answered, and how long each may ask.

`listen` and `serve` are the entry points. `Connection` is the protocol for uvicorn, in which a
client may otherwise take for ever.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.offline import OfflineError

CONNECTIONS = 32
"""Maximum connections whose requests are answered; each may hold an image. A browser opens six."""
HEAD_SECONDS = 5
"""Seconds for the head of a request, from the opening of a connection or the last answer."""
BODY_SECONDS = 60
"""Seconds for the body of a request, from the end of its head."""
PATIENCE = 5
"""Seconds that shutdown waits for pending responses."""

_SECONDS = {h11.IDLE: HEAD_SECONDS, h11.SEND_BODY: BODY_SECONDS}
_LATE = f'{{"error":"the file did not come within {BODY_SECONDS} seconds"}}'.encode()
_ANSWER = b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"


class Connection(H11Protocol):
    """A connection that is closed if its client is late with the head or the body of a request.

    Beyond CONNECTIONS open ones, each request on a further one is refused (503).
    """

    _state: Any = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        # uvicorn refuses a request if there are at least so many connections, this one included.
        self.limit_concurrency = 0 if len(self.connections) > CONNECTIONS else None
        self._watch()

    def handle_events(self) -> None:
        """Handle what came, or was waiting until the last answer was sent."""
        super().handle_events()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start to count where the client begins a part of its request."""
        state = self.conn.their_state
        if state is not self._state:
            self._stop()
            self._state = state
            if state in _SECONDS:
                self._timer = self.loop.call_later(_SECONDS[state], self._refuse)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _refuse(self) -> None:
        if self._state is h11.SEND_BODY and not self.cycle.response_started:
            length = b"Content-Length: %d\r\n\r\n" % len(_LATE)
            self.transport.write(_ANSWER + length + _LATE)
        self.transport.close()


def serve(app: object, listener: socket.socket) -> None:
    """Serve until Ctrl-C."""
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="error",
        access_log=False,
        lifespan="off",
        ws="none",
        http=Connection,
        loop="asyncio",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=HEAD_SECONDS,
        timeout_graceful_shutdown=PATIENCE,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        return


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at this address; UsageError if that fails."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # At once: while nobody listens, another process may bind the same port.
        listener.listen()
        return listener
    except OfflineError:
        raise UsageError(
            "the page needs a socket, and --offline allows none; leave it out: the page itself "
            "loads nothing from elsewhere"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} of {host} is taken; name another by --port, 0 for a free one"
            ) from None
        raise UsageError(f"cannot listen at {host}, port {port}: {error.strerror}") from None
    except UnicodeError:
        raise UsageError(f"--host {host!r:.80} is no name of a host: expected 127.0.0.1") from None
