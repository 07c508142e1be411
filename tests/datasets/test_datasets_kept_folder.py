"""The list of a folder is cached, and rebuilt if the folder changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fsbench_datasets import pools, trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewshot_bench import Item
from fewshot_bench.api.registry import registry
from fewshot_bench.api.sources import load_split, save_split
from tests.support.dataset_trees import JPEG, open_set, put, write_imagenet
from tests.support.helpers import fsbench

ROLES = ("train", "val", "test")
# After any time at which an unnoticed change of the folder is still possible.
LATER = time.time_ns() + 10**13


@pytest.fixture(autouse=True)
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders count as old; the cache is empty."""
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "time_ns", lambda: LATER)


def add(root: Path, classes: int = 3, count: int = 10) -> Path:
    """Class folders with images of different sizes."""
    for number in range(classes):
        for image in range(count):
            content = JPEG + bytes(image) + b"%d" % number
            put(root / f"class {number}" / f"{image:03d}.jpg", content)
    return root


def opened(root: Path) -> Any:
    return registry().dataset(f"folder:{root}", store=root.parent / "store")


def seen(root: Path) -> tuple[Any, Any]:
    dataset = opened(root)
    return {role: tuple(items) for role, items in dataset.items().items()}, dataset.card()


def seen_afresh(root: Path, cache: Path) -> tuple[Any, Any]:
    with mock.patch.dict(os.environ, {"FSBENCH_CACHE": str(cache)}):
        return seen(root)


@contextmanager
def counted(root: Path) -> Iterator[Counter[str]]:
    """Count folder listings and stat calls below `root`."""
    counts: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(path: Any = ".", *args: Any, **options: Any) -> Any:
            if str(path).startswith(str(root)):
                counts[name] += 1
            return real(path, *args, **options)

        return call

    names = ("scandir", "listdir", "stat", "lstat")
    with mock.patch.multiple(os, **{name: counting(name) for name in names}):
        yield counts


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "lists").iterdir())


def test_a_folder_is_listed_once(tmp_path: Path) -> None:
    root = add(tmp_path / "set")
    with counted(root) as first:
        before = seen(root)
    assert first["scandir"] == 4
    with counted(root) as second:
        assert seen(root) == before
    assert (second["scandir"], second["listdir"]) == (0, 0)


def test_calls_grow_with_folders_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "SAMPLE", 10)
    # As of a data set of more images, whose files are not compared.
    monkeypatch.setattr(pools, "MOST_COMPARED", 10)
    found = {}
    for count in (20, 160):
        root = add(tmp_path / f"{count}", classes=5, count=count)
        with counted(root) as first:
            seen(root)
        with counted(root) as second:
            seen(root)
        found[count] = dict(first), dict(second)
        assert second["stat"] <= 2 * 10 + 20
    assert found[20][0] == found[160][0]
    assert found[160][1].get("scandir", 0) == 0


def test_a_changed_folder_is_listed_anew_alone(tmp_path: Path) -> None:
    root = add(tmp_path / "set")
    seen(root)
    changes: list[Callable[[], object]] = [
        lambda: put(root / "class 1" / "new.jpg"),
        lambda: (root / "class 1" / "new.jpg").rename(root / "class 1" / "newer.jpg"),
        lambda: (root / "class 1" / "newer.jpg").unlink(),
    ]
    for number, change in enumerate(changes):
        change()
        with counted(root) as calls:
            now = seen(root)
        assert calls["scandir"] == 1
        assert now == seen_afresh(root, tmp_path / f"other {number}")


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(("add", "remove", "drop", "grow", "link")),
        st.sampled_from("abc"),
        st.integers(0, 4),
    ),
    max_size=6,
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(CHANGES)
def test_what_is_kept_is_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, int]]
) -> None:
    base = tmp_path_factory.mktemp("any")
    root = base / "set"
    for name in "xyz":
        put(root / name / "1.jpg")
        put(root / name / "2.jpg")
    with mock.patch.dict(os.environ, {"FSBENCH_CACHE": str(base / "cache")}):
        seen(root)
        for number, (change, name, image) in enumerate(changes):
            file = root / name / f"{image}.jpg"
            if change == "add":
                put(file), put(file.with_name("other.jpg"))
            elif change == "remove" and file.is_file() and len(list(file.parent.iterdir())) > 2:
                file.unlink()
            elif change == "drop" and file.parent.is_dir():
                shutil.rmtree(file.parent)
            elif change == "grow" and file.is_file():
                file.write_bytes(file.read_bytes() + b"x")
            elif change == "link" and not (root / f"{name} link").exists():
                put(base / f"aim {name}" / "1.jpg"), put(base / f"aim {name}" / "2.jpg")
                (root / f"{name} link").symlink_to(base / f"aim {name}")
            assert seen(root) == seen_afresh(root, base / f"other {number}")


