"""Columns of records against plain loops over the records."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.analysis.conditions import columns_of, overlaps_of
from fewshot_bench.analysis.record_columns import Rule
from fewshot_bench.api.image_facts import overlap_texts, overlaps
from fewshot_bench.api.record import Record
from tests.compare_records import make

# Enough values that places are stored in one byte in some columns, and in more in others.
SEEDS = 400
SPLITS: Any = st.fixed_dictionaries(
    {},
    optional={
        "digest": st.sampled_from(["", "a", "b"]),
        "overlap": st.integers(0, 2),
        "test": st.integers(3, 4),
        "verified": st.sampled_from([True, False, None]),
    },
)


@st.composite
def drawn_records(draw: st.DrawFn) -> list[Record]:
    found = []
    for seed in draw(st.lists(st.integers(1, SEEDS), max_size=12)):
        record = make(
            draw(st.sampled_from(["coop", "tip-adapter"])),
            draw(st.sampled_from(["dtd", "pets"])),
            seed=seed,
            top1=draw(st.sampled_from([50.0, None])),
            limit=draw(st.sampled_from([None, 5])),
            options=draw(st.sampled_from([{}, {"lr": 1}, {"lr": 1.0}])),
        )
        found.append(dataclasses.replace(record, split=draw(SPLITS)))
    return found


def plain(record: Record) -> dict[str, Any]:
    spec, split = record.spec, record.split
    return {
        **{name: getattr(spec, name) for name in ("method", "dataset", "limit", "split_seed")},
        "evaluated": spec.evaluated,
        "split.verified": split.get("verified"),
        "split": split.get("digest", ""),
        "done": record.status == "done",
        "options text": str(spec.options).replace("'", '"').replace(" ", ""),
    }


RULES = (
    Rule("split", ("evaluated", "split_seed"), "split", ("split",)),
    Rule("options", ("method",), "options text"),
    Rule("limit", ("dataset", "method"), "limit", ("done", "split")),
    Rule("seeds", (), "split_seed"),
    Rule("verified", ("dataset",), "split.verified"),
)


def conflicts(rule: Rule, records: list[Record]) -> list[tuple[Record, tuple[Any, ...], str]]:
    """Records that a rule concerns, in places that have several values."""
    rows = [(record, plain(record)) for record in records]
    rows = [(record, row) for record, row in rows if all(row[need] for need in rule.needs)]
    values = defaultdict(set)
    for _, row in rows:
        values[tuple(row[name] for name in rule.place)].add(row[rule.value])
    found = [(r, tuple(row[name] for name in rule.place), row[rule.value]) for r, row in rows]
    return [(record, place, str(v)) for record, place, v in found if len(values[place]) > 1]


@settings(max_examples=150)
@given(drawn_records())
def test_conflicts_are_those_of_a_loop_over_the_records(records: list[Record]) -> None:
    columns = columns_of(records)
    for rule in RULES:
        assert list(rule.conflicts(columns)) == conflicts(rule, records)


@settings(max_examples=150)
@given(drawn_records())
def test_columns_follow_the_order_of_the_records(records: list[Record]) -> None:
    columns = columns_of(records)
    names = tuple(plain(make())) if not records else tuple(plain(records[0]))
    rows = [tuple(plain(record).values()) for record in records]
    assert list(columns.rows(names)) == rows
    assert [list(columns[name]) for name in names] == [[row[i] for row in rows] for i in range(9)]
    half = [r for r in records if r.spec.limit is None and r.split.get("verified") is False]
    test = ("limit", "split.verified")
    found = columns.having(lambda limit, picks: limit is None and picks is False, *test)
    assert list(found) == half
    assert len(found) == len(half)
    assert list(found[1:]) == half[1:]
    for name in names:
        assert set(map(repr, found.distinct(name))) == {repr(plain(r)[name]) for r in half}
    assert [records[place] for place in columns.places(half)] == half
    order = ("dataset", "split_seed")
    ordered = columns.sorted(order)
    by_hand = sorted(records, key=lambda r: (r.spec.dataset, r.spec.split_seed))
    assert list(ordered.records) == by_hand
    assert list(ordered.rows(names)) == [tuple(plain(record).values()) for record in by_hand]


@settings(max_examples=150)
@given(drawn_records())
def test_overlaps_of_columns_are_those_of_the_records(records: list[Record]) -> None:
    counted = overlaps_of(columns_of(records))
    assert counted == Counter(overlaps(records))
    assert overlap_texts(counted) == overlap_texts(overlaps(records))


def test_columns_with_more_than_a_byte_of_values() -> None:
    records = [make(seed=seed, dataset=f"d{seed % 2}") for seed in range(1, SEEDS)]
    columns = columns_of(records)
    seeds = [record.spec.split_seed for record in records]
    assert list(columns["split_seed"]) == seeds
    ordered = columns.sorted(("dataset", "split_seed"))
    assert list(ordered["split_seed"]) == sorted(seeds, key=lambda seed: (seed % 2, seed))
    rule = Rule("seeds", ("dataset",), "split_seed")
    assert [text for _, _, text in rule.conflicts(columns)] == list(map(str, seeds))
