"""The verdict of a report is correct for ties, single seeds, gaps and baselines, with costs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report.text import p_value
from fewshot_bench.store.store import Store
from tests.support.answers import put_answers
from tests.support.report_pages import IDS, LABELS, QUERIES, answers, read, record, store_of


def verdict_of(folder: Path, store: Path, *words: str) -> str:
    """The verdict text, which precedes the leaderboard."""
    text = read(folder, store, *words)
    return text[text.index("Provenance Missing ") : text.index("Leaderboard")]


def drop(store: Path, unwanted: Callable[[Record], bool]) -> None:
    """Delete the records selected by `unwanted`."""
    opened = Store(store)
    for found in list(opened.records()):
        if unwanted(found):
            opened.file(found.spec.key()).unlink()


def chance(rng: np.random.Generator, share: float) -> np.ndarray:
    """Random logits with this expected accuracy."""
    right = rng.random(QUERIES) < share
    chosen = np.where(right, LABELS, (LABELS + 1) % 4)
    return 3 * np.eye(4, dtype=np.float32)[chosen]


def test_methods_that_agree_are_level(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.7, "maple": 0.7, "zero": 0.3})
    text = verdict_of(tmp_path, store)
    assert "coop is level with maple at 73.96 % top-1 accuracy" in text
    assert "It is not significantly better than maple (0.00 points, p = 1.00)." in text
    assert "It is significantly better than zero (+40.00 points, p < 0.001)." in text
    assert "would be missed" not in text, "of two equal methods no least difference is known"


def test_what_can_be_seen_is_no_more_than_a_percentage_and_nothing_for_equal_methods(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "s")
    store.create()
    hits = {"coop": (70, 72), "maple": (70, 72), "zero": (69, 40)}
    for method, rights in hits.items():
        for seed, right in enumerate(rights, 1):
            made = record(method, "dtd", 16, seed, right)
            put_answers(store, made, answers(right, seed), LABELS, IDS)
    page = read(tmp_path, store.path)
    assert "would be missed" not in page, "two seeds say too little for that"
    lines = page[page.index("coop against each other method") :]
    assert re.search(r"maple 0\.00 . 1\.00 1\.00 — ", lines), lines[:400]
    assert re.search(r"zero .* >100 ", lines[:400]), lines[:400]


def test_one_seed_makes_no_winner(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8})
    text = verdict_of(tmp_path, store, "--seeds", "1")
    assert "maple is ahead with" in text
    assert "(one seed)" in text
    assert "With one seed to compare, this is about these fits, not about the methods." in text
    assert "wins" not in text


@pytest.mark.parametrize(
    ("seeds", "advice", "further"),
    [
        ("1,2", "Two seeds are too few to tell methods apart. Run a third, then", "--seeds 3 "),
        ("2", "One seed is too few to tell methods apart. Run two more, then", "--seeds 1,3 "),
        ("1,2,3", "", ""),
    ],
)
def test_few_seeds_lead_with_the_command_for_more(
    tmp_path: Path, seeds: str, advice: str, further: str
) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.5})
    text = verdict_of(tmp_path, store, "--seeds", seeds)
    assert ("too few" in text) == bool(advice)
    if advice:
        assert text.index(advice) < text.index("significantly")
        command = f"fsbench run --store {store} --method coop,maple --dataset dtd,pets "
        assert f"{command}--shots 1,16 {further}--backbone test" in text


def test_who_is_significantly_worse_is_named_wherever_they_rank(tmp_path: Path) -> None:
    """A noisy method far behind can tie with the best while a steady one ahead of it does not."""
    store = Store(tmp_path / "s")
    store.create()
    for seed in (1, 2, 3):
        for method, right in (("best", 70), ("steady", 60), ("steady-too", 59)):
            put_answers(store, record(method, "dtd", 16, seed, right), answers(right), LABELS, IDS)
        right = {1: 75, 2: 10, 3: 60}[seed]
        put_answers(store, record("wild", "dtd", 16, seed, right), answers(right), LABELS, IDS)
    text = verdict_of(tmp_path, store.path)
    assert "best is ahead with 87.50 %" in text
    assert "It is not significantly better than wild (+27.08 points" in text
    assert "It is significantly better than steady and steady-too." in text
    assert "would be missed" not in text, "no accuracy differs by more than 100 points"


def test_a_lead_that_rests_on_a_seed_of_its_own_is_not_called_significant(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.create()
    for method, rights in (("coop", (60, 60, 80)), ("maple", (65, 65))):
        for seed, right in enumerate(rights, start=1):
            made = record(method, "dtd", 16, seed, right)
            made = dataclasses.replace(
                made, timings={"billed_seconds": 9.0 if method == "coop" else 1.0}
            )
            put_answers(store, made, answers(right), LABELS, IDS)
    text = read(tmp_path, store.path)
    assert "coop is ahead with 83.33 %" in text
    assert "significantly better" not in text
    assert "the seeds that both have it is significantly worse than maple (−6.25 points, p" in text
    assert "is maple: 1.00 s, 6.25 points ahead on the seeds that both have." in text


def test_methods_without_predictions_are_no_part_of_all_others(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8, "tip": 0.6})
    for found in list(Store(store).records()):
        if found.spec.method == "coop":
            Store(store).file(found.spec.key()).with_suffix(".npz").unlink()
    text = verdict_of(tmp_path, store)
    assert "maple is ahead with" in text
    assert "It is significantly better than tip (" in text
    assert "Not compared for want of paired predictions: coop." in text


def test_methods_with_gaps_are_named_with_what_they_lack(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8, "tip": 0.6})
    drop(store, lambda r: r.spec.method == "tip" and r.spec.dataset == "pets")
    assert "Not ranked: tip (no result on pets)." in verdict_of(tmp_path, store)
    text = read(tmp_path, store)
    assert "tip — no result on pets" in text[text.index("Leaderboard") :]


def test_fewer_seeds_than_the_others_are_marked(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8})
    drop(store, lambda r: r.spec.method == "maple" and r.spec.split_seed == 3)
    text = read(tmp_path, store)
    assert re.search(r"\([0-9.]+ and [0-9.]+, two seeds\)", text)
    board = text[text.index("Leaderboard") :]
    assert "(n=2) best" in board
    assert "(n=" not in board[board.index("coop") : board.index("Compared:")]


def test_the_headline_says_where_fewer_methods_are_complete(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8}, shots=(1, 4, 16))
    drop(store, lambda r: r.spec.method == "coop" and r.spec.shots > 1)
    text = read(tmp_path, store)
    assert "at 1 shot" in text
    assert "At 4 and 16 shots fewer methods are complete; choose with --shots." in text


def test_a_baseline_is_in_the_verdict(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8, "same": 0.5, "zero": 0.3})
    counts = "1 significantly better, 1 significantly worse and 1 not told apart from it"
    text = verdict_of(tmp_path, store, "--baseline", "coop")
    assert f"Of 3 methods compared with the baseline coop: {counts}." in text
    assert "compared with the baseline" not in verdict_of(tmp_path, store)


def test_the_cheaper_one_says_whether_it_is_behind_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.create()
    for place, (method, seconds) in enumerate((("dear", 90.0), ("cheap", 1.5))):
        rng = np.random.default_rng(place)
        for seed in (1, 2, 3):
            logits = chance(rng, 0.66 if method == "dear" else 0.6)
            right = int((logits.argmax(1) == LABELS).sum())
            made = record(method, "dtd", 16, seed, right)
            timings = {"billed_seconds": seconds}
            put_answers(store, dataclasses.replace(made, timings=timings), logits, LABELS, IDS)
    text = read(tmp_path, store.path)
    assert "would be missed here more than one time in five; more seeds show smaller ones" in text
    assert "takes 1.5 min on cpu" in text
    assert "The best of those that take at most half as long is cheap: 1.50 s," in text
    assert "points behind, which is not significant." in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"footprint": {"trained": 0}},
            "trains no parameters and takes 4.00 s on cpu. Not recorded: memory.",
        ),
        ({"footprint": {}, "timings": {}}, "What maple costs is not recorded."),
    ],
)
def test_a_cost_that_no_record_states_is_named(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    methods = {"coop": 0.5, "maple": 0.8}
    store = store_of(
        tmp_path / "s", methods, change=lambda made: dataclasses.replace(made, **change)
    )
    assert said in read(tmp_path, store)


def test_p_values_show_on_which_side_of_the_level_they_are() -> None:
    values = (0.0004, 0.012, 0.0496, 0.04999, 0.05, 0.0502, 0.0506, 0.2, 1.0)
    shown = ("< 0.001", "= 0.012", "= 0.0496", "= 0.04999", "= 0.050", "= 0.0502", "= 0.051")
    assert tuple(map(p_value, values)) == (*shown, "= 0.20", "= 1.00")


def test_one_comparison_needs_no_correction(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8})
    text = read(tmp_path, store)
    assert "test images, of one comparison, so not corrected; in grey italics" in text
    assert "It is significantly better than coop (" in text


def test_points_behind_are_those_of_the_test(tmp_path: Path) -> None:
    """A seed that only one method has affects its mean, but not the difference."""
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8})

    def quick(made: Record) -> Record:
        return dataclasses.replace(made, timings={"billed_seconds": 0.1})

    opened = Store(store)
    for seed, right in ((1, 60), (2, 61)):
        for dataset in ("dtd", "pets"):
            put_answers(
                opened, quick(record("tip", dataset, 16, seed, right)), answers(right), LABELS, IDS
            )
    text = read(tmp_path, store)
    found = re.search(r"tip 75.62 \(\S+\) \(n=2\) (−[0-9.]+) ", text)
    assert found is not None
    assert f"is tip: 0.10 s, {found[1][1:]} points behind" in text
