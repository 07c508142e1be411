"""The site in a browser: no requests, no errors, filters, permanent links and copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fewshot_bench.plugins.site.results import write_results
from tests.helpers import fsbench
from tests.plugins.test_report import HOSTILE, hostile
from tests.plugins.test_report_browser import opened
from tests.plugins.test_site import METHODS, entries, gathered
from tests.report_pages import store_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site about three methods on two data sets."""
    made = tmp_path_factory.mktemp("site")
    store = store_of(made / "s", METHODS)
    assert fsbench("site", store, "-O", made / "site").code == 0
    return made / "site"


def asked(page: Any) -> dict[str, str]:
    """What the address of a page asks for."""
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()}


def names(page: Any, table: str) -> list[str]:
    """The row headings of a table, without their marks and papers."""
    heads = page.locator(f"#{table} tbody th")
    own = "heads => heads.map(h => [...h.childNodes].find(n => n.nodeType === 3).data)"
    found: list[str] = heads.evaluate_all(own)
    return found


def test_pages_load_nothing_and_complain_of_nothing(browser: Any, folder: Path) -> None:
    for name in ("index.html", "results.html"):
        seen = opened(browser, folder / name)
        seen.page.emulate_media(color_scheme="dark")
        seen.page.locator("tbody button").first.click()
        assert seen.page.locator("#detail").is_visible()
        seen.page.keyboard.press("Escape")
        for summary in seen.page.locator("summary").all():
            if summary.is_visible():
                summary.click()
        assert seen.requests == [(folder / name).as_uri()]
        assert seen.complaints == []


def test_filters_of_the_atlas_are_a_permanent_link(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "index.html").page
    page.locator("#f-shots").select_option("4")
    page.locator("#f-method").fill("clip-lora")
    assert {name.split("[")[0] for name in names(page, "numbers")} == {"clip-lora"}
    shown, _, every = page.locator("#numbers-count").inner_text().partition(" of ")
    assert int(shown) == page.locator("#numbers tbody tr").count() == 150
    page.locator("[data-more=numbers]").click()
    assert f"{page.locator('#numbers tbody tr').count()} rows" == every
    assert asked(page) == {"shots": "4", "method": "clip-lora"}
    again = opened(browser, folder / "index.html")
    again.page.goto(page.url)
    again.page.reload()
    assert names(again.page, "numbers") == names(page, "numbers")[:150]
    assert again.page.locator("#f-shots").input_value() == "4"


def test_a_printed_number_leads_to_its_source(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "index.html").page
    page.locator("#f-method").fill("clip-lora")
    row = page.locator("#numbers tbody tr", has=page.locator("td:text-is('clip-lora')")).first
    row.locator("button").first.click()
    told = page.locator("#detail").inner_text()
    for part in ("83.0", "Zanella", "clip-lora-500 per shot", "seeds", "Others print"):
        assert part in told
    assert page.locator("#detail a[href^='https://']").count()
    link = page.url
    page.keyboard.press("Escape")
    assert "number" not in asked(page)
    page.goto("about:blank")
    page.goto(link)
    assert "Zanella" in page.locator("#detail").inner_text()


def test_coverage_leads_to_numbers(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "index.html").page
    row = page.locator("#coverage tbody tr", has=page.locator("th:text-is('clip-lora')"))
    assert row.locator("td").all_inner_texts()[1:] == ["11"] * 5
    row.locator("td").nth(3).locator("button").click()
    assert asked(page) == {"shots": "4", "method": "clip-lora"}
    assert "nobody has printed" in page.locator("#coverage-text").inner_text()


def test_tables_are_sorted_by_click_and_walked_by_arrows(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "results.html").page
    assert names(page, "leaders") == ["clip-lora", "tip-adapter", "coop"]
    head = page.locator("#leaders thead button", has_text="method")
    head.press("Enter")
    assert names(page, "leaders") == ["clip-lora", "coop", "tip-adapter"]
    assert page.evaluate("document.activeElement.textContent") == "method"
    assert page.locator("#leaders th[aria-sort=ascending]").count() == 1
    page.locator("#leaders tbody button").first.focus()
    page.keyboard.press("ArrowDown")
    assert "coop" in page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert page.locator("#leaders tbody button[tabindex='0']").count() == 1


def test_a_result_leads_to_its_records_and_is_copied(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "results.html").page
    page.locator("#f-columns").select_option("sets")
    page.locator("#leaders tbody tr").first.locator("button").nth(1).click()
    detail = page.locator("#detail")
    detail.locator("tbody tr").first.wait_for()
    assert detail.locator("tbody tr").count() == 3
    assert "fsbench:1|m:clip-lora" in page.locator("#signature").inner_text()
    assert page.locator("#command").inner_text().startswith("fsbench run --method clip-lora")
    assert {"row": "clip-lora", "set": "dtd"}.items() <= asked(page).items()
    page.keyboard.press("Escape")
    page.locator("summary", has_text="LaTeX").click()
    page.locator("#latex", has_text="toprule").wait_for()
    page.locator("details[open] button[data-copy]").click()
    page.locator("details[open] button[data-copy]:not(:text-is('copy'))").wait_for()
    page.locator("summary", has_text="card").click()
    assert page.locator("#card svg").is_visible()


def test_two_methods_are_compared(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "results.html").page
    page.locator("#f-two").select_option("coop")
    test = page.locator("#compared-test")
    page.locator("#compared-test", has_text="Holm").wait_for()
    # clip-lora has 24 of 80 queries more right than coop.
    assert "+30.00 points, p < 0.001 after Holm" in test.inner_text()
    assert asked(page) == {"two": "coop"}
    assert page.locator("#compared tbody tr").first.locator("td").last.inner_text() == "+30.00"


def test_a_phone_shows_the_first_column_without_sideways_scroll(browser: Any, folder: Path) -> None:
    for name, table in (("index.html", "numbers"), ("results.html", "leaders")):
        size = {"width": 390, "height": 800}
        page = opened(browser, folder / name, viewport=size).page
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        folded = page.locator("summary", has_text="Filters: ")
        assert not page.locator("#f-method").is_visible()
        assert "shots 16" in folded.inner_text()
        folded.click()
        page.locator("#f-method").fill("clip")
        assert "method clip" in folded.inner_text()
        page.locator(f"#{table}").evaluate("t => { t.parentElement.scrollLeft = 300; }")
        box = page.locator(f"#{table} tbody th").first.bounding_box()
        assert 0 <= box["x"] < box["x"] + box["width"] <= 200


def test_foreign_names_run_nothing(browser: Any, tmp_path: Path) -> None:
    methods = {name: 0.3 + 0.07 * place for place, name in enumerate(HOSTILE)}
    store = store_of(tmp_path / "s", methods, HOSTILE[:3], (1,), hostile)
    cells = entries(store, HOSTILE[0], "verified", disagrees_with=(HOSTILE[2],))
    path = tmp_path / "page.html"
    path.write_text(write_results(gathered(cells), HOSTILE[1]), "utf-8")
    seen = opened(browser, path)
    seen.page.locator("#leaders tbody button").first.click()
    seen.page.locator("#detail tbody tr").first.wait_for()
    seen.page.keyboard.press("Escape")
    for summary in seen.page.locator("summary").all():
        summary.click()
    seen.page.locator("#card svg").wait_for()
    assert seen.page.evaluate("window.hit") is None
    assert seen.page.locator("#main img, #detail img").count() == 0
    assert seen.requests == [path.as_uri()]
