"""Disk and memory are looked at before anything trains, and a full disk is no loss."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench import room
from tests.helpers import fsbench, record_files

RUN = ("run", "-m", "zero-shot", "-d", "digits", "--shots", "1", "--seeds", "1-8")
Usage = namedtuple("Usage", "total used free")


def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**30, 2**30, 2**20))
    done = fsbench(*RUN, "--store", tmp_path / "s")
    assert done.code == 1
    assert "and '" in done.err
    assert "1.0 MB left; make room" in done.err
    assert not record_files(tmp_path / "s")


def test_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_memory", lambda: 3 * room.WORKER_BYTES)
    done = fsbench(*RUN, "--jobs", "8", "--store", tmp_path / "s")
    assert (done.code, "8 workers need" in done.err, "use --jobs 3" in done.err) == (1, True, True)
    monkeypatch.setattr(room, "free_memory", lambda: 2**20)
    assert "smaller backbone" in fsbench(*RUN, "--store", tmp_path / "s").err


def test_a_limit_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    whole = room.free_memory()
    assert whole is not None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert abs((room.free_memory() or 0) - whole) < 2**30
    (tmp_path / "memory.max").write_text("5000\n")
    assert room.free_memory() == 4000
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 500\nactive_file 250\n")
    assert room.free_memory() == 4750


def test_a_dry_run_says_what_is_needed(tmp_path: Path) -> None:
    done = fsbench(*RUN, "--dry-run", "--store", tmp_path / "s")
    assert "needs up to " in done.out
    assert " of memory or more" in done.out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made: Any = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("needs to mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SPARE_BYTES", 0)
    store = small_disk / "s"
    assert fsbench(*RUN[:-1], "1", "--store", store).code == 0
    before = record_files(store)
    stuffing = small_disk / "stuffing"
    free = os.statvfs(small_disk)
    stuffing.write_bytes(b"\1" * (free.f_bavail * free.f_frsize))
    monkeypatch.setattr(room, "check_disk", lambda *_: None)
    done = fsbench(*RUN, "--store", store)
    assert done.code == 1, done
    assert "no space to write" in done.err
    assert "the same command again" in done.err
    assert {name: record_files(store)[name] for name in before} == before
    stuffing.unlink()
    done = fsbench(*RUN, "--store", store)
    assert done.code == 0, done
    assert len(record_files(store)) == 16
    assert fsbench("store", "verify", "--store", store).code == 0
