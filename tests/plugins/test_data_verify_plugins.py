"""`fsbench data verify` on third-party data sets, and on lists that equal published ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench import DatasetCard, Item
from fewshot_bench.api.catalog import Entry
from fewshot_bench.api.items import digest_of
from fewshot_bench.api.registry import registry
from fewshot_bench.api.sources import Stamp
from fewshot_bench.images.decode import find_unreadable
from fewshot_bench.plugins.data import status
from fewshot_bench.plugins.data import verify as checks
from fewshot_bench.splits import published as compared
from fewshot_bench.splits import published as picks
from fewshot_bench.splits.draw import draw
from tests.support.data_states import lines, states, verify
from tests.support.helpers import save_image


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@dataclasses.dataclass(frozen=True)
class Toy:
    """A third-party data set: pools of items, and bytes by id."""

    pools: Mapping[str, tuple[Item, ...]]
    content: Mapping[str, Any]
    names: tuple[str, ...] = ("cat", "dog")
    expected: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def card(self) -> DatasetCard:
        return DatasetCard("toy", "Toy", self.names, expected_counts=self.expected, revision="1")

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        return self.pools

    def read(self, item: Item) -> bytes:
        found: bytes = self.content[item.id]
        return found


def toy(root: Path, train: int = 20, val: int = 6, test: int = 3) -> Toy:
    """Distinct images of two classes."""
    pools, content = {}, {}
    for role, count in (("train", train), ("val", val), ("test", test)):
        ids = [(f"{role}/{name}{i}.png", name) for name in ("cat", "dog") for i in range(count)]
        pools[role] = tuple(Item(id, int(name == "dog"), name) for id, name in ids)
        for id, _ in ids:
            save_image(root / id, len(content))
            content[id] = (root / id).read_bytes()
    return Toy(pools, content)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that registers a data set as `toy`."""

    def register(dataset: Any) -> None:
        entry = Entry("toy", lambda: dataset, "a test")
        monkeypatch.setitem(registry().datasets.entries, "toy", entry)

    return register


def test_a_test_only_set_and_one_without_val_are_fine(plugin: Any, tmp_path: Path) -> None:
    made = toy(tmp_path)
    plugin(dataclasses.replace(made, pools={"train": (), "test": made.pools["test"]}))
    result = verify("toy", "--strict")
    assert result.code == 0, result.out
    assert "0/0/6 images" in result.out
    assert lines(result)["near-duplicates"][1].startswith("nothing to compare")
    plugin(dataclasses.replace(made, pools={r: made.pools[r] for r in ("train", "test")}))
    assert verify("toy", "--strict").code == 0


def test_broken_third_party_sets_fail_in_one_line(plugin: Any, tmp_path: Path) -> None:
    made = toy(tmp_path, 2, 1, 1)
    outside = (*made.pools["test"], Item("test/cow.png", 2, "cow"))
    plugin(dataclasses.replace(made, pools={**made.pools, "test": outside}))
    result = verify("toy")
    assert (result.code, states(result)) == (3, {"lists": "FAILED"})
    assert "test test/cow.png: label 2, class name 'cow'" in result.out
    plugin(dataclasses.replace(made, names=("cat", "wolf")))
    assert states(verify("toy")) == {"lists": "FAILED"}
    plugin(dataclasses.replace(made, pools={"train": (), "test": ()}))
    assert "no images are listed" in lines(verify("toy"))["lists"][1]
    plugin(None)
    result = verify("toy")
    assert (result.code, result.err) == (3, "")
    assert "the data set's plug-in failed: AttributeError" in result.out
    plugin(dataclasses.replace(made, content={**made.content, "test/cat0.png": "no bytes"}))
    assert "read() of 'test/cat0.png' returned a str, expected the bytes" in verify("toy").out
    plugin(dataclasses.replace(made, content={}))
    assert "test test/cat0.png: cannot be read: KeyError" in verify("toy").out


def publish(monkeypatch: pytest.MonkeyPatch, made: Toy) -> Toy:
    """Declare a toy's lists, 15 draws and counts as the published ones."""
    drawn = {}
    for shots in (1, 2, 4, 8, 16):
        for seed in (1, 2, 3):
            split = draw("", "", made.pools, protocol="coop", shots=shots, seed=seed, val="min4")
            both = picks.picks_digest(split.train), picks.picks_digest(split.val)
            drawn[f"{shots}/{seed}"] = both
    lists = digest_of((role, made.pools[role]) for role in ("train", "val", "test"))
    names = {
        part: picks.names_digest([name])
        for part, name in zip(("base", "new"), made.names, strict=True)
    }
    known = {"toy": picks.PublishedSplit("split_toy.json", "", lists, 2, names, drawn)}
    for module in (picks, checks, status, compared):
        monkeypatch.setattr(module, "published_splits", lambda: known)
    return dataclasses.replace(made, expected={r: len(items) for r, items in made.pools.items()})


def test_the_published_split_is_ok_throughout(
    plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(publish(monkeypatch, toy(tmp_path)))
    result = verify("toy", "--strict")
    assert result.code == 0
    assert set(states(result).values()) == {"ok"}
    assert lines(result)["counts"][1].endswith("as published")
    assert lines(result)["split"][1] == "equals the published lists of toy"
    assert lines(result)["draws"][1] == "all 15 published few-shot draws are reproduced"


def test_another_order_of_the_lists_is_another_split(
    plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = publish(monkeypatch, toy(tmp_path))
    train = made.pools["train"]
    plugin(dataclasses.replace(made, pools={**made.pools, "train": train[::-1]}))
    result = verify("toy")
    assert result.code == 0
    assert states(result)["counts"] == "ok"
    assert (states(result)["split"], states(result)["draws"]) == ("differs", "differs")


def test_a_class_more_than_published_differs(
    plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = publish(monkeypatch, toy(tmp_path))
    plugin(dataclasses.replace(made, names=(*made.names, "cow")))
    state, text = lines(verify("toy"))["counts"]
    assert state == "differs"
    assert "3 classes, 40/12/6 images (train/val/test); published: 2 classes, 40/12/6;" in text


def test_a_published_set_has_duplicates_of_its_own_but_not_many(
    plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = publish(monkeypatch, toy(tmp_path, test=60))
    for copies, state in ((2, "ok"), (3, "differs")):
        same = {f"test/cat{i}.png": made.content[f"train/dog{i}.png"] for i in range(copies)}
        plugin(dataclasses.replace(made, content={**made.content, **same}))
        found = lines(verify("toy"))["duplicates"]
        assert found[0] == state
        assert f"{copies} in train and test ({copies} under another label)" in found[1]
        assert found[1].endswith("the published split has them") is (state == "ok")


class Old(Toy):
    """Images with old stamps, which may be read once each."""

    def stamp(self, item: Item) -> Stamp:
        return Stamp(1, 1.0, item.id)


def test_a_run_need_not_read_what_was_verified(plugin: Any, tmp_path: Path) -> None:
    made = toy(tmp_path)
    plugin(Old(made.pools, made.content))
    assert verify("toy").code == 0
    checked = find_unreadable(Old(made.pools, {}), made.pools["test"])
    assert (checked.bad, checked.trouble) == ({}, "")
