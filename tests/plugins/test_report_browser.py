"""Reports in a browser: no requests, no errors, and working controls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from fewshot_bench.plugins.report.figures.svg import WIDTHS
from tests.support.report_pages import (
    HOSTILE,
    hostile,
    on_another_backbone,
    opened,
    report,
    store_of,
)

METHODS = {"coop": 0.5, "clip-lora": 0.8, "tip-adapter": 0.6, "maple": 0.7, "zero": 0.4}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report about five methods on two data sets."""
    folder = tmp_path_factory.mktemp("report")
    report(folder, store_of(folder / "s", METHODS))
    return folder / "page.html"


def names(page: Any, table: str = "leaderboard") -> list[str]:
    """Visible row headings, without their marks and papers."""
    heads = page.locator(f"#{table} tbody tr:visible th")
    own = "heads => heads.map(head => head.childNodes[1].data.trim())"
    found: list[str] = heads.evaluate_all(own)
    return found


def test_it_loads_nothing_and_complains_of_nothing(browser: Any, written: Path) -> None:
    seen = opened(browser, written)
    page = seen.page
    page.emulate_media(color_scheme="dark")
    page.locator("summary").first.click()
    assert seen.requests == [written.as_uri()]
    assert seen.complaints == []


def test_the_first_screen_has_the_verdict_and_the_leaderboard(browser: Any, written: Path) -> None:
    page = opened(browser, written).page
    for part in ("#verdict", "#leaderboard", "#leaderboard tbody tr:last-child"):
        box = page.locator(part).bounding_box()
        assert 0 <= box["y"] < box["y"] + box["height"] <= 800, part
        assert 0 <= box["x"] < box["x"] + box["width"] <= 1280, part


def test_tables_are_sorted_by_click_and_by_keyboard(browser: Any, written: Path) -> None:
    page = opened(browser, written).page
    best_first = names(page)
    assert best_first[0] == "clip-lora"
    head = page.locator("#leaderboard thead th", has_text="accuracy")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names(page) == best_first
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(page) == best_first[::-1]
    method = page.locator("#leaderboard thead th").first
    method.locator("button").press("Space")
    assert names(page) == sorted(best_first)
    assert head.get_attribute("aria-sort") is None


def test_a_difference_sorts_by_its_sign_and_what_is_missing_stands_last(
    browser: Any, written: Path
) -> None:
    page = opened(browser, written).page
    behind = page.locator("#leaderboard thead th", has_text="to the best").locator("button")
    behind.click()
    assert names(page)[0] == "clip-lora"
    behind.click()
    assert names(page)[-1] == "clip-lora"
    p = page.locator("#leaderboard thead th").nth(4).locator("button")
    assert p.inner_text() == "p"
    for _ in range(2):
        p.click()
        assert names(page)[-1] == "clip-lora", "the best has no p-value"


def test_the_filter_hides_lines_and_says_how_many_are_left(browser: Any, written: Path) -> None:
    page = opened(browser, written).page
    page.locator("#leaderboard-filter").fill("COOP")
    assert names(page) == ["coop"]
    assert page.locator("#leaderboard-count").inner_text() == "1 of 5"
    page.locator("#leaderboard-filter").fill("")
    assert len(names(page)) == 5


def test_the_legend_hides_a_method_in_every_figure(browser: Any, written: Path) -> None:
    page = opened(browser, written).page
    button = page.locator(".legend button", has_text="coop")
    series = button.get_attribute("data-series")
    shown = page.locator(f"svg .{series}:visible").count()
    assert shown > 4
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.locator(f"svg .{series}:visible").count() == 0
    button.press("Enter")
    assert page.locator(f"svg .{series}:visible").count() == shown


def test_a_figure_is_saved_as_it_is_shown(browser: Any, written: Path, tmp_path: Path) -> None:
    seen = opened(browser, written, color_scheme="dark")
    seen.page.locator(".legend button", has_text="coop").click()
    for form in ("svg", "png"):
        with seen.page.expect_download() as waited:
            seen.page.locator(f".full button[data-save={form}]").first.click()
        assert waited.value.suggested_filename == f"curves-wide.{form}"
        waited.value.save_as(tmp_path / f"curves.{form}")
    svg = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(svg).get("viewBox")
    assert "var(--" not in svg
    names = re.findall(r"<text[^>]*>(\S+) +\d\d\.\d\d</text>", svg)
    assert sorted(names) == sorted(set(METHODS) - {"coop"}), "coop is hidden"
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width == pytest.approx(3 * 72 * WIDTHS["wide"], abs=2)
        # The dark paper, and ink on it.
        assert image.convert("RGB").getpixel((2, 2)) == (20, 23, 26)
        assert len(image.convert("L").getcolors() or ()) > 50
    assert seen.complaints == []
    assert seen.requests[:1] == [written.as_uri()]
    assert all(url.startswith(("data:image/svg", "blob:")) for url in seen.requests[1:])


