"""Connections of `fsbench app`: their number, slow clients, and the limits that the docs state."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.support.helpers import PATIENCE, REPOSITORY, wait_until

pytest.importorskip("uvicorn")
from fewshot_bench.plugins.models import app, commands, connections
from tests.support.app_server import serving

WORDS = {2: "two", 4: "four", 10: "ten"}


@pytest.fixture
def port() -> Iterator[int]:
    """Port of a running server, whose model answers nothing."""
    config = SimpleNamespace(method="m", backbone="b", classnames=("a", "b"), reject=None)
    with serving(SimpleNamespace(config=config, support=None)) as opened:
        yield opened


def connected(port: int, sent: bytes = b"") -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", port), PATIENCE)
    opened.sendall(sent)
    return opened


def asked(connection: http.client.HTTPConnection) -> int:
    """Status of an answer, after which the connection stays open."""
    connection.request("GET", "/model")
    answer = connection.getresponse()
    answer.read()
    return answer.status


@pytest.mark.parametrize(
    ("sent", "end"),
    [
        (b"", b""),
        (b"GET /model HT", b""),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET / HT", b"</html>\n"),
        (
            b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nab",
            b'{"error":"the file did not come within 60 seconds"}',
        ),
        (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nab", b'method"}'),
    ],
)
def test_a_client_that_never_ends_its_request_is_left(
    port: int, monkeypatch: pytest.MonkeyPatch, sent: bytes, end: bytes
) -> None:
    """Without a limit, 33 of them kept the page from everyone."""
    for part in connections._SECONDS:
        monkeypatch.setitem(connections._SECONDS, part, 0.05)
    with connected(port, sent) as opened, opened.makefile("rb") as file:
        assert file.read().endswith(end)


def test_connections_beyond_the_limit_are_refused_and_no_others(port: int) -> None:
    held = [http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE) for _ in range(33)]
    assert [asked(one) for one in held] == [200] * connections.CONNECTIONS + [503]
    assert asked(held[0]) == 200
    for one in held:
        one.close()
    wait_until(lambda: asked(http.client.HTTPConnection("127.0.0.1", port)) == 200)


@pytest.mark.parametrize(
    "path", ["/../../../../etc/passwd", "/..%2f..%2fapp.py", "/%2e%2e/app.py", "/page/../script.js"]
)
def test_no_path_leads_to_a_file(port: int, path: str) -> None:
    """Asked without a client that would normalize the path."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 404
    assert answer.read() == b'{"error":"there is nothing at this address"}'
    connection.close()


def test_the_documented_limits_are_those_of_the_code() -> None:
    text = " ".join((REPOSITORY / "docs" / "how-to" / "app.md").read_text(encoding="utf-8").split())
    size = next(one for one in commands.app.params if one.name == "max_size").default
    for limit in (
        f"first {WORDS[app.TOP]} classes",
        f"shows the {WORDS[app.NEAREST]} nearest",
        f"{WORDS[len(app.FILES)]} files of the page",
        f"the largest file that is accepted, `{size}`",
        f"more than {app.MOST_PIXELS / 1e6:.0f} million pixels",
        f"{app.SURPLUS / 2**20:.0f} MiB beyond the limit",
        f"{WORDS[app.AT_ONCE].title()} images are decoded at once",
        f"While {connections.CONNECTIONS} connections are open",
        f"{connections.HEAD_SECONDS} seconds for the head of a request",
        f"{connections.BODY_SECONDS} seconds for its body",
        f"up to {connections.PATIENCE} seconds for answers",
    ):
        assert limit in text, limit
