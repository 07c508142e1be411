"""`fsbench app`: the server's answers, and its one-sentence errors."""

from __future__ import annotations

import asyncio
import io
import socket
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import fewshot_bench as fb
from fewshot_bench.analysis.model import Prediction
from fewshot_bench.utils.errors import StoreError
from tests.support.helpers import fsbench, image_folder, wait_until
from tests.support.models import zero_shot_model

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from fewshot_bench.plugins.models import app as server

CLASSES = ("cat", "dog", "cow")
MOST = 20_000


def client(model: Any, complaints: list[str] | None = None) -> TestClient:
    told = [] if complaints is None else complaints
    made = server.application(model, MOST, {"localhost", "127.0.0.1"}, told.append)
    return TestClient(made, base_url="http://localhost:8000", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("photos")) / "test" / "cat" / "0.jpg"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> fb.Model:
    return fb.load_model(zero_shot_model(tmp_path_factory.mktemp("kept") / "model", CLASSES))


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_the_answer_is_that_of_the_model(model: fb.Model, photo: Path) -> None:
    answer = client(model).post("/predict", content=photo.read_bytes())
    (expected,) = model.stream([photo], top=3)
    assert answer.status_code == 200
    pairs = [(one["class"], one["probability"]) for one in answer.json()["classes"]]
    assert pairs == list(zip(expected.classes, expected.probabilities, strict=True))
    assert answer.json()["rejected"] is False
    two = client(model).post("/predict?top=1", content=photo.read_bytes()).json()["classes"]
    assert [one["class"] for one in two] == list(expected.classes[:2])


def test_a_query_of_no_class_is_rejected(tmp_path: Path, photo: Path) -> None:
    strict = fb.load_model(zero_shot_model(tmp_path / "model", CLASSES, reject=0.999))
    found = client(strict)
    answer = found.post("/predict", content=photo.read_bytes()).json()
    assert answer["rejected"] is True
    assert len(answer["classes"]) == 3
    assert found.get("/model").json()["reject"] == 0.999


def test_the_page_holds_nothing_of_elsewhere(model: fb.Model) -> None:
    found = client(model)
    for path, (_, kind) in server.FILES.items():
        answer = found.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == kind
        assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    about = found.get("/model").json()
    assert about["classes"] == list(CLASSES)
    assert str(model.path) not in str(about)