def test_a_damaged_list_is_made_again(tmp_path: Path) -> None:
    root = add(tmp_path / "set")
    before = seen(root)
    (path,) = kept(tmp_path)
    rows = rows_of(path)
    # Its tree, its pools, and the revisions of the divided and the whole lists.
    assert len(rows) >= 4
    for key, content in rows:
        for harm in (b"", content[:40], content[:-1], content[:50] + b"?" + content[51:]):
            with sqlite3.connect(path) as base:
                base.execute("update value set content=? where key=?", (harm, key))
            base.close()
            assert seen(root) == before
            assert rows_of(path) == rows


def rows_of(path: Path) -> list[tuple[bytes, bytes]]:
    """Keys and contents of kept lists."""
    with closing(sqlite3.connect(path)) as base:
        return base.execute("select key, content from value order by key").fetchall()


def test_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = add(tmp_path / "set")
    before = seen(root)
    put(tmp_path / "file")
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "file"))
    assert seen(root) == before


def test_a_folder_that_changes_at_once_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = add(tmp_path / "set")
    monkeypatch.undo()
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    seen(root)
    with counted(root) as calls:
        seen(root)
    assert calls["scandir"] == 4


def test_a_file_that_was_replaced_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = add(tmp_path / "set")
    before = seen(root)
    (root / "class 0" / "004.jpg").write_bytes(JPEG + bytes(99))
    after = seen(root)
    assert (after[0], after[1].revision != before[1].revision) == (before[0], True)
    # In a larger folder the change may go unnoticed until every file is checked.
    monkeypatch.setattr(trees, "SAMPLE", 1)
    monkeypatch.setattr(trees.random, "randrange", lambda stop: 0)
    (root / "class 0" / "004.jpg").write_bytes(JPEG + bytes(98))
    assert seen(root) == after
    text = fsbench("data", "verify", f"folder:{root}").out
    assert "files were replaced in 1 folders since they were listed" in text
    assert seen(root) == seen_afresh(root, tmp_path / "other")
    assert seen(root)[1].revision not in (before[1].revision, after[1].revision)
    again = fsbench("data", "verify", f"folder:{root}").out
    assert "kept list" not in again


def test_records_name_the_same_revision_as_ever(tmp_path: Path) -> None:
    """The revision equals its definition: the digest of all list lines, then of all sizes."""
    root = add(tmp_path / "set")
    pools, card = seen(root)
    items = [(role, item) for role in ROLES for item in pools[role]]
    lines = [f"{role}\t{i.id}\t{i.label}\t{i.classname}\n" for role, i in items]
    lines += [f"{(root / item.id).stat().st_size}\n" for _, item in items]
    assert card.revision == hashlib.sha256("".join(lines).encode()).hexdigest()
    opened(root).keep_split()
    assert seen(root)[1].revision == card.revision


def test_a_kept_split_is_parsed_once(tmp_path: Path) -> None:
    root = add(tmp_path / "set")
    path = opened(root).keep_split()
    before = seen(root)
    with mock.patch("json.loads", side_effect=lambda text: json_of_little(text)):
        assert seen(root) == before
    content = json.loads(path.read_text())
    content["train"], content["test"] = content["test"], content["train"]
    path.write_text(json.dumps(content))
    assert [item.id for item in seen(root)[0]["train"]] == [id for id, _, _ in content["train"]]


_loads = json.loads
TEXTS = st.text('aé/"\\\u2028😀', min_size=1)


def json_of_little(text: Any) -> Any:
    assert not (isinstance(text, str) and '"train": [' in text), "the split was parsed again"
    return _loads(text)


@settings(max_examples=30)
@given(
    st.fixed_dictionaries(
        dict.fromkeys(
            ROLES,
            st.lists(
                st.builds(
                    Item, st.text('aé/"\\\u2028😀', min_size=1), st.integers(0, 3), st.text()
                ),
                max_size=5,
            ),
        )
    )
)
def test_a_split_file_has_the_bytes_of_coop(
    tmp_path_factory: pytest.TempPathFactory, pools: Mapping[str, list[Item]]
) -> None:
    path = tmp_path_factory.mktemp("split") / "split.json"
    save_split(path, pools)
    content = {role: [[i.id, i.label, i.classname] for i in pools[role]] for role in ROLES}
    assert path.read_text() == json.dumps(content, indent=4, separators=(",", ": "))


def test_images_of_a_kept_split_are_packed_and_the_same(tmp_path: Path) -> None:
    root = add(tmp_path / "set")
    path = opened(root).keep_split()
    assert {role: tuple(items) for role, items in load_split(path).items()} == seen(root)[0]


def test_imagenet_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path / "data"))
    root = write_imagenet(tmp_path / "data" / "imagenet")
    before = open_set("imagenet").items(), open_set("imagenet").card()
    folder = next((root / "train").iterdir())
    with counted(folder) as calls:
        assert (open_set("imagenet").items(), open_set("imagenet").card()) == before
    assert calls == {"stat": 2}
    put(folder / "another.JPEG")
    train = open_set("imagenet").items()["train"]
    assert f"train/{folder.name}/another.JPEG" in [item.id for item in train]
