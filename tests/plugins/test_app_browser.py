"""The page of `fsbench app` in a browser, with the server in its own process."""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from tests.helpers import PATIENCE, image_folder, start
from tests.models import zero_shot_model

pytest.importorskip("uvicorn")
from tests.app_server import serving

CLASSES = ("cat", "dog", '<img src=x onerror="window.hit=1">')


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> fb.Model:
    folder = tmp_path_factory.mktemp("kept") / "model"
    return fb.load_model(zero_shot_model(folder, CLASSES, reject=0.5))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted((image_folder(tmp_path_factory.mktemp("photos")) / "test").rglob("*.jpg"))[::4]


@pytest.fixture(scope="module")
def address(model: fb.Model) -> Iterator[str]:
    """Address of a running server; at the end, Ctrl-C must stop it without a message."""
    process = start("app", model.path, "--port", 0)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    waited = [line for line in err.splitlines() if not line.endswith(" so far")]
    assert (process.returncode, out, waited) == (0, "", [])


@dataclass
class Seen:
    """An opened page, and its error messages."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def text(self, name: str) -> str:
        """Text of an element, once it has one."""
        found = self.page.locator(f"#{name}:not(:empty)")
        found.wait_for()
        return str(found.inner_text())


def opened(browser: Any, address: str) -> Seen:
    seen = Seen(browser.new_page())
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.goto(address)
    assert seen.text("model").startswith("zero-shot on tiny, 3 classes. Files up to 10.0 MB")
    return seen


def shown(seen: Seen) -> list[tuple[str, str]]:
    """Displayed classes and shares."""
    items = seen.page.locator("#classes li")
    items.first.wait_for()
    spans = [item.locator("span").all_inner_texts() for item in items.all()]
    return [(name, share) for name, share in spans]


def expected(model: fb.Model, photo: Path) -> list[tuple[str, str]]:
    (one,) = model.stream([photo], top=10)
    return [(c, f"{100 * p:.1f}%") for c, p in zip(one.classes, one.probabilities, strict=True)]


def test_an_image_is_classified(
    browser: Any, address: str, model: fb.Model, photos: list[Path]
) -> None:
    seen = opened(browser, address)
    for photo in photos:
        seen.page.set_input_files("#file", photo)
        seen.page.locator("#status", has_text=photo.name).wait_for()
        seen.page.locator("#result").wait_for()
        pairs = expected(model, photo)
        assert shown(seen) == pairs
        rejected = float(pairs[0][1][:-1]) < 50
        assert seen.text("verdict") == ("None of these" if rejected else pairs[0][0])
        assert ("asks for 50.0%" if rejected else f"Runner-up: {pairs[1][0]}") in seen.text("about")
    assert not seen.page.locator("#near").is_visible()
    bars = seen.page.locator(".bar div").all()
    widths = [bar.bounding_box()["width"] / 100 for bar in bars]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1] > 0
    assert seen.page.evaluate("document.querySelector('#preview').naturalWidth") > 0
    assert seen.page.evaluate("window.hit") is None
    assert seen.complaints == []


def test_training_images_stand_below(browser: Any, tmp_path: Path) -> None:
    known = image_folder(tmp_path / "known")
    output = tmp_path / "model"
    asked: Any = {"method": "zero-shot", "backbone": "tiny", "device": "cpu"}
    fb.adapt(f"folder:{known}", output, keep_support=True, **asked)
    with serving(fb.load_model(output), 10**7) as port:
        seen = Seen(browser.new_page())
        seen.page.on("console", lambda message: seen.complaints.append(message.text))
        seen.page.goto(f"http://127.0.0.1:{port}")
        seen.text("model")
        photo = known / "train" / "dog" / "2.jpg"
        seen.page.set_input_files("#file", photo)
        seen.page.locator("#near").wait_for()
        items = seen.page.locator("#nearest li")
        assert items.count() == 4
        assert items.first.inner_text().split() == ["dog", "1.00"]
        first = seen.page.locator("#nearest img").first
        assert first.get_attribute("alt") == "A training image of dog"
        first.evaluate("image => image.decode()")
        assert first.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [40, 32]
        assert seen.complaints == []
        seen.page.close()


def test_a_file_is_dropped_and_pasted(
    browser: Any, address: str, model: fb.Model, photos: list[Path]
) -> None:
    seen = opened(browser, address)
    for event, holder, photo in (
        ("drop", "dataTransfer", photos[0]),
        ("paste", "clipboardData", photos[1]),
    ):
        seen.page.evaluate(
            """([event, holder, content]) => {
                const bytes = Uint8Array.from(atob(content), one => one.charCodeAt(0));
                const data = new DataTransfer();
                data.items.add(new File([bytes], `${event}.jpg`));
                const made = event === "drop" ? DragEvent : ClipboardEvent;
                const options = {[holder]: data, bubbles: true, cancelable: true};
                document.body.dispatchEvent(new made(event, options));
            }""",
            [event, holder, base64.b64encode(photo.read_bytes()).decode()],
        )
        seen.page.locator("#status", has_text=f"{event}.jpg").wait_for()
        seen.page.locator("#result").wait_for()
        assert shown(seen) == expected(model, photo)
    assert seen.complaints == []


def test_a_wrong_file_and_a_large_one_are_refused(
    browser: Any, address: str, tmp_path: Path
) -> None:
    seen = opened(browser, address)
    wrong, large = tmp_path / "wrong.jpg", tmp_path / "large.jpg"
    wrong.write_text("no image")
    large.write_bytes(bytes(30_000_000))
    seen.page.set_input_files("#file", wrong)
    assert seen.text("error") == "No image that can be read; choose a JPEG or PNG file"
    assert not seen.page.locator("#result").is_visible()
    seen.page.set_input_files("#file", large)
    seen.page.locator("#error", has_text="more than 10.0 MB").wait_for()
    # The server rejects it too, independently of the page.
    status, error = seen.page.evaluate(
        """async () => {
            const body = new Uint8Array(30_000_000);
            const answer = await fetch("/predict", {method: "POST", body});
            return [answer.status, (await answer.json()).error];
        }"""
    )
    assert (status, error.partition(";")[0]) == (413, "the file has more than 10.0 MB")


def test_two_at_once(browser: Any, address: str, model: fb.Model, photos: list[Path]) -> None:
    pages = [opened(browser, address) for _ in range(2)]
    for seen, photo in zip(pages, photos, strict=False):
        seen.page.set_input_files("#file", photo)
    for seen, photo in zip(pages, photos, strict=False):
        seen.page.locator("#result").wait_for()
        assert shown(seen) == expected(model, photo)
        assert seen.complaints == []


def test_a_page_elsewhere_cannot_ask(browser: Any, address: str) -> None:
    seen = opened(browser, address.replace("127.0.0.1", "localhost"))
    found = seen.page.evaluate(
        """address => fetch(`${address}/predict`, {method: "POST", mode: "no-cors", body: "x"})
            .then(answer => answer.type, error => String(error))""",
        address,
    )
    assert "TypeError" in found
    assert any("Content Security Policy" in one for one in seen.complaints)
