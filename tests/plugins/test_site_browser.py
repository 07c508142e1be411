"""The site in a browser: no requests, no errors, filters, permanent links and copies."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fewshot_bench.plugins.site.results import write_results
from fewshot_bench.store.store import Store
from tests.plugins.test_site import METHODS, entries, gathered
from tests.support.helpers import fsbench
from tests.support.report_pages import HOSTILE, hostile, opened, store_of


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
    row = page.locator("#numbers tbody tr", has=page.locator("td span:text-is('clip-lora')")).first
    row.locator("button").first.click()
    told = page.locator("#detail").inner_text()
    for part in ("83.0", "Zanella", "clip-lora-500 per shot", "seeds", "Others print"):
        assert part in told
    assert page.locator("#detail a[href^='https://']").count()
    link = page.url
    page.keyboard.press("Escape")
    page.wait_for_function("!location.hash.includes('number')")
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
    assert {"row": "clip-lora by s", "set": "dtd"}.items() <= asked(page).items()
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


def test_a_difference_is_over_the_seeds_that_both_have(browser: Any, tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", METHODS)
    opened_store = Store(store)
    for record in list(opened_store.records()):
        spec = record.spec
        if (spec.method, spec.train_seed) == ("coop", 2):
            opened_store.file(spec.key()).unlink()
    assert fsbench("site", store, "-O", tmp_path / "site").code == 0
    words = ("--store", store, "--baseline", "coop", "--shots", 16, "--format", "csv")
    lines = csv.DictReader(io.StringIO(fsbench("compare", *words).out))
    wanted = {
        line["dataset"]: f"{float(line['delta_mean']):+.2f}"
        for line in lines
        if line["method"] == "clip-lora"
    }
    page = opened(browser, tmp_path / "site" / "results.html").page
    page.locator("#f-two").select_option("coop")
    page.locator("#compared-test", has_text="by clip-lora").wait_for()
    rows = page.locator("#compared tbody tr")
    shown = {
        row.locator("th").inner_text(): row.locator("td").last.inner_text() for row in rows.all()
    }
    assert wanted.items() <= shown.items()
    assert len(wanted) == 3


def test_a_single_data_set_is_no_average_and_shots_rise(browser: Any, tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", METHODS, ("dtd",), (16,))
    store_of(store, {"coop": 0.5}, ("dtd",), (4, 2))
    assert fsbench("site", store, "-O", tmp_path / "site").code == 0
    page = opened(browser, tmp_path / "site" / "results.html").page
    assert page.locator("#leaders th[aria-sort=descending]").inner_text().strip() == "dtd"
    assert page.locator("#f-shots option").all_inner_texts() == ["2", "4", "16"]


def test_a_link_to_a_part_keeps_what_is_shown(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "index.html").page
    page.goto(f"{(folder / 'index.html').as_uri()}#coverage-part")
    page.reload()
    assert page.locator("#coverage tbody tr").count()
    page.locator("#f-shots").select_option("4")
    page.locator("nav a", has_text="Papers disagree").click()
    page.wait_for_function("scrollY > 0")
    assert asked(page) == {"shots": "4"}
    page.reload()
    assert page.locator("#f-shots").input_value() == "4"


def test_the_back_button_closes_a_number(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "index.html").page
    page.locator("#f-shots").select_option("4")
    number = page.locator("#numbers tbody button").first
    number.click()
    page.go_back()
    page.locator("#detail").wait_for(state="hidden")
    assert asked(page) == {"shots": "4"}
    number.click()
    page.keyboard.press("Escape")
    page.wait_for_function("!location.hash.includes('number')")
    assert number.evaluate("button => button === document.activeElement")
    page.go_forward()
    page.locator("#detail").wait_for()


def test_a_link_opens_the_same_table_and_row_whatever_joins_them(
    browser: Any, tmp_path: Path
) -> None:
    one, two = (store_of(tmp_path / name, METHODS) for name in ("one", "two"))
    fewer = store_of(tmp_path / "fewer", {"maple": 0.5}, shots=(1,))
    before = entries(one, "lab-a", "verified")
    path = tmp_path / "page.html"
    path.write_text(write_results(gathered(before, entries(fewer, "lab-c", "submitted")), "t"))
    page = opened(browser, path).page
    page.locator("#f-level").select_option("submitted")
    page.locator("#f-level").select_option("verified")
    subject = page.locator("#leaders-subject")
    assert "at 1 shot; verified" in subject.inner_text()
    page.locator("#leaders tbody button").first.click()
    page.locator("#detail tbody tr").first.wait_for()
    link = page.url
    after = entries(one, "lab-a", "re-run"), entries(two, "lab-b", "re-run")
    path.write_text(write_results(gathered(*after), "t"))
    page = opened(browser, path).page
    page.goto(link)
    page.reload()
    page.locator("#detail tbody tr").first.wait_for()
    assert page.locator("#detail-head").inner_text() == "clip-lora (lab-a)"
    assert "at 1 shot; re-run" in page.locator("#leaders-subject").inner_text()


def test_cells_that_disagree_lead_to_their_records(browser: Any, tmp_path: Path) -> None:
    one, two = (store_of(tmp_path / n, {"coop": s}) for n, s in (("one", 0.5), ("two", 0.7)))
    pair = entries(one, "lab-a", "verified", disagrees_with=("lab-b",))
    other = entries(two, "lab-b", "submitted", disagrees_with=("lab-a",))
    path = tmp_path / "page.html"
    path.write_text(write_results(gathered(pair, other), "t"))
    page = opened(browser, path).page
    row = page.locator("#conflicts tbody tr", has_text="pets, 1 shot, seed 2")
    row.locator("button").nth(1).click()
    page.locator("#detail tbody tr").first.wait_for()
    assert page.locator("#detail-head").inner_text() == "coop (lab-b) on pets"
    assert "at 1 shot; submitted" in page.locator("#leaders-subject").inner_text()


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
