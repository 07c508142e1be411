"""Bounds of the image cache, unwritable places, and billing."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from fewshot_bench import Augment
from fewshot_bench.images.augment import draw_passes
from fewshot_bench.images.cache import ImageCache
from fewshot_bench.images.decode import decode, find_unreadable
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.cost import Cost
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner.preflight import check_images
from fewshot_bench.utils.cache_dir import limit_bytes
from tests.support.helpers import cells, save_image
from tests.support.image_cases import COUNT, Photos, evaluated, make_folder, segments, tiny

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images, and a cache for this test only."""
    return make_folder(tmp_path, monkeypatch)


def test_the_least_recently_used_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = COUNT * 3 * 32 * 32
    monkeypatch.setenv("FSBENCH_CACHE_GB", str(2.5 * size / 1e9))
    kept = []
    for name in ("one", "four", "third"):
        other = folder.parent / name
        for index in range(COUNT):
            save_image(other / f"{index:02}.png", 100 * len(name) + index)
        before = set(segments(folder))
        evaluated(other)
        (new,) = set(segments(folder)) - before
        kept.append(new)
        for age, path in enumerate(reversed(kept)):
            os.utime(path, (time.time() - 100 * age,) * 2) if path.exists() else None
        if name == "four":
            evaluated(folder.parent / "one")
    assert [path.exists() for path in kept] == [True, False, True]
    assert sum(path.stat().st_size for path in segments(folder)) <= limit_bytes()


def test_what_exceeds_the_bound_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, _ = evaluated(folder)
    (path,) = segments(folder)
    path.unlink()
    monkeypatch.setenv("FSBENCH_CACHE_GB", "0")
    for _ in range(2):
        pixels, read, tally = evaluated(folder)
        assert torch.equal(pixels, first)
        assert len(read) == COUNT
        assert "FSBENCH_CACHE_GB=0" in tally.to_dict()["problem"]
    assert not segments(folder)


def test_the_disk_is_never_filled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = shutil.disk_usage(folder)
    full = type(usage)(10**12, 10**12 - 10**9, 10**9)
    monkeypatch.setattr("fewshot_bench.utils.cache_dir.shutil.disk_usage", lambda _: full)
    _, _, tally = evaluated(folder)
    assert "no room" in tally.problem
    assert not segments(folder)


def test_a_write_that_fails_costs_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fewshot_bench.images.cache.os.replace", full)
    _, _, tally = evaluated(folder)
    assert "No space left" in tally.problem
    assert not [p for p in (folder.parent / "cache" / "images").rglob("*") if p.is_file()]
    monkeypatch.undo()


def test_a_cache_that_cannot_be_written_is_told_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = folder.parent / "file"
    blocked.write_text("", encoding="utf-8")
    monkeypatch.setenv("FSBENCH_CACHE", str(blocked / "cache"))
    first, _, tally = evaluated(folder)
    assert len(first) == COUNT
    assert "are not kept" in tally.problem
    photos = Photos(folder)
    problems, _, trouble = find_unreadable(photos, photos.items()["test"])
    assert not problems
    assert "digests of images are not kept" in trouble
    said: list[str] = []
    plan = cells("zero-shot")
    assert check_images({"digits": photos}, plan, said.append) == {}
    assert said == [trouble]


def source(folder: Path) -> ImageSource:
    """The images as in a fresh process, without read-ahead."""
    photos = Photos(folder)
    return ImageSource.of(photos, photos.items()["test"], tiny(), depth=0)


def billed(images: ImageSource, augment: Augment | None, epochs: int = 1) -> tuple[Cost, Cost]:
    """Billed and computed cost of a fit that only loads images."""
    meter = Meter(CPU)
    with meter.phase("fit"):
        for _ in range(epochs):
            stream = torch.Generator().manual_seed(0)
            for _ in images.batches(4, range(COUNT), augment, draw_passes(1, stream), meter.images):
                pass
    fit = meter.timings()["phases"]["fit"]
    return Cost(**fit["billed"]), Cost(**fit["elapsed"])


@pytest.mark.parametrize("augment", [None, Augment()])
def test_whoever_comes_second_is_billed_the_decoding(
    folder: Path, monkeypatch: pytest.MonkeyPatch, augment: Augment | None
) -> None:
    passing, lock = [0.0], threading.Lock()

    def slow(data: bytes) -> Any:
        with lock:
            passing[0] += 1.0
        return decode(data)

    monkeypatch.setattr("fewshot_bench.images.decode.decode", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: passing[0])
    images = source(folder)
    first, passed = billed(images, augment)
    assert first.wall == passed.wall == COUNT
    for later in (images, *([] if augment else [source(folder)])):
        for epochs in (1, 3):
            second, passed = billed(later, augment, epochs)
            assert second.wall == pytest.approx(COUNT)
            assert passed.wall == 0


def test_a_large_cache_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path))
    cache, count = ImageCache("any", (224, 224), "large"), 400
    writer = cache.write_segment(count)
    pixels = np.full((3, 224, 224), 7, np.uint8)
    digests = {index: index.to_bytes(32, "big") for index in range(count)}
    for digest in digests.values():
        writer.add(digest, pixels, Cost(1.0, 1.0))
    cache.publish(writer)
    batch = np.zeros((10, 3, 224, 224), np.uint8)
    before = psutil.Process().memory_info().rss
    for start in range(0, count, 10):
        part = {place: digests[start + place] for place in range(10)}
        assert cache.take(part, batch) == dict.fromkeys(range(10), Cost(1.0, 1.0))
        assert (batch == 7).all()
    assert psutil.Process().memory_info().rss - before < count * pixels.nbytes / 2
