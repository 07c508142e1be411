"""A server of `fsbench app` in a thread of the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import uvicorn

from fewshot_bench.plugins.models import app, connections
from tests.support.helpers import wait_until


@contextmanager
def serving(model: Any, most: int = 99) -> Iterator[int]:
    """The port of a server for a model, which ends with the context."""
    page = app.application(model, most, set(), print)
    servers: list[Any] = []

    class Server(uvicorn.Server):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            servers.append(self)

    with mock.patch.object(uvicorn, "Server", Server):
        listener = connections.listen("127.0.0.1", 0)
        thread = threading.Thread(target=connections.serve, args=(page, listener))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            wait_until(lambda: bool(servers))
            servers[0].should_exit = True
            thread.join()
