"""Few-shot picks: guarantees of each protocol, on pools of all shapes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench import Item, Split, UsageError
from fewshot_bench.api.spec import ALL_SHOTS
from fewshot_bench.splits.draw import check_train, draw
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION, group
from fewshot_bench.store.store import Store
from fewshot_bench.utils.rng import derive
from tests.support.helpers import fsbench

Pools = dict[str, tuple[Item, ...]]
ANY_PROTOCOL = pytest.mark.parametrize("protocol", sorted(SAMPLERS))


def make_pools(classes: int = 3, train: int = 20, val: int = 8, test: int = 10) -> Pools:
    sizes = {"train": train, "val": val, "test": test}
    return {
        role: tuple(
            Item(f"{role}/{label}/{number}.jpg", label, f"class {label}")
            for label in range(classes)
            for number in range(size)
        )
        for role, size in sizes.items()
    }


def pick(
    pools: Pools,
    protocol: str = "coop",
    shots: int = 4,
    seed: int = 1,
    val: str = "min4",
    limit: int | None = None,
) -> Split:
    return draw("toy", "r1", pools, protocol=protocol, shots=shots, seed=seed, val=val, limit=limit)


def ids(items: tuple[Item, ...]) -> list[str]:
    return [item.id for item in items]


def ranked(items: tuple[Item, ...], prefix: str) -> list[Item]:
    return sorted(items, key=lambda item: hashlib.sha256(f"{prefix}\t{item.id}".encode()).digest())


@st.composite
def any_pools(draw_value: st.DrawFn) -> Pools:
    """Pools with classes of uneven size, in shuffled order, some classes short."""
    sizes = draw_value(st.lists(st.integers(1, 20), min_size=1, max_size=5))
    shuffler = random.Random(draw_value(st.integers(0, 10**6)))
    pools: Pools = {}
    for role in ("train", "val", "test"):
        items = [
            Item(f"{role}/{label}-{number}", label, str(label))
            for label, size in enumerate(sizes)
            for number in range(size)
        ]
        shuffler.shuffle(items)
        pools[role] = tuple(items)
    return pools


requests = {
    "pools": any_pools(),
    "protocol": st.sampled_from(sorted(SAMPLERS)),
    "shots": st.integers(1, 17) | st.just(ALL_SHOTS),
    "seed": st.integers(0, 2**40),
    "val": st.sampled_from(sorted(VALIDATION)),
}


@settings(max_examples=60)
@given(**requests)
def test_train_and_val_are_disjoint_and_come_from_their_pools(
    pools: Pools, protocol: str, shots: int, seed: int, val: str
) -> None:
    split = pick(pools, protocol, shots, seed, val)
    assert set(split.train) <= set(pools["train"])
    assert set(split.val) <= set(pools["val"])
    assert not set(ids(split.train)) & set(ids(split.val))
    assert split.test == pools["test"]


@settings(max_examples=60)
@given(**requests)
def test_every_class_gives_its_shots(
    pools: Pools, protocol: str, shots: int, seed: int, val: str
) -> None:
    split = pick(pools, protocol, shots, seed, val)
    picked, pool = group(split.train), group(pools["train"])
    assert set(picked) == set(pool)
    for label, items in picked.items():
        short = len(pool[label]) < shots
        repeated = protocol == "clip-lora" and shots != ALL_SHOTS
        assert len(items) == (len(pool[label]) if short and not repeated else shots)
        assert short or len(set(items)) == shots


@settings(max_examples=60)
@given(**{**requests, "val": st.sampled_from(["none", "min4", "shots"])})
def test_validation_that_is_held_out_takes_what_the_support_set_leaves(
    pools: Pools, protocol: str, shots: int, seed: int, val: str
) -> None:
    without = {role: items for role, items in pools.items() if role != "val"}
    split = pick(without, protocol, shots, seed, val)
    picked, held, pool = group(split.train), group(split.val), group(without["train"])
    assert set(picked) == set(pool)
    assert split.train == pick(without, protocol, shots, seed, "none").train
    assert not set(ids(split.train)) & set(ids(split.val))
    asked = {"none": 0, "min4": min(shots, 4), "shots": shots}[val]
    for label, items in pool.items():
        left = len(items) - len(set(picked[label]))
        assert len(set(picked[label])) == min(shots, len(items)) or protocol == "clip-lora"
        # The rest of a class that was drawn from with replacement is not used for validation.
        taken = min(asked, left) if len(items) >= shots or protocol != "clip-lora" else 0
        assert len(set(held.get(label, ()))) == taken or (protocol, val) == ("clip-lora", "shots")


@settings(max_examples=60)
@given(**requests)
def test_the_validation_policy_never_changes_train_picks(
    pools: Pools, protocol: str, shots: int, seed: int, val: str
) -> None:
    split = pick(pools, protocol, shots, seed, val)
    assert split.train == pick(pools, protocol, shots, seed, "none").train


@settings(max_examples=100)
@given(**requests)
def test_a_draw_repeats_and_leaves_the_global_generator_alone(
    pools: Pools, protocol: str, shots: int, seed: int, val: str
) -> None:
    state = random.getstate()
    first = pick(pools, protocol, shots, seed, val)
    random.seed(99)
    again = pick(pools, protocol, shots, seed, val)
    random.setstate(state)
    assert first == again
    assert first.digest == again.digest


@settings(max_examples=100)
@given(pools=any_pools(), shots=st.integers(1, 16), seed=st.integers(0, 100))
def test_nested_shots_contain_each_other(pools: Pools, shots: int, seed: int) -> None:
    fewer = pick(pools, "nested", shots, seed, "shots")
    more = pick(pools, "nested", shots + 1, seed, "shots")
    assert set(fewer.train) <= set(more.train)
    assert set(fewer.val) <= set(more.val)


@settings(max_examples=100)
@given(pools=any_pools(), shots=st.integers(1, 16), seed=st.integers(0, 100))
def test_nested_does_not_depend_on_the_order_of_the_lists(
    pools: Pools, shots: int, seed: int
) -> None:
    ordered = {
        role: tuple(sorted(items, key=lambda item: item.id)) for role, items in pools.items()
    }
    first, second = (pick(p, "nested", shots, seed, "full") for p in (pools, ordered))
    assert (first.train, first.val) == (second.train, second.val)


def test_coop_walks_train_then_val_on_one_stream_in_order_of_appearance() -> None:
    pools = make_pools(classes=2, train=5, val=3)
    pools["train"] = tuple(reversed(pools["train"]))
    rng = random.Random(7)
    expected = [x for label in (1, 0) for x in rng.sample(group(pools["train"])[label], 2)]
    held = [x for label in (0, 1) for x in rng.sample(group(pools["val"])[label], 2)]
    split = pick(pools, "coop", 2, 7)
    assert (list(split.train), list(split.val)) == (expected, held)


def test_a_short_class_under_coop_leaves_the_stream_alone() -> None:
    pools = make_pools(classes=2, train=5)
    short = tuple(item for item in pools["train"] if item.label == 1 or item.id.endswith("/0.jpg"))
    split = pick(pools | {"train": short}, "coop", 3, 7)
    expected = random.Random(7).sample([item for item in short if item.label == 1], 3)
    assert list(split.train) == [short[0], *expected]


def test_clip_lora_walks_val_then_train() -> None:
    pools = make_pools(classes=1, train=5, val=5)
    rng = random.Random(3)
    held = rng.sample(pools["val"], 2)
    expected = rng.sample(pools["train"], 2)
    split = pick(pools, "clip-lora", 2, 3)
    assert (list(split.train), list(split.val)) == (expected, held)


def test_clip_lora_draws_val_of_another_policy_on_a_stream_of_its_own() -> None:
    pools = make_pools(classes=1)
    held = random.Random(derive(3, "clip-lora", "val")).sample(pools["val"], 6)
    split = pick(pools, "clip-lora", 6, 3, "shots")
    assert (list(split.val), split.train) == (held, pick(pools, "clip-lora", 6, 3).train)


def test_nested_ranks_images_by_a_hash_of_seed_role_and_name() -> None:
    pools = make_pools(classes=1)
    split = pick(pools, "nested", 4, 3)
    for role in ("train", "val"):
        assert list(getattr(split, role)) == ranked(pools[role], f"3\t{role}")[:4]


@ANY_PROTOCOL
def test_limit_keeps_the_same_test_images_in_list_order(protocol: str) -> None:
    pools = make_pools()
    limited = pick(pools, protocol, limit=7)
    assert set(limited.test) == set(ranked(pools["test"], "limit")[:7])
    assert [item for item in pools["test"] if item in limited.test] == list(limited.test)
    turned = pick(pools | {"test": tuple(reversed(pools["test"]))}, protocol, limit=7)
    assert set(turned.test) == set(limited.test)
    assert limited.train == pick(pools, protocol).train
    assert pick(pools, protocol, limit=1000).test == pools["test"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": "coopp"}, "did you mean 'coop'"),
        ({"val": "min"}, "did you mean 'min4'"),
    ],
)
def test_unknown_names_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pick(make_pools(), **change)  # type: ignore[arg-type]


def test_a_data_set_without_train_images_is_refused() -> None:
    check_train("toy", make_pools(classes=2, train=1))
    with pytest.raises(UsageError, match="empty train pool"):
        check_train("toy", {"train": ()})
    with pytest.raises(UsageError, match="rest of train"):
        check_train("toy", {"train": make_pools()["train"]}, "full")


LASTS = """
import dataclasses
import functools
from fewshot_bench import hookimpl
from fewshot_bench.splits.sampling import Draw, Picks, group, sampler


