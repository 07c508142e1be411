"""Connections of `fsbench app`: how many are answered, and how long each may take to ask.

`Connection` is the protocol for uvicorn, in which a client may otherwise take for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 32
"""Maximum connections whose requests are answered; each may hold an image. A browser opens six."""
HEAD_SECONDS = 5
"""Seconds for the head of a request, from the opening of a connection or the last answer."""
BODY_SECONDS = 60
"""Seconds for the body of a request, from the end of its head."""

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
