"""Messages between two processes of one machine: a length, a JSON header and bytes.

`send` and `receive` are the entry points. Nothing in a message is executed.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

_HEAD = struct.Struct(">IQ")


class Closed(Exception):
    """The other end has closed the channel."""


def send(channel: socket.socket, header: Mapping[str, Any], body: bytes | memoryview = b"") -> None:
    """Write one message."""
    text = json.dumps(header).encode()
    channel.sendall(_HEAD.pack(len(text), len(body)) + text)
    if body:
        channel.sendall(body)


def receive(channel: socket.socket) -> tuple[dict[str, Any], bytearray]:
    """Read one message; Closed if the channel has ended."""
    lengths = _HEAD.unpack(_exactly(channel, _HEAD.size))
    header: dict[str, Any] = json.loads(_exactly(channel, lengths[0]))
    return header, _exactly(channel, lengths[1])


def _exactly(channel: socket.socket, count: int) -> bytearray:
    found = bytearray(count)
    view = memoryview(found)
    while view:
        got = channel.recv_into(view)
        if not got:
            raise Closed
        view = view[got:]
    return found
