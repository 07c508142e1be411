"""`fsbench data prepare`: existing data is kept, the rest is fetched, given or explained."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.splits.published import published_splits
from tests.support.helpers import fsbench, is_running, wait_until
from tests.support.preparing import Shop, below, images, sha256, tar

TREE = images()
WARES = below("wares", TREE)
SPLIT = b'{"train": [], "val": [], "test": []}'


def split(shop: Shop, **more: Any) -> dict[str, Any]:
    """A served split file."""
    url = shop.site.put("/split.json", SPLIT)
    values = {"name": "split.json", "place": "wares/split.json", "urls": [url], "split": True}
    return values | {"sha256": sha256(SPLIT)} | more


def test_files_and_archives_of_one_set_share_a_folder(shop: Shop) -> None:
    archive = shop.archive(tar(TREE), provides=["wares/images"])
    shop.sell([split(shop), archive])
    result = shop.prepare()
    assert result.code == 0
    assert shop.tree() == WARES | {"wares/split.json": SPLIT}
    assert f"data root: {shop.root} (first of FSBENCH_DATA, or ./data)" in result.out
    assert "there now: wares" in result.out
    mine = shop.root / "wares" / "images" / "mine.jpg"
    mine.write_bytes(b"mine")
    (shop.root / "wares" / "split.json").unlink()
    assert shop.prepare().code == 0
    assert mine.read_bytes() == b"mine"
    assert shop.site.asked("/wares.tar.gz") == [""]


@pytest.mark.parametrize("place", ["wares/images", "Wares/images", "wares/wares/images"])
def test_other_layouts_are_not_fetched_again(shop: Shop, place: str) -> None:
    others = ["Wares/images", "wares/wares/images"]
    shop.sell([shop.archive(tar(TREE), provides=["wares/images"], alternatives=others)])
    (shop.root / place).mkdir(parents=True)
    (shop.root / place / "0.jpg").write_bytes(b"there")
    result = shop.prepare()
    assert result.code == 0
    assert f"already at {shop.root / place}" in result.out
    assert shop.site.requests == []


def test_every_root_is_looked_at_and_an_empty_folder_is_not_enough(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.sell([shop.archive(tar(TREE), provides=["wares/images"])])
    other = tmp_path / "other"
    (other / "wares" / "images").mkdir(parents=True)
    monkeypatch.setenv("FSBENCH_DATA", os.pathsep.join([str(shop.root), str(other)]))
    assert "would" not in shop.prepare("wares", "--dry-run").out
    (other / "wares" / "images" / "0.jpg").write_bytes(b"there")
    assert f"already at {other}" in shop.prepare().out
    monkeypatch.setenv("FSBENCH_DATA", str(other / "wares"))
    assert "already at" in shop.prepare().out
    assert shop.site.requests == []
    result = shop.prepare("wares", "--root", shop.root)
    assert result.code == 0
    assert f"data root: {shop.root} (--root)" in result.out
    assert f"set FSBENCH_DATA to {shop.root}" in result.out
    assert shop.tree() == WARES


def test_a_set_that_fails_does_not_stop_the_others(shop: Shop) -> None:
    gone = f"{shop.site.address}/gone.tgz"
    bad = shop.archive(b"", urls=[gone], place="first", name="gone.tgz")
    shop.sell([bad, split(shop, place="first/split.json")], "a-first")
    shop.sell([shop.archive(tar(TREE))])
    result = shop.prepare("remotes")
    assert result.code == 3
    assert shop.tree() == WARES | {"first/split.json": SPLIT}
    assert f"download gone.tgz from {gone} to {shop.root}/downloads/a-first/gone.tgz" in result.out
    assert result.err == (
        "error: not all files are there for a-first: the steps above say how to get them\n"
    )
    assert "there now: wares" in result.out


def test_by_hand_steps_are_printed_and_a_file_put_there_is_used(shop: Shop) -> None:
    archive = shop.archive(tar(TREE), urls=[])
    shop.sell([archive], by_hand=["accept the terms", "put it at downloads/wares/wares.tar.gz"])
    result = shop.prepare()
    assert result.code == 3
    assert "wares.tar.gz is missing and has to be got by hand" in result.out
    assert "1. accept the terms" in result.out
    assert "3. then run: fsbench data prepare wares" in result.out
    place = shop.root / "downloads" / "wares" / "wares.tar.gz"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(tar(images()))
    result = shop.prepare()
    assert result.code == 3
    assert f"{place} is another file: its SHA-256 is" in result.out
    place.write_bytes(tar(TREE))
    shop.sell([archive | {"sha256": sha256(place.read_bytes())}])
    assert shop.prepare().code == 0
    assert shop.tree() == WARES
    assert place.is_file()


def test_archives_are_kept_on_request(shop: Shop) -> None:
    content = tar(TREE)
    shop.sell([shop.archive(content)])
    assert shop.prepare("wares", "--keep-archives").code == 0
    kept = shop.root / "downloads" / "wares" / "wares.tar.gz"
    assert kept.read_bytes() == content
    shutil.rmtree(shop.root / "wares")
    assert shop.prepare().code == 0
    assert shop.tree() == WARES
    assert shop.site.asked("/wares.tar.gz") == [""]
    assert not kept.exists()


def test_a_dry_run_says_everything_and_touches_nothing(shop: Shop) -> None:
    shop.sell([shop.archive(tar(TREE), size=1_500_000)], by_hand=["or go there"])
    result = shop.prepare("wares,digits", "--dry-run")
    assert result.code == 0
    line = f"wares.tar.gz: 1.5 MB, SHA-256, unpacked into {shop.root}/wares"
    for part in (line, f"from {shop.site.address}/wares.tar.gz", "by hand: or go there"):
        assert part in result.out
    assert "digits: nothing to fetch" in result.out
    assert not shop.root.exists()
    assert shop.site.requests == []


def test_a_split_file_can_be_given(shop: Shop, tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_bytes(SPLIT)
    shop.sell([split(shop, urls=[])])
    assert shop.prepare("wares", "--split-file", mine).code == 0
    assert shop.tree() == {"wares/split.json": SPLIT}
    mine.write_bytes(b"{}")
    result = shop.prepare("wares", "--split-file", mine)
    assert result.code == 2
    assert all(sha256(content) in result.err for content in (SPLIT, b"{}"))
    assert shop.tree() == {"wares/split.json": SPLIT}
    assert shop.prepare("wares", "--split-file", mine, "--yes").code == 0
    assert shop.tree() == {"wares/split.json": b"{}"}
    assert f"not the published file: its SHA-256 is {sha256(b'{}')}" in shop.prepare().out


def test_split_files_that_cannot_be_used_are_refused(shop: Shop, tmp_path: Path) -> None:
    shop.sell([shop.archive(tar(TREE))])
    shop.sell([split(shop)], "other")
    mine = tmp_path / "mine.json"
    result = shop.prepare("other", "--split-file", mine)
    assert (result.code, "expected a file" in result.err) == (2, True)
    mine.write_bytes(SPLIT)
    result = shop.prepare("wares", "--split-file", mine)
    assert (result.code, "has no split file" in result.err) == (2, True)
    result = shop.prepare("wares,other", "--split-file", mine)
    assert (result.code, "belongs to one data set, 2 are named" in result.err) == (2, True)


def test_wrong_names_get_a_suggestion(shop: Shop) -> None:
    shop.sell([shop.archive(tar(TREE))])
    result = shop.prepare("waers")
    assert result.code == 2
    assert "did you mean 'wares'" in result.err
    assert shop.prepare("digits").code == 0


@pytest.mark.parametrize(
    "change",
    [{"place": "../wares"}, {"place": "/wares"}, {"place": ""}, {"name": "../wares.tar.gz"}]
    + [{"provides": ["../x"]}, {"alternatives": ["C:/x"]}, {"name": ".."}],
)
def test_recipes_that_leave_the_root_are_refused(shop: Shop, change: dict[str, Any]) -> None:
    shop.sell([shop.archive(tar(TREE)) | change])
    result = shop.prepare()
    assert result.code == 1
    assert "data set 'wares'" in result.err
    assert not shop.root.exists()


def test_roots_that_cannot_be_written_to_are_refused(shop: Shop, tmp_path: Path) -> None:
    shop.sell([shop.archive(tar(TREE))])
    shop.root.mkdir(parents=True)
    shop.root.chmod(0o555)
    result = shop.prepare()
    assert result.code == 3
    assert f"{shop.root} is read-only" in result.err
    shop.root.chmod(0o755)
    assert shop.prepare().code == 0
    shop.root.chmod(0o555)
    assert shop.prepare().code == 0
    shop.root.chmod(0o755)
    shutil.rmtree(shop.root / "wares")
    (tmp_path / "file").touch()
    assert "is a file" in shop.prepare("wares", "--root", tmp_path / "file" / "below").err
    (shop.root / "wares").write_bytes(b"in the way")
    result = shop.prepare()
    assert result.code == 3
    assert "cannot be placed" in result.out
    assert "Traceback" not in result.out + result.err


def test_a_folder_that_is_a_link_is_filled_where_it_leads(shop: Shop, tmp_path: Path) -> None:
    shop.sell([shop.archive(tar(TREE))])
    big = tmp_path / "big"
    big.mkdir()
    shop.root.mkdir(parents=True)
    (shop.root / "wares").symlink_to(big)
    assert shop.prepare().code == 0
    assert sorted(path.name for path in (big / "images").iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]


@pytest.mark.parametrize("waited", [True, False])
def test_the_lock_of_a_dead_process_holds_nobody_up(shop: Shop, waited: bool) -> None:
    shop.sell([shop.archive(tar(images(3, 100_000)), piece=10_000, pause=0.2)])
    process = shop.start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: shop.part().exists())
    process.kill()
    wait_until(lambda: not is_running(process.pid))
    if waited:
        process.wait()
    shop.sell([shop.archive(tar(TREE))])
    result = shop.prepare()
    assert (result.code, shop.tree()) == (0, WARES)
    assert "waiting" not in result.out
    assert not (shop.root / "downloads").exists()
    process.wait()


def test_the_lock_of_a_living_process_is_waited_for(shop: Shop) -> None:
    shop.sell([shop.archive(tar(images(3, 100_000)), piece=30_000, pause=0.4)])
    first = shop.start(stdout=subprocess.DEVNULL)
    wait_until(lambda: shop.part().exists())
    result = shop.prepare()
    assert result.code == 0
    assert "waiting for another fsbench data prepare to end" in result.out
    assert "already at" in result.out
    assert first.wait(60) == 0
    assert shop.site.asked("/wares.tar.gz") == [""]
    assert len(shop.tree()) == 3


def test_the_command_imports_no_torch() -> None:
    module = "fewshot_bench.plugins.data.commands"
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_published_split_file_is_imported_for_a_public_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path / "data"))
    mine = tmp_path / "split.json"
    mine.write_bytes(SPLIT)
    result = fsbench("data", "prepare", "dtd", "--split-file", mine)
    assert result.code == 2
    assert published_splits()["dtd"].file_sha256 in result.err
