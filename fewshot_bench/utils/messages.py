"""Messages between processes of a run: `Channel`, one end of a socket pair.

A message is a JSON object, with bytes beside it where they are many (images, logits). Nothing in a
message is executed: a process of foreign code may send whatever it likes.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Self

# Bytes of a message from a process that may run foreign code; logits have no limit.
MOST_BYTES = 2**26


class Closed(Exception):
    """The other end has closed the channel."""


class Channel:
    """Sends and receives messages; several threads may send, one receives."""

    def __init__(self, descriptor: int) -> None:
        """descriptor: of a socket, which this channel owns."""
        os.set_inheritable(descriptor, False)
        self._connection = Connection(descriptor)
        self._lock = threading.Lock()

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Both ends of a new channel."""
        mine, theirs = socket.socketpair()
        return cls(mine.detach()), cls(theirs.detach())

    def fileno(self) -> int:
        """The descriptor, for a process that inherits this end."""
        return self._connection.fileno()

    def send(
        self,
        message: Mapping[str, Any],
        body: bytes | memoryview = b"",
        descriptors: Sequence[int] = (),
    ) -> None:
        """Send a message; OSError if the other end is closed.

        body: bytes beside it. descriptors: for a receiver that expects some after this message.
        """
        text = json.dumps(message).encode()
        with self._lock:
            self._connection.send_bytes(text)
            self._connection.send_bytes(body)
            if descriptors:
                self._with_socket(lambda end: socket.send_fds(end, [b"."], descriptors))

    def receive(self, most: int | None = None) -> tuple[dict[str, Any], bytes]:
        """The next message and its bytes; Closed if the other end is closed.

        most: bytes above which OSError is raised. ValueError for what is no JSON object.
        """
        try:
            text = self._connection.recv_bytes(most)
            body = self._connection.recv_bytes(most)
        except EOFError:
            raise Closed from None
        try:
            message = json.loads(text)
        except RecursionError as error:
            raise ValueError("a message is nested too deeply") from error
        if not isinstance(message, dict):
            raise ValueError(f"{message!r:.80} is no message")
        return message, body

    def receive_descriptors(self, most: int) -> list[int]:
        """The descriptors that the last message came with; Closed if the other end is closed."""
        mark, descriptors, _, _ = self._with_socket(lambda end: socket.recv_fds(end, 1, most))
        if not mark:
            raise Closed
        return list(descriptors)

    def _with_socket(self, use: Any) -> Any:
        end = socket.socket(fileno=self.fileno())
        try:
            return use(end)
        finally:
            end.detach()

    def is_readable(self, seconds: float) -> bool:
        """Wait at most this long; True if a message, or the end, has arrived."""
        return self._connection.poll(seconds)

    def end(self) -> None:
        """Send nothing more: the other end's `receive` raises Closed."""
        self._with_socket(lambda end: end.shutdown(socket.SHUT_WR))

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
