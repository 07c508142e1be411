"""`fsbench data prepare` keeps user files, and continues after a data set that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.catalog import Entry
from fewshot_bench.api.registry import registry
from fewshot_bench.utils.errors import DataMissingError
from tests.support.preparing import Shop, below, images, sha256, tar

TREE = images() | {"labels.txt": b"theirs", "same.txt": b"same"}


def test_files_that_differ_from_the_archives_are_kept_and_named(shop: Shop) -> None:
    shop.sell([shop.archive(tar(TREE), provides=["wares/images"])])
    folder = shop.root / "wares"
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_bytes(b"mine")
    (folder / "same.txt").write_bytes(b"same")
    result = shop.prepare()
    assert result.code == 0
    assert "kept 1 that were there and differ from the archive's: 'labels.txt'" in result.out
    assert shop.tree() == below("wares", TREE | {"labels.txt": b"mine"})


def test_a_merge_that_was_killed_is_completed_and_keeps_them(shop: Shop) -> None:
    shop.sell([shop.archive(tar(TREE), provides=["wares/images"])])
    assert shop.prepare().code == 0
    folder = shop.root / "wares"
    half = folder / ".fsbench-unpacked-wares.tar.gz"
    half.mkdir()
    (folder / "same.txt").rename(half / "same.txt")
    (half / "labels.txt").write_bytes(b"another")
    result = shop.prepare()
    assert result.code == 0
    assert "differ from the archive's: 'labels.txt'" in result.out
    assert shop.tree() == below("wares", TREE)


def test_a_split_file_that_is_there_is_replaced_on_demand_only(shop: Shop, tmp_path: Path) -> None:
    mine, place = tmp_path / "mine.json", shop.root / "wares" / "split.json"
    mine.write_bytes(b"{}")
    about = {"name": "split.json", "place": "wares/split.json", "split": True}
    shop.sell([about | {"sha256": sha256(b"{}")}])
    place.parent.mkdir(parents=True)
    place.write_bytes(b"another")
    result = shop.prepare("wares", "--split-file", mine)
    assert result.code == 2
    assert f"{place} is there and differs: add --yes to replace it" in result.err
    assert place.read_bytes() == b"another"
    result = shop.prepare("wares", "--split-file", mine, "--yes")
    assert result.code == 0
    assert "in place of another file" in result.out
    assert place.read_bytes() == b"{}"


@pytest.mark.parametrize("error", [DataMissingError("no disk"), ValueError("no disk")])
def test_a_set_that_cannot_be_opened_does_not_stop_the_others(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def opener() -> Any:
        raise error

    shop.sell([shop.archive(tar(TREE))])
    monkeypatch.setitem(registry().datasets.entries, "gone", Entry("gone", opener, "a test"))
    result = shop.prepare("gone,wares")
    assert result.code == 3
    assert "gone: cannot be prepared: " in result.err
    assert "no disk" in result.err
    assert result.err.endswith("error: gone cannot be prepared: the reason stands above\n")
    assert shop.tree() == below("wares", TREE)


def test_nothing_is_unpacked_through_links_inside_the_place(shop: Shop, tmp_path: Path) -> None:
    shop.sell([shop.archive(tar(TREE), provides=["wares/labels.txt"])])
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_bytes(b"mine")
    (shop.root / "wares").mkdir(parents=True)
    (shop.root / "wares" / "images").symlink_to(outside)
    result = shop.prepare()
    assert result.code == 3
    assert "is a link, and nothing is unpacked through links" in result.out + result.err
    assert [path.name for path in outside.iterdir()] == ["mine.txt"]


def test_a_link_in_place_of_what_was_unpacked_is_refused(shop: Shop, tmp_path: Path) -> None:
    shop.sell([shop.archive(tar(TREE))])
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_bytes(b"mine")
    (shop.root / "wares").mkdir(parents=True)
    (shop.root / "wares" / ".fsbench-unpacked-wares.tar.gz").symlink_to(outside)
    result = shop.prepare()
    assert result.code == 3
    assert "is a link: remove it" in result.out + result.err
    assert (outside / "mine.txt").read_bytes() == b"mine"
