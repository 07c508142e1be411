"""Disk and memory are checked before training, and a full disk loses no results."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot_bench.backbones import free_bytes
from fewshot_bench.runner import preflight as room
from fewshot_bench.runner.preflight import WORKER_BYTES
from fewshot_bench.utils import memory as host_memory
from tests.support.helpers import fsbench, record_files

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
    monkeypatch.setattr(room, "free_host_memory", lambda: 3 * WORKER_BYTES)
    done = fsbench(*RUN, "--jobs", "8", "--store", tmp_path / "s")
    assert (done.code, "8 workers need" in done.err, "use --jobs 3" in done.err) == (1, True, True)
    with pytest.raises(room.NoRoomError, match=r"use --jobs 1$"):
        room.check_memory(8, WORKER_BYTES, devices=2)
    with pytest.raises(room.NoRoomError, match="name only 3 in --device"):
        room.check_memory(4, WORKER_BYTES, devices=4)
    monkeypatch.setattr(room, "free_host_memory", lambda: 2**20)
    assert "smaller backbone" in fsbench(*RUN, "--store", tmp_path / "s").err


@pytest.mark.parametrize("group", ["", "slurm/job_7/step_0"])
def test_limits_of_containers_and_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    (tmp_path / "own").write_text(f"0::/{group}\n")
    limited = tmp_path / Path(group).parent
    limited.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(host_memory, "_MOUNT", tmp_path)
    monkeypatch.setattr(host_memory, "_OWN", tmp_path / "own")
    whole = host_memory.free_host_memory()
    (limited / "memory.max").write_text("max\n")
    (limited / "memory.current").write_text("1000\n")
    assert abs(host_memory.free_host_memory() - whole) < 2**30
    (limited / "memory.max").write_text("5000\n")
    assert host_memory.free_host_memory() == 4000
    assert free_bytes(torch.device("cpu")) == 4000
    (limited / "memory.stat").write_text("anon 7\ninactive_file 500\nactive_file 250\n")
    assert host_memory.free_host_memory() == 4750


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 24 MiB."""
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
