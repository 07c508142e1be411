"""Names in the report's figures, in a browser: complete, all present, and not overlapping."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.store.store import Store
from tests.support.answers import put_answers
from tests.support.report_pages import IDS, LABELS, QUERIES, answers, opened, record, report
from tests.support.synthetic_store import fill

OUTSIDE = """() => [...document.querySelectorAll("svg text")].filter(text => {
    const frame = text.ownerSVGElement.getBoundingClientRect(), box = text.getBoundingClientRect();
    return box.width && (box.left < frame.left - 0.5 || box.right > frame.right + 0.5
        || box.top < frame.top - 0.5 || box.bottom > frame.bottom + 0.5);
}).map(text => text.ownerSVGElement.getAttribute("aria-labelledby") + " " + text.textContent)"""
# Per figure that is shown: its names, and overlapping pairs.
NAMED = """kind => [...document.querySelectorAll("svg")].filter(
    svg => svg.getClientRects().length).map(svg => {
    const texts = [...svg.querySelectorAll(`.${kind} text`)];
    const boxes = texts.map(text => text.getBoundingClientRect());
    const on = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.5;
    return [texts.map(text => text.textContent),
        texts.filter((_, i) => boxes.some((b, j) => j != i && on(boxes[i], b)))
            .map(text => text.textContent)];
}).filter(([names]) => names.length)"""


def overridden(folder: Path, shares: list[float], datasets: tuple[str, ...]) -> Path:
    """A store of twelve methods with long names and overrides, with these accuracies."""
    kinds = [
        ("clip-lora", {"encoder": encoder, "position": "top-half", "rank": rank})
        for rank in (1, 2, 4, 16)
        for encoder in ("vision", "text")
    ]
    kinds += [("coop", {"class_token_position": "middle", "context_tokens": 16}), ("maple", {})]
    kinds += [
        ("a-method-of-a-very-long-name-indeed", {"learning_rate": 0.001}),
        ("汉字方法名字很长很长很长很长", {}),
    ]
    store = Store(folder)
    store.create()
    for place, ((method, options), share) in enumerate(zip(kinds, shares, strict=True)):
        for dataset, shots, seed in itertools.product(datasets, (1, 16), (1, 2)):
            right = round(QUERIES * share)
            made = record(method, dataset, shots, seed, right, options=options, overrides=options)
            made.timings["billed_seconds"] = 5 + 1000 * (share - 0.5) ** 2 + 30 * (place % 2)
            put_answers(store, made, answers(right, seed), LABELS, IDS)
    return folder


EQUAL = [0.7] * 12
PAIRS = [0.5 + 0.1 * (place // 4) for place in range(12)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shares", "datasets"),
    [(EQUAL, ("dtd",)), (PAIRS, ("dtd", "pets"))],
    ids=["equal ends", "ends in groups"],
)
def test_labels_are_whole_all_there_and_apart(
    browser: Any, tmp_path: Path, shares: list[float], datasets: tuple[str, ...]
) -> None:
    report(tmp_path, overridden(tmp_path / "s", shares, datasets))
    assert_labelled(browser, tmp_path / "page.html", 12)


@pytest.mark.slow
def test_a_page_about_eleven_data_sets_is_quick_small_and_labelled(
    browser: Any, tmp_path: Path
) -> None:
    store, path = tmp_path / "s", tmp_path / "page.html"
    fill(store, shots=(1, 16), seeds=(1, 2), queries=20, classes=5, zero_shot=True)
    start = time.process_time()
    report(tmp_path, store)
    assert time.process_time() - start < 15
    assert path.stat().st_size < 3_000_000
    seen = opened(browser, path)
    assert (seen.complaints, seen.requests) == ([], [path.as_uri()])
    box = seen.page.locator("#leaderboard").bounding_box()
    assert box["y"] + box["height"] <= 800
    assert_labelled(browser, path, 13)


def assert_labelled(browser: Any, path: Path, methods: int) -> None:
    """At both widths, all text lies in its figure, and all names are present and separate."""
    for width in (1280, 390):
        page = opened(browser, path, viewport={"width": width, "height": 900}).page
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert page.evaluate(OUTSIDE) == []
        ((ends, over),) = page.evaluate(NAMED, "end")
        assert (len(set(ends)), over) == (methods, []), ends
        costs = page.evaluate(NAMED, "name")
        assert costs
        for names, over in costs:
            assert (len(set(names)), over) == (methods, []), names
