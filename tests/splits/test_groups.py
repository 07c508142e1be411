"""Batches and streams: partitions that follow from the list, the seed and the condition alone."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.splits.groups import describe_groups, draw_groups, number_groups

CONDITIONS = (
    *("all", "batch-64", "batch-1000", "batch-64-k2-10"),
    *("stream", "stream-g0.01", "stream-classes"),
)
LABELS = st.lists(st.integers(0, 30), min_size=1, max_size=400)
# 20 classes of 50 images each.
BALANCED = [number // 50 for number in range(1000)]


def changes(order: tuple[int, ...], labels: list[int]) -> int:
    """How often the class changes from one query of a stream to the next."""
    return sum(labels[a] != labels[b] for a, b in pairwise(order))


@pytest.mark.parametrize("queries", CONDITIONS)
@settings(max_examples=30)
@given(labels=LABELS, seed=st.integers(0, 2**40))
def test_every_query_is_in_exactly_one_group(queries: str, labels: list[int], seed: int) -> None:
    groups = draw_groups(queries, labels, seed, "digest")
    assert sorted(place for group in groups for place in group) == list(range(len(labels)))
    assert all(groups)
    assert groups == draw_groups(queries, labels, seed, "digest")


@pytest.mark.parametrize("queries", CONDITIONS)
def test_draws_differ_by_seed_and_list(queries: str) -> None:
    drawn = {draw_groups(queries, BALANCED, seed, name) for seed in (1, 2) for name in "ab"}
    assert len(drawn) == 4


@pytest.mark.parametrize("size", [64, 1000])
@given(labels=LABELS)
def test_batches_have_one_size_but_the_last(size: int, labels: list[int]) -> None:
    *full, last = draw_groups(f"batch-{size}", labels, 1, "")
    assert {len(group) for group in full} <= {size}
    assert len(last) <= size


@given(labels=LABELS, seed=st.integers(0, 9))
def test_batches_of_few_classes_have_two_to_ten_while_there_are_as_many(
    labels: list[int], seed: int
) -> None:
    left = Counter(labels)
    for group in draw_groups("batch-64-k2-10", labels, seed, ""):
        taken = Counter(labels[place] for place in group)
        assert len(taken) <= 10
        # A class is drawn with all the images that it has left: fewer than 64 take them all.
        if len(group) < 64:
            assert all(left[label] == count for label, count in taken.items())
            assert len(taken) >= min(2, len(+left))
        left -= taken


def test_a_stream_of_classes_has_one_class_after_the_other() -> None:
    (order,) = draw_groups("stream-classes", BALANCED, 1, "")
    classes = [label for label, _ in groupby(order, key=BALANCED.__getitem__)]
    assert sorted(classes) == sorted(set(BALANCED))
    assert classes != sorted(classes)


def test_neighbors_in_a_spread_stream_share_classes() -> None:
    orders = {name: draw_groups(name, BALANCED, 1, "")[0] for name in CONDITIONS[4:]}
    counts = {name: changes(order, BALANCED) for name, order in orders.items()}
    assert counts["stream-classes"] < counts["stream-g0.01"] < counts["stream"]
    # Within a slot, classes alternate.
    assert counts["stream-g0.01"] > 2 * counts["stream-classes"]


def test_a_record_describes_what_was_drawn() -> None:
    groups = draw_groups("batch-64", BALANCED, 1, "")
    facts = describe_groups("batch-64", groups, BALANCED)
    assert (facts["groups"], facts["group_sizes"]) == (16, [40, 64, 64])
    assert 15 < facts["group_classes"][0] <= facts["group_classes"][2] <= 20
    stream = draw_groups("stream-classes", BALANCED, 1, "")
    facts = describe_groups("stream-classes", stream, BALANCED)
    assert (facts["groups"], facts["group_sizes"]) == (1, [1000] * 3)
    assert facts["group_classes"] == [1, 2, 3]


def test_queries_are_numbered_by_batch_or_by_position() -> None:
    groups = ((2, 0), (3, 1))
    assert number_groups("batch-64", groups, 4) == [0, 1, 0, 1]
    assert number_groups("stream", ((2, 0, 3, 1),), 4) == [1, 3, 0, 2]