def test_the_card_and_the_texts_are_taken_along(browser: Any, written: Path) -> None:
    page = opened(browser, written).page
    page.locator("summary", has_text="A card to share").click()
    with page.expect_download() as waited:
        page.locator(".card button[data-save=png]").click()
    with Image.open(waited.value.path()) as image:
        assert image.size == (1200, 630)
    page.evaluate(
        "() => { window.taken = []; navigator.clipboard.writeText = async t => taken.push(t); }"
    )
    page.locator("summary", has_text="The table as LaTeX").click()
    for what in ("signature of these records", "the table as LaTeX"):
        button = page.get_by_role("button", name=f"Copy: {what}")
        button.click()
        assert button.inner_text() == "copied"
    signature, latex = page.evaluate("window.taken")
    assert signature.startswith("fsbench:1|m:")
    assert "\\toprule" in latex


def test_a_phone_has_the_curves_of_its_own(browser: Any, written: Path) -> None:
    page = opened(browser, written, viewport={"width": 390, "height": 844}).page
    curves = page.locator(".full svg:visible").first
    assert curves.get_attribute("aria-labelledby") == "curves-narrow-title curves-narrow-desc"
    ends = curves.locator(".end text").all()
    assert len(ends) == len(METHODS)
    for end in ends:
        box = end.bounding_box()
        assert box["x"] + box["width"] <= 390
        assert box["height"] > 9, "it can be read"


def test_the_legend_of_one_block_leaves_the_others(browser: Any, tmp_path: Path) -> None:
    methods = {"coop": 0.5, "clip-lora": 0.8}
    store = store_of(tmp_path / "s", methods)
    report(tmp_path, store_of(store, methods, change=on_another_backbone))
    page = opened(browser, tmp_path / "page.html").page
    first, second = page.locator("article").all()
    button = first.locator(".legend button", has_text="coop")
    series = button.get_attribute("data-series")
    shown = second.locator(f"svg .{series}:visible").count()
    assert shown > 4
    button.click()
    assert first.locator(f"svg .{series}:visible").count() == 0
    assert second.locator(f"svg .{series}:visible").count() == shown


def test_figures_follow_the_color_scheme(browser: Any, written: Path) -> None:
    inks = {}
    for scheme in ("light", "dark"):
        page = opened(browser, written, color_scheme=scheme).page
        inks[scheme] = page.evaluate(
            "[document.body, document.querySelector('svg text')].map((part, i) =>"
            " getComputedStyle(part)[i ? 'fill' : 'backgroundColor'])"
        )
    assert inks["light"] == ["rgb(253, 253, 252)", "rgb(28, 31, 35)"]
    assert inks["dark"] == ["rgb(20, 23, 26)", "rgb(231, 233, 235)"]


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_screen_scrolls_tables_and_not_the_page(
    browser: Any, written: Path, width: int
) -> None:
    page = opened(browser, written, viewport={"width": width, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_phone_shows_the_verdict_and_who_is_told_apart(browser: Any, written: Path) -> None:
    page = opened(browser, written, viewport={"width": 390, "height": 844}).page
    box = page.locator(".verdict").bounding_box()
    assert box["y"] + box["height"] <= 844
    assert not page.locator("#leaderboard .detail").first.is_visible()
    head = page.locator("#leaderboard thead th").nth(3).bounding_box()
    assert head["x"] + head["width"] <= 390, "the difference to the best"


def test_everything_is_open_on_paper(browser: Any, written: Path) -> None:
    page = opened(browser, written, color_scheme="dark").page
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("details:not([open])").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert len(page.pdf(format="A4")) > 20_000


def test_the_keyboard_reaches_the_results_first(browser: Any, written: Path) -> None:
    page = opened(browser, written).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    methods = {name: 0.3 + 0.07 * place for place, name in enumerate(HOSTILE)}
    store = store_of(tmp_path / "s", methods, HOSTILE[:2], (1,), hostile)
    report(tmp_path, store, "--title", HOSTILE[1])
    seen = opened(browser, tmp_path / "page.html")
    seen.page.wait_for_timeout(100)
    assert seen.page.evaluate("window.hit") is None
    assert seen.complaints == []
    assert len(seen.requests) == 1
    assert seen.page.evaluate("document.documentElement.scrollWidth") == 1280
