"""A packed list of items behaves like a tuple of them in every respect."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench import DatasetCard, Item
from fewshot_bench.api.items import (
    ItemList,
    digest_of,
    group,
    label_counts,
    parts,
    relabeled,
    without,
)
from fewshot_bench.runner.preflight import check_items
from fewshot_bench.splits.draw import draw
from fewshot_bench.splits.sampling import SAMPLERS
from fewshot_bench.utils.errors import PluginError

NAMES = st.text("ab/ü .", min_size=1, max_size=6)
ITEMS = st.lists(
    st.builds(lambda id, label: Item(id, label, "xyz"[label]), NAMES, st.integers(0, 2)),
    max_size=30,
)


def pool(role: str, count: int) -> tuple[Item, ...]:
    return tuple(
        Item(f"{role}/{label}/{number}.jpg", label, f"class {label}")
        for label in range(3)
        for number in range(count)
    )


@given(ITEMS, st.integers(-40, 40), st.slices(30))
def test_it_is_like_a_tuple(items: list[Item], place: int, part: slice) -> None:
    whole, packed = tuple(items), ItemList.of(items)
    assert (len(packed), list(packed), list(reversed(packed))) == (
        len(whole),
        items,
        items[::-1],
    )
    assert packed == whole
    assert whole == packed
    assert packed == ItemList.of(items)
    assert packed != (*whole, Item("other", 0, "x"))
    assert hash(packed) == hash(whole)
    assert packed[part] == whole[part]
    assert (packed + whole, whole + packed) == (whole + whole, whole + whole)
    assert packed.count(Item("a", 0, "x")) == whole.count(Item("a", 0, "x"))
    if -len(whole) <= place < len(whole):
        assert packed[place] == whole[place]
        assert packed[place] in packed
    else:
        with pytest.raises(IndexError):
            _ = packed[place]


@given(ITEMS, st.sets(NAMES))
def test_questions_have_the_same_answers(items: list[Item], gone: set[str]) -> None:
    whole, packed = tuple(items), ItemList.of(items)
    assert digest_of([("train", whole)]) == digest_of([("train", packed)])
    assert list(label_counts(whole).items()) == list(label_counts(packed).items())
    assert [list(some) for some in group(whole).values()] == [
        list(some) for some in group(packed).values()
    ]
    assert list(group(whole)) == list(group(packed))
    gone |= {item.id for item in items[::3]}
    assert without(packed, gone) == without(whole, gone)

    def halved(label: int, classname: str) -> tuple[int, str] | None:
        return (label - 1, classname.upper()) if label else None

    assert relabeled(packed, halved) == relabeled(whole, halved)
    assert [id for part in parts(packed) for id in part.ids] == [item.id for item in items]
    assert (*whole, *whole) == packed + whole == whole + packed
    longer = [*whole]
    longer += packed
    assert longer == [*whole, *whole]


@pytest.mark.parametrize("protocol", list(SAMPLERS))
@pytest.mark.parametrize("held_out", [False, True])
def test_picks_are_the_same(protocol: str, held_out: bool) -> None:
    pools: dict[str, Sequence[Item]] = {"train": pool("train", 40), "test": pool("test", 20)}
    if not held_out:
        pools["val"] = pool("val", 9)
    packed = {role: ItemList.of(items) for role, items in pools.items()}
    for shots, limit in ((1, 7), (16, None), (50, 60)):
        wanted = {"protocol": protocol, "shots": shots, "seed": 2, "val": "min4", "limit": limit}
        usual = draw("toy", "1", pools, **wanted)
        assert draw("toy", "1", packed, **wanted) == usual
        assert draw("toy", "1", packed, **wanted).digest == usual.digest


def test_an_image_in_two_pools_is_found_in_both_kinds_of_lists() -> None:
    card = DatasetCard("toy", "Toy", tuple(f"class {label}" for label in range(3)))
    pools: dict[str, Sequence[Item]] = {"train": pool("train", 5), "test": pool("test", 5)}
    check_items(card, pools)
    pools["val"] = (pools["test"][3],)
    for some in (pools, {role: ItemList.of(items) for role, items in pools.items()}):
        with pytest.raises(PluginError, match=r"'test/0/3\.jpg' is in test and in val"):
            check_items(card, some)
