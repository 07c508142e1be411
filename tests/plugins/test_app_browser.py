"""The page of `fsbench app` in a browser, with the server in its own process."""

from __future__ import annotations

import base64
import csv
import io
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fewshot_bench as fb
from tests.support.helpers import PATIENCE, image_folder, start
from tests.support.models import zero_shot_model

pytest.importorskip("uvicorn")
from tests.support.app_server import serving

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


def opened(browser: Any, address: str, **options: Any) -> Seen:
    seen = Seen(browser.new_page(**options))
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.goto(address)
    about = "zero-shot on tiny, 3 classes. Below 50.0% an image is rejected. Files up to 10.0 MB"
    assert seen.text("model").startswith(about)
    return seen


def answered(seen: Seen, count: int, said: str = "") -> list[Any]:
    """The rows of the page once all have an answer."""
    seen.page.locator("#status", has_text=f"{count} of {count} answered{said}").wait_for()
    return list(seen.page.locator("#rows tr").all())


def shown(row: Any) -> list[tuple[str, str]]:
    """Displayed classes and shares."""
    spans = [item.locator("span").all_text_contents() for item in row.locator(".classes li").all()]
    return [(name, share) for name, share in spans]


def expected(model: fb.Model, photo: Path) -> list[tuple[str, str]]:
    (one,) = model.stream([photo], top=10)
    return [(c, f"{100 * p:.1f}%") for c, p in zip(one.classes, one.probabilities, strict=True)]


def saved(seen: Seen) -> list[dict[str, str]]:
    with seen.page.expect_download() as download:
        seen.page.click("#save")
    text = Path(download.value.path()).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def test_one_image_is_shown_with_all_classes(
    browser: Any, address: str, model: fb.Model, photos: list[Path]
) -> None:
    seen = opened(browser, address)
    seen.page.set_input_files("#file", photos[0])
    (row,) = answered(seen, 1)
    assert shown(row) == expected(model, photos[0])
    assert row.locator(".classes").is_visible()
    widths = [bar.bounding_box()["width"] / 100 for bar in row.locator(".bar div").all()]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1] > 0
    assert seen.page.evaluate("window.hit") is None
    assert seen.complaints == []


@pytest.mark.parametrize("width", [1280, 360])
def test_several_files_are_a_table_and_a_csv(
    browser: Any, address: str, model: fb.Model, photos: list[Path], tmp_path: Path, width: int
) -> None:
    wrong, large, odd = (tmp_path / name for name in ("wrong.jpg", "big.png", '=1+1;@a, "b".jpg'))
    wrong.write_text("no image")
    large.write_bytes(bytes(11_000_000))
    shutil.copy(photos[0], odd)
    files = [photos[0], wrong, photos[1], large, odd]
    seen = opened(browser, address, viewport={"width": width, "height": 800})
    seen.page.set_input_files("#file", files)
    rows = answered(seen, 5, ", 2 with an error")
    names = [row.locator("th > span").last.inner_text() for row in rows]
    assert names == [path.name for path in files]
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert "the image cannot be used: no known image format" in rows[1].inner_text()
    assert rows[1].locator(".blank").inner_text() == "no preview"
    assert "the file has more than 10.0 MB; choose a smaller one" in rows[3].inner_text()
    table = saved(seen)
    assert list(table[0]) == [*["image", "class", "probability", "runner_up"]] + [
        *("runner_up_probability", "rejected", "error")
    ]
    assert [row["image"] for row in table] == [*names[:4], "'=1+1;'@a, \"b\".jpg"]
    for row, line, photo in zip(rows, table, files, strict=True):
        if photo in (wrong, large):
            assert (line["class"], line["rejected"]) == ("", "false")
            assert line["error"] in row.inner_text()
            continue
        pairs = expected(model, photo)
        assert shown(row) == pairs
        assert row.locator("summary").inner_text() == line["class"] == pairs[0][0]
        assert f"{100 * float(line['probability']):.1f}%" == pairs[0][1]
        assert row.locator("td").last.inner_text().split()[0] == pairs[0][1]
        rejected = float(line["probability"]) < 0.5
        assert ("rejected" in row.inner_text()) is rejected
        assert line["rejected"] == str(rejected).lower()
        picture = row.locator("th img")
        picture.scroll_into_view_if_needed()
        picture.evaluate("image => image.decode()")
        assert picture.evaluate("image => image.naturalWidth") > 0
    assert seen.page.evaluate("window.hit") is None
    assert seen.page.evaluate("document.activeElement.id") != "file"
    seen.page.click("#clear")
    assert not seen.page.locator("#result").is_visible()
    assert seen.page.evaluate("document.activeElement.id") == "file"
    assert all("415" in one for one in seen.complaints)


def test_a_photograph_that_no_browser_shows_is_answered(
    browser: Any, address: str, model: fb.Model, photos: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    Image.open(photos[0]).save(tmp_path / "phone.heic")
    seen = opened(browser, address)
    seen.page.set_input_files("#file", tmp_path / "phone.heic")
    (row,) = answered(seen, 1)
    assert shown(row) == expected(model, tmp_path / "phone.heic")
    assert row.locator(".blank").inner_text() == "no preview"
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
        (row,) = answered(seen, 1)
        items = row.locator(".nearest li")
        assert items.count() == 4
        assert items.first.inner_text().split() == ["dog", "1.00"]
        first = row.locator(".nearest img").first
        assert first.get_attribute("alt") == "A training image of dog"
        first.evaluate("image => image.decode()")
        assert first.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [40, 32]
        assert seen.complaints == []
        seen.page.close()


def test_files_are_dropped_and_pasted(
    browser: Any, address: str, model: fb.Model, photos: list[Path]
) -> None:
    seen = opened(browser, address)
    for event, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        seen.page.evaluate(
            """([event, holder, contents]) => {
                const data = new DataTransfer();
                contents.forEach((content, index) => {
                    const bytes = Uint8Array.from(atob(content), one => one.charCodeAt(0));
                    data.items.add(new File([bytes], `${event}${index}.jpg`));
                });
                const made = event === "drop" ? DragEvent : ClipboardEvent;
                const options = {[holder]: data, bubbles: true, cancelable: true};
                document.body.dispatchEvent(new made(event, options));
            }""",
            [event, holder, [base64.b64encode(path.read_bytes()).decode() for path in photos[:2]]],
        )
    rows = answered(seen, 4)
    names = [row.locator("th span").inner_text() for row in rows]
    assert names == ["drop0.jpg", "drop1.jpg", "paste0.jpg", "paste1.jpg"]
    assert [shown(row) for row in rows] == 2 * [expected(model, path) for path in photos[:2]]
    assert seen.complaints == []


def test_images_are_sent_one_at_a_time(browser: Any, address: str, photos: list[Path]) -> None:
    seen = opened(browser, address)
    sent: list[Any] = []
    seen.page.route("**/predict", lambda route: sent.append(route))
    seen.page.set_input_files("#file", photos[:3])
    for count in (1, 2, 3):
        while len(sent) < count:
            seen.page.wait_for_timeout(5)
        assert seen.text("status").startswith(f"{count - 1} of 3 answered")
        assert len(sent) == count
        sent[-1].abort() if count == 2 else sent[-1].continue_()
    rows = answered(seen, 3, ", 1 with an error")
    assert "is it a file, and fsbench still running?" in rows[1].inner_text()


def test_a_large_file_is_refused_by_the_server_too(browser: Any, address: str) -> None:
    seen = opened(browser, address)
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
        (row,) = answered(seen, 1)
        assert shown(row) == expected(model, photo)
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
