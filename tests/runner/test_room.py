"""Disk and memory are checked before training, and a full disk loses no results."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot_bench.api.registry import registry
from fewshot_bench.backbones import free_memory
from fewshot_bench.runner import preflight as room
from fewshot_bench.runner.needs import WORKER_BYTES, compute_needs
from fewshot_bench.utils import memory as host_memory
from tests.helpers import cells, fsbench, record_files

RUN = ("run", "-m", "zero-shot", "-d", "digits", "--shots", "1", "--seeds", "1-8")
Usage = namedtuple("Usage", "total used free")


def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**30, 2**30, 2**20))
    done = fsbench(*RUN, "--store", tmp_path / "s")
    assert done.code == 1
    assert "and '" in done.err
    assert "1.0 MB left; make room" in done.err
    assert not record_files(tmp_path / "s")


def test_a_disk_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: Path) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(shutil, "disk_usage", gone)
    done = fsbench(*RUN, "--store", tmp_path / "s")
    assert (done.code, "how much space is left there (No such device)" in done.err) == (1, True)


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


def test_weights_in_a_folder_count(tmp_path: Path) -> None:
    (tmp_path / "open_clip_model.safetensors").write_bytes(bytes(5_000_000))
    model = {"embed_dim": 64, "vision_cfg": {"layers": 2, "width": 64, "image_size": 32}}
    model |= {"text_cfg": {"layers": 2, "width": 64, "vocab_size": 100}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    (cell,) = cells("zero-shot", seeds=(1,))
    cell = dataclasses.replace(cell, backbone=f"local-dir:{tmp_path}")
    found = compute_needs([cell], {"digits": registry().dataset("digits", {})})
    assert found.least == WORKER_BYTES + 5_000_000


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
    assert free_memory(torch.device("cpu")) == 4000
    (limited / "memory.stat").write_text("anon 7\ninactive_file 500\nactive_file 250\n")
    assert host_memory.free_host_memory() == 4750


def test_limits_of_the_older_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").write_text("5:cpu:/\n4:memory,x:/docker/a\n")
    (tmp_path / "memory" / "docker" / "a").mkdir(parents=True)
    monkeypatch.setattr(host_memory, "_MOUNT", tmp_path)
    monkeypatch.setattr(host_memory, "_OWN", tmp_path / "own")
    for name, text in (("limit", "9000"), ("usage", "2000")):
        (tmp_path / "memory" / "docker" / "a" / f"memory.{name}_in_bytes").write_text(text)
    assert host_memory.free_host_memory() == 7000


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
