"""Indexes of archives are cached, and never used for another archive."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from fewshot_bench.api.dataset import all_items
from fewshot_bench.api.registry import registry
from tests.support.dataset_trees import (
    open_set,
    pack_imagenet,
    tar_of,
    write_imagenet,
)
from tests.support.own_sets import picture, samples, write_shard

TRAIN = "ILSVRC2012_img_train.tar"
LABELS = [(f"{key}.cls", str(number % 2).encode()) for number, key in enumerate("abcdef")]


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, to which plug-ins that are loaded add nothing."""
    registry().datasets.find("digits")
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "cache"


def count_lists(cache: Path) -> int:
    """The number of lists in the cache."""
    with closing(sqlite3.connect(cache / "lists" / "values.sqlite")) as base:
        return int(base.execute("select count(*) from value").fetchone()[0])


def replaced(path: Path, content: bytes) -> None:
    """Put another file under the name."""
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


def overwritten(path: Path, content: bytes) -> None:
    """Overwrite the file in place, after at least one clock tick."""
    time.sleep(0.05)
    path.write_bytes(content)


def put_back(path: Path, content: bytes, write: Callable[[Path, bytes], None]) -> None:
    """Write other content of the same size and restore the modification time."""
    before = path.stat()
    assert len(content) == before.st_size
    write(path, content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("write", [replaced, overwritten])
def test_an_archive_of_the_same_size_and_time_is_read_anew(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    unpacked = write_imagenet(tmp_path / "unpacked")
    archives = pack_imagenet(unpacked, tmp_path / "data" / "imagenet")
    open_set("imagenet").items()
    turned = [
        (f"{folder.name}.tar", tar_of((path.name, path.read_bytes()) for path in folder.iterdir()))
        for folder in sorted((unpacked / "train").iterdir())
    ]
    put_back(archives / TRAIN, tar_of(turned), write)
    dataset = open_set("imagenet")
    for _, item in all_items(dataset):
        assert dataset.read(item) == (unpacked / item.id).read_bytes()


def labeled(order: int) -> list[tuple[str, bytes]]:
    """Six samples in forward or reverse order; images differ and have equal sizes."""
    images = [(f"{name[0]}.jpg", bytes([number]) * 9) for number, (name, _) in enumerate(LABELS)]
    return [*images, *LABELS][::order]


def opened(path: Path) -> Any:
    return registry().dataset(f"wds:{path}", {"classnames": ["x", "y"]})


@pytest.mark.parametrize("write", [replaced, overwritten])
def test_a_shard_of_the_same_size_and_time_is_read_anew(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    path = write_shard(tmp_path / "all.tar", labeled(1))
    opened(path).items()
    put_back(path, write_shard(tmp_path / "turned.tar", labeled(-1)).read_bytes(), write)
    dataset = opened(path)
    for _, item in all_items(dataset):
        number = "abcdef".index(item.id.removeprefix("all.tar/")[0])
        assert dataset.read(item) == bytes([number]) * 9


def test_shards_are_walked_once(tmp_path: Path, kept: Path) -> None:
    for number in range(3):
        write_shard(tmp_path / "set" / f"{number}.tar", samples(4, 4 * number))
    first = opened(tmp_path / "set")
    items, card = first.items(), first.card()
    # Three indexes, the groups of copies, and the pools.
    assert count_lists(kept) == 5
    with mock.patch("tarfile.open", side_effect=AssertionError("walked again")):
        again = opened(tmp_path / "set")
        assert (again.items(), again.card()) == (items, card)
        for _, item in all_items(again):
            assert again.read(item) == picture(int(item.id.rpartition("/")[2].partition(".")[0]))


def test_other_users_may_read_an_index(tmp_path: Path, kept: Path) -> None:
    before = os.umask(0o022)
    try:
        opened(write_shard(tmp_path / "all.tar", samples(6))).items()
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in kept.glob("lists/*")} == {0o644}


def test_the_cache_folder_is_the_one_of_the_harness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_shard(tmp_path / "all.tar", samples(6))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("FSBENCH_CACHE", "~/kept")
    opened(path).items()
    assert count_lists(home / "kept") == 3