@sampler("lasts", val="none")
def lasts(draw: Draw) -> Picks:
    classes = group(draw.train).values()
    return tuple(item for items in classes for item in items[-draw.shots :]), ()


class Some:
    def card(self):
        return dataclasses.replace(self.digits.card(), name="some-digits")

    @functools.cached_property
    def digits(self):
        from fsbench_datasets.embedded import digits

        return digits()

    def items(self):
        return self.digits.items()

    def read(self, item):
        return self.digits.read(item)


@hookimpl
def register_datasets(register):
    register("some-digits", Some)
"""


def test_a_new_way_to_draw_picks_is_written_in_one_place(
    install: Callable[[str, str], None], tmp_path: Path
) -> None:
    """The protocol can be named in `splits`, in `run` and its worker, and is kept in records.

    A plug-in data set is needed because the drawing process loads only plug-ins of its data sets.
    """
    install("lasts", LASTS)
    try:
        words = ("--shots", 1, "--seeds", 1, "--protocol", "lasts")
        shown = fsbench("splits", "show", "some-digits", *words, "--val", "none")
        assert shown.code == 0, shown.err
        run = ("run", "-m", "tip-adapter", "-d", "some-digits", "--backbone", "tiny", *words)
        result = fsbench(*run, "--store", tmp_path / "store")
        assert result.code == 0, result.err
        (record,) = Store(tmp_path / "store").records()
        assert (record.status, record.spec.protocol, record.spec.val) == ("done", "lasts", "none")
        assert record.split["digest"] in shown.out
        refused = fsbench("run", "-m", "tip-adapter", "-d", "digits", "--protocol", "last")
        assert "did you mean 'lasts'" in refused.err
    finally:
        SAMPLERS.pop("lasts", None)
