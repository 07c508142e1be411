"""`fsbench data prepare` with little disk space, little time, or an interactive user."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from tests.support.helpers import wait_until
from tests.support.preparing import LOCK_FILE, Shop, images, largest_file, tar

TREE = images()
BIG = tar(images(3, 300_000))


def test_a_large_download_needs_agreement(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewshot_bench.plugins.data.prepare.LARGE_BYTES", 100)
    content = tar(TREE)
    for size in (0, len(content)):
        shop.sell([shop.archive(content, size=size)])
        result = shop.prepare()
        assert result.code == 3
        assert "run again with --yes" in result.out
        assert ("prepare wares --yes" in result.out) == bool(size)
    assert shop.tree() == {}
    assert shop.prepare("wares", "--yes").code == 0


Usage = namedtuple("Usage", "total used free")


def test_too_little_room_is_said_before_anything_is_written(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 10**6))
    shop.sell([shop.archive(BIG)])
    result = shop.prepare()
    assert result.code == 3
    assert "needs 1.8 MB" in result.out
    assert "1.0 MB are free" in result.out
    assert not shop.part().exists()


def test_a_disk_that_runs_full_keeps_what_came(shop: Shop) -> None:
    shop.sell([shop.archive(BIG)])
    with largest_file(500_000):
        result = shop.prepare()
    assert result.code == 3, result
    assert "the disk is full" in result.out
    assert "500,000 bytes are kept" in result.out
    assert "1. then run: fsbench data prepare wares\n" in result.out
    assert shop.part().stat().st_size == 500_000
    assert shop.prepare().code == 0
    assert shop.site.asked("/wares.tar.gz")[-1] == "bytes=500000-"


def test_a_download_that_was_killed_goes_on(shop: Shop) -> None:
    shop.sell([shop.archive(BIG, piece=50_000, hold=150_000)])
    process = shop.start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: shop.part().exists() and shop.part().stat().st_size >= 100_000)
    process.kill()
    process.wait()
    have = shop.part().stat().st_size
    assert 0 < have < len(BIG)
    assert {*os.listdir(shop.root)} - {LOCK_FILE} == {"downloads"}
    shop.site.put("/wares.tar.gz", BIG)
    assert shop.prepare().code == 0
    assert shop.site.asked("/wares.tar.gz")[-1] == f"bytes={have}-"
    assert len(shop.tree()) == 3


def test_a_disk_that_runs_full_while_unpacking_keeps_the_archive(shop: Shop) -> None:
    content = tar(TREE | {"big.txt": b"0123456789" * 100_000})
    shop.sell([shop.archive(content)])
    with largest_file(500_000):
        result = shop.prepare()
    assert result.code == 3, result
    assert "the disk is full" in result.out
    archive = shop.root / "downloads" / "wares" / "wares.tar.gz"
    assert f"the archive is kept at {archive}" in result.out
    assert shop.tree() == {}
    assert not (shop.root / "wares").exists()
    assert shop.prepare().code == 0
    assert shop.site.asked("/wares.tar.gz") == [""]
    assert len(shop.tree()) == 4
    assert not archive.exists()


class Terminal(io.StringIO):
    """Interactive standard input."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def test_a_person_is_asked_before_a_large_download(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.sell([shop.archive(tar(TREE), size=3 * 10**9)])
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    result = shop.prepare()
    assert "download wares.tar.gz (3.0 GB)?" in result.out
    assert shop.site.requests == []
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    result = shop.prepare()
    assert "it is another file" in result.out
    assert shop.site.asked("/wares.tar.gz") == [""]


def test_a_terminal_shows_progress_and_stays_readable(shop: Shop) -> None:
    shop.sell([shop.archive(BIG, piece=100_000, pause=0.1)])
    outside, inside = os.openpty()
    process = shop.start(stdout=inside, stderr=inside, stdin=inside)
    os.close(inside)
    seen = b""
    try:
        while chunk := os.read(outside, 65536):
            seen += chunk
    except OSError:
        pass
    os.close(outside)
    assert process.wait(60) == 0
    assert b"data prepare: wares.tar.gz, MB, " in seen
    assert b"there now: wares" in seen


def test_a_recipe_that_breaks_its_contract_is_named(shop: Shop) -> None:
    shop.sell([{"name": "x", "place": "wares", "color": "red"}])
    result = shop.prepare()
    assert result.code == 1
    assert "recipe() of 'wares': TypeError" in result.err
    assert "Traceback" not in result.out + result.err
    shop.sell([], by_hand=["write to the authors, and put it at wares/"])
    result = shop.prepare()
    assert result.code == 3
    assert "1. write to the authors" in result.out
    (shop.root / "wares").mkdir(parents=True)
    assert shop.prepare().code == 0


def test_what_cannot_be_written_is_told_in_one_line(shop: Shop, tmp_path: Path) -> None:
    split = {"name": "split.json", "place": "wares/split.json", "split": True}
    shop.sell([split])
    mine = tmp_path / "mine.json"
    mine.write_bytes(b"{}")
    shop.root.mkdir(parents=True)
    (shop.root / "wares").write_bytes(b"in the way")
    result = shop.prepare("wares", "--split-file", mine)
    assert result.code == 3
    assert result.err.startswith(f"error: {shop.root}/wares cannot be written (File exists)")
    assert {*os.listdir(shop.root)} - {LOCK_FILE} == {"wares"}


def test_a_body_without_end_stops_at_what_the_recipe_expects(shop: Shop) -> None:
    content = tar(images(3, 300_000))
    file = shop.archive(content, length=False, ranges=False, max_unpacked=200_000)
    shop.sell([file | {"sha256": ""}])
    result = shop.prepare("wares", "--yes")
    assert (result.code, "it goes on after 200,000 bytes" in result.out) == (3, True)
    assert not shop.part().exists()


def test_a_body_of_unknown_length_leaves_room_on_the_disk(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**10, 9 * 10**9, 999 * 10**6))
    monkeypatch.setattr("fewshot_bench.plugins.data.download.ROOM_STEP", 1)
    shop.sell([shop.archive(BIG, length=False, ranges=False)])
    result = shop.prepare("wares", "--yes")
    assert (result.code, "1.0 GB are left alone" in result.out) == (3, True)


def test_a_refused_archive_is_not_to_be_fetched_again(shop: Shop) -> None:
    shop.sell([shop.archive(b"no archive at all")])
    result = shop.prepare()
    assert result.code == 3
    assert "download wares.tar.gz from" not in result.out
    assert "1. get another copy of wares.tar.gz than the one of 127.0.0.1" in result.out
