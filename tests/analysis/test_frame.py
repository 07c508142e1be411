"""A frame of records: columns, distinct lines and rules are those of a loop over the records."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.analysis.conditions import overlaps_of
from fewshot_bench.analysis.frame import (
    MustAgree,
    conflicts,
    count,
    decode,
    distinct,
    frame,
    load,
    values,
)
from fewshot_bench.api.record import Record, overlap_texts, overlaps
from tests.support.compare_records import make

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
def stores(draw: st.DrawFn) -> list[Record]:
    records = []
    for seed in draw(st.lists(st.integers(1, 300), max_size=12)):
        record = make(
            draw(st.sampled_from(["coop", "tip-adapter"])),
            draw(st.sampled_from(["dtd", "pets"])),
            seed=seed,
            top1=draw(st.sampled_from([50.0, None])),
            limit=draw(st.sampled_from([None, 5])),
            options=draw(st.sampled_from([{}, {"lr": 1}, {"lr": 1.0}])),
        )
        records.append(dataclasses.replace(record, split=draw(SPLITS)))
    return records


def line(record: Record) -> dict[str, Any]:
    spec, split = record.spec, record.split
    return {
        **{name: getattr(spec, name) for name in ("method", "dataset", "limit", "split_seed")},
        "evaluated": spec.evaluated,
        "split.verified": split.get("verified"),
        "split": split.get("digest", ""),
        "done": record.status == "done",
        "options": str(spec.options).replace("'", '"').replace(" ", ""),
    }


NAMES = tuple(line(make()))
RULES = (
    MustAgree("split", ("evaluated", "split_seed"), "split", ("split",)),
    MustAgree("options", ("method",), "options"),
    MustAgree("limit", ("limit", "method"), "split", ("done", "split")),
    MustAgree("seeds", (), "split_seed"),
)


@settings(max_examples=40, deadline=None)
@given(stores())
def test_columns_and_distinct_lines_are_those_of_the_records(records: list[Record]) -> None:
    data = load(frame(records), *NAMES)
    lines = [tuple(line(record).values()) for record in records]
    assert list(zip(*(values(data, name) for name in NAMES), strict=True)) == lines
    assert distinct(data, *NAMES) == list(dict.fromkeys(lines))
    assert count(data, *NAMES) == Counter(lines)
    assert list(map(decode, values(data, "options"))) == [r.spec.options for r in records]


@settings(max_examples=40, deadline=None)
@given(stores())
def test_conflicts_are_those_of_a_loop_over_the_records(records: list[Record]) -> None:
    data = frame(records)
    for rule in RULES:
        lines = [(index, line(record)) for index, record in enumerate(records)]
        lines = [(index, own) for index, own in lines if all(own[need] for need in rule.needs)]
        facts = defaultdict(set)
        for _, own in lines:
            facts[tuple(own[key] for key in rule.keys)].add(own[rule.value])
        expected = [i for i, own in lines if len(facts[tuple(own[k] for k in rule.keys)]) > 1]
        assert list(conflicts(data, rule).index) == expected


@settings(max_examples=20, deadline=None)
@given(stores())
def test_overlaps_of_a_frame_are_those_of_the_records(records: list[Record]) -> None:
    counted = overlaps_of(frame(records))
    assert counted == Counter(overlaps(records))
    assert overlap_texts(counted) == overlap_texts(overlaps(records))