@pytest.mark.parametrize(
    ("content", "status", "complaint"),
    [
        (b"", 400, "the file is empty; send an image as the body"),
        (b"text", 415, "the image cannot be used: no known image format"),
        (b"%PDF-1.4\n%", 415, "the image cannot be used: no known image format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "the image cannot be used"),
        (encoded(Image.new("RGB", (64, 64)), "JPEG")[:200], 415, "the image cannot be used: "),
        (bomb(9000, 9000), 400, "the image has more than 80,000,000 pixels"),
        (bomb(30000, 30000), 415, "the image cannot be used: DecompressionBombError: "),
        (bomb(2**31 - 1, 2**31 - 1), 415, "the image cannot be used: DecompressionBombError: "),
        (
            encoded(Image.new("I", (8, 8), 70000), "TIFF"),
            415,
            "the image cannot be used: not the values of 8 bits",
        ),
        (bytes(MOST + 1), 413, "the file has more than 20.0 kB; choose a smaller one, or start"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_image_for_it(
    model: fb.Model, content: bytes, status: int, complaint: str
) -> None:
    answer = client(model).post("/predict", content=content)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(complaint)
    assert "\n" not in answer.json()["error"]


def test_the_limit_counts_bytes_as_they_come(
    model: fb.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SURPLUS", 50_000)
    for count in (21, 100):
        parts = (bytes(1000) for _ in range(count))
        answer = client(model).post("/predict", content=parts)
        assert "content-length" not in answer.request.headers
        assert answer.status_code == 413


def test_a_form_is_refused_with_the_right_way(model: fb.Model, photo: Path) -> None:
    answer = client(model).post("/predict", files={"image": photo.read_bytes()})
    assert answer.status_code == 415
    assert "curl --data-binary" in answer.json()["error"]


@pytest.mark.parametrize("top", ["0", "-1", "x", "1.5", "", "²"])
def test_top_is_a_whole_number(model: fb.Model, top: str) -> None:
    answer = client(model).post("/predict", params={"top": top}, content=b"")
    assert (answer.status_code, "whole number" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    "path",
    ["/page/page.html", "/app.py", "/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd"]
    + ["/static/..%5c..%5capp.py", "/script.js/", "/predict/../../pyproject.toml"],
)
def test_no_other_file_is_to_be_had(model: fb.Model, path: str) -> None:
    answer = client(model).get(path, follow_redirects=False)
    assert answer.status_code == 404
    assert answer.json() == {"error": "there is nothing at this address"}
    assert "content-security-policy" in answer.headers


def test_only_its_own_page_may_ask(model: fb.Model, photo: Path) -> None:
    found, data = client(model), photo.read_bytes()
    for origin in ("http://evil.example", "null", "http://localhost:9000", "https://localhost"):
        answer = found.post("/predict", content=data, headers={"Origin": origin})
        assert (answer.status_code, "may not ask" in answer.json()["error"]) == (403, True)
    own = {"Origin": "http://localhost:8000"}
    assert found.post("/predict", content=data, headers=own).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("evil.example", 403), ("localhost.evil.example:8000", 403), ("[::1", 403), ("", 403)),
        *(("127.0.0.1:8000", 200), ("LOCALHOST", 200), ("[::1]:8000", 200), ("192.0.2.1", 200)),
    ],
)
def test_a_name_that_was_led_here_is_refused(model: fb.Model, host: str, status: int) -> None:
    for path in ("/", "/model"):
        assert client(model).get(path, headers={"Host": host}).status_code == status


def test_methods_that_are_not_meant_are_refused(model: fb.Model) -> None:
    assert client(model).get("/predict").status_code == 405
    assert client(model).post("/model").status_code == 405


def stand_in(stream: Any) -> Any:
    """A stand-in for a model with this `stream` function."""
    config = SimpleNamespace(method="m", backbone="b", classnames=("a", "b"), reject=None)
    return SimpleNamespace(config=config, stream=stream, support=None)


def test_others_wait_while_two_are_answered(photo: Path) -> None:
    inside, most, free, lock = 0, 0, threading.Event(), threading.Lock()

    def stream(images: Any, top: int) -> Iterator[Prediction]:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        free.wait()
        with lock:
            inside -= 1
        yield Prediction("image 0", ("a", "b"), (0.6, 0.4))

    found, statuses = client(stand_in(stream)), []

    def ask() -> None:
        statuses.append(found.post("/predict", content=photo.read_bytes()).status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: inside == server.AT_ONCE)
    free.set()
    for thread in threads:
        thread.join()
    assert (statuses, most) == ([200] * 6, server.AT_ONCE)


def test_a_model_that_fails_says_why_on_the_terminal(photo: Path) -> None:
    def damaged(images: Any, top: int) -> Iterator[Prediction]:
        raise StoreError("/secret/model is damaged")

    def broken(images: Any, top: int) -> Iterator[Prediction]:
        raise RuntimeError("/secret/place")

    complaints: list[str] = []
    for stream in (damaged, broken):
        answer = client(stand_in(stream), complaints).post("/predict", content=photo.read_bytes())
        assert answer.status_code == 500
        assert "secret" not in answer.text
    assert complaints == ["/secret/model is damaged"]


def test_a_server_that_stops_answers_what_was_not_sent_whole(model: fb.Model) -> None:
    """After Ctrl-C uvicorn cancels it, and prints a traceback if it has no answer."""
    made = server.application(model, MOST, {"localhost"}, [].append)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-length", b"100000")],
    }
    answer: list[Any] = []

    async def ask() -> None:
        parts = [{"type": "http.request", "body": b"abc", "more_body": True}]
        waiting = asyncio.Event()

        async def receive() -> Any:
            if parts:
                return parts.pop()
            waiting.set()
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            answer.append(message)

        asked = asyncio.create_task(made(scope, receive, send))
        await waiting.wait()
        asked.cancel()
        await asked

    asyncio.run(ask())
    assert answer[0]["status"] == 503
    assert b"fsbench app was stopped" in answer[1]["body"]


def test_what_cannot_be_served_is_one_line(tmp_path: Path) -> None:
    for arguments, complaint in (
        ((tmp_path, "--host", "no.such.invalid"), "cannot listen at no.such.invalid, port 8000"),
        ((tmp_path, "--host", "192.0.2.1", "--port", 0), "cannot listen at 192.0.2.1, port 0"),
        ((tmp_path, "--host", "a..b"), "--host 'a..b' is no name of a host"),
        ((tmp_path, "--host", "x" * 99), "is no name of a host"),
        ((tmp_path, "--port", 0), "holds no model"),
        ((tmp_path, "--max-size", "big"), "expected a size such as"),
        ((tmp_path, "--max-size", "0"), "--max-size 0: no file fits; expected a size"),
    ):
        done = fsbench("app", *arguments)
        assert done.code in ((3,) if complaint == "holds no model" else (1, 2))
        assert complaint in done.err
        assert done.err.count("\n") == 1


def test_a_port_is_taken_while_the_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seconds = []

    def reading(*_: Any) -> None:
        monkeypatch.undo()
        seconds.append(fsbench("app", tmp_path, "--port", port))
        raise StoreError("read")

    monkeypatch.setattr("fewshot_bench.analysis.model.open_model", reading)
    assert "read" in fsbench("app", tmp_path, "--port", port).err
    assert seconds[0].err.startswith(f"error: port {port} of 127.0.0.1 is taken; name another")


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_a_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    done = fsbench("app", tmp_path)
    wanted = f"error: fsbench app needs {package}, which is not installed: pip install"
    assert (done.code, done.err.startswith(wanted), "[app]" in done.err) == (2, True, True)
