"""The cache of decoded images: savings, cases where it is bypassed, damage, and its bound."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from pathlib import Path

import pytest
import torch
from open_clip.transform import image_transform

from fewshot_bench import DataMissingError, Item
from fewshot_bench.backbones.embedded import load_tiny
from fewshot_bench.images.cache import transform_of
from fewshot_bench.images.decode import find_unreadable
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.utils import small_cache
from tests.support.helpers import save_image
from tests.support.image_cases import (
    COUNT,
    Photos,
    evaluated,
    make_folder,
    published,
    segments,
    tiny,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images, and a cache for this test only."""
    return make_folder(tmp_path, monkeypatch)


def test_a_second_run_reads_nothing(folder: Path) -> None:
    first, read, tally = evaluated(folder)
    assert set(read) == {f"{index:02}.png" for index in range(COUNT)}
    assert (tally.decoded, tally.cached) == (COUNT, 0)
    second, read, tally = evaluated(folder)
    assert torch.equal(first, second)
    assert (read, tally.decoded, tally.cached) == ([], 0, COUNT)
    assert find_unreadable(Photos(folder), Photos(folder).items()["test"]) == ({}, 0, "")
    third, read, _ = evaluated(folder, order=[7, 0, 7, 3])
    assert torch.equal(third, first[[7, 0, 7, 3]])
    assert not read


def test_images_that_decode_are_not_checked_again(folder: Path) -> None:
    (folder / "03.png").write_bytes(b"no image")
    photos = Photos(folder)
    assert list(find_unreadable(photos, photos.items()["test"]).bad) == ["03.png"]
    assert len(photos.reads) == COUNT
    again = Photos(folder)
    assert len(find_unreadable(again, again.items()["test"]).bad) == 1
    assert again.reads == ["03.png"]


@pytest.mark.parametrize("keeps_time", [False, True])
def test_only_a_changed_image_is_decoded_anew(folder: Path, keeps_time: bool) -> None:
    first, _, _ = evaluated(folder)
    path = folder / "04.png"
    before = path.stat()
    data = bytearray(path.read_bytes())
    save_image(path, 99, (54, 40))
    if keeps_time:
        changed = path.read_bytes()[: len(data)]
        path.write_bytes(changed + b"\0" * (len(data) - len(changed)))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (len(data), before.st_mtime_ns)
    second, read, tally = evaluated(folder)
    assert set(read) == {"04.png"}
    assert (tally.decoded, tally.cached) == (1, COUNT - 1)
    differs = (first != second).flatten(1).any(dim=1)
    assert differs.nonzero().flatten().tolist() == [4]
    assert torch.equal(second[4], published(folder)[4])


def test_another_size_or_transform_is_another_cache(folder: Path) -> None:
    half, found = (0.5, 0.5, 0.5), []
    modes = ("shortest", "squash", "longest")
    for size, mode in [*((size, mode) for size in (32, 40) for mode in modes), (32, "squash")]:
        backbone = load_tiny()
        transform = image_transform(size, is_train=False, mean=half, std=half, resize_mode=mode)
        backbone.image_size, backbone._steps = (size, size), transform.transforms[:-2]
        pixels, read, _ = evaluated(folder, backbone)
        assert pixels.shape[2:] == (size, size)
        found.append(len(set(read)))
    assert found == [COUNT] * 6 + [0]


@pytest.mark.parametrize("damage", ["flip", "swap", "cut", "empty", "tail", "other"])
def test_a_damaged_file_is_decoded_again(folder: Path, damage: str) -> None:
    first, _, _ = evaluated(folder)
    (path,) = segments(folder)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[5000] ^= 4
    elif damage == "swap":
        data[:4096], data[4096:8192] = data[4096:8192], data[:4096]
    elif damage == "tail":
        data[-70] ^= 1
    else:
        data = {"cut": data[:-1], "empty": bytearray(), "other": data[::-1]}[damage]
    path.write_bytes(data)
    second, read, _ = evaluated(folder)
    assert torch.equal(first, second)
    assert len(read) == COUNT
    third, read, _ = evaluated(folder)
    assert torch.equal(first, third)
    assert not read


@pytest.mark.parametrize("damage", [b"", b"x" * 10_000, None])
def test_a_damaged_index_is_built_again(folder: Path, damage: bytes | None) -> None:
    evaluated(folder)
    (path,) = (folder.parent / "cache").glob("digests/*.sqlite")
    data = bytearray(path.read_bytes())
    data[data.index(hashlib.sha256(next(folder.iterdir()).read_bytes()).digest())] ^= 1
    path.write_bytes(data if damage is None else damage)
    # As in another process.
    small_cache._open.cache_clear()
    assert len(evaluated(folder)[1]) == COUNT
    assert evaluated(folder)[1] == []


def test_a_file_that_changed_just_now_is_not_known_by_its_stamp(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewshot_bench.images.digests.RACY_SECONDS", 60.0)
    evaluated(folder)
    assert len(evaluated(folder)[1]) == COUNT
    monkeypatch.setattr("fewshot_bench.images.digests.RACY_SECONDS", 2.0)
    for path in folder.iterdir():
        path.touch()
    slept, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(seconds) or sleep(seconds))
    assert find_unreadable(Photos(folder), Photos(folder).items()["test"]) == ({}, 0, "")
    assert sum(slept) <= 2.1, "each image is waited for on its own"
    assert evaluated(folder)[1] == []


def test_an_image_that_changes_during_a_run_is_named(folder: Path) -> None:
    photos = Photos(folder)
    source = ImageSource.of(photos, photos.items()["test"], tiny())
    assert source.digests
    save_image(folder / "06.png", 77)
    with pytest.raises(DataMissingError, match=r"'06\.png' changed while"):
        list(source.batches(4, range(COUNT)))


@pytest.mark.parametrize("depth", [0, 2])
def test_errors_name_the_image_and_come_in_order(folder: Path, depth: int) -> None:
    (folder / "05.png").write_bytes(b"no image")
    (folder / "09.png").unlink()
    photos = Photos(folder)
    items = [*photos.items()["test"], Item("09.png", 0, "cat")]
    source = ImageSource.of(photos, items, tiny())
    with pytest.raises(DataMissingError, match=r"'09\.png' cannot be read"):
        _ = source.digests
    source = ImageSource.of(photos, items[:-1], tiny(), depth=depth)
    batches = source.batches(4, range(11))
    assert len(next(batches)) == 4
    with pytest.raises(DataMissingError, match=r"'05\.png' does not decode"):
        next(batches)


def test_an_image_that_the_transform_refuses_is_named(folder: Path) -> None:
    save_image(folder / "05.png", 5, (900, 1))
    backbone, half = load_tiny(), (0.5, 0.5, 0.5)
    transform = image_transform(32, is_train=False, mean=half, std=half, resize_mode="longest")
    backbone.image_size, backbone._steps = (32, 32), transform.transforms[:-2]
    with pytest.raises(DataMissingError, match=r"'05\.png' \(900 x 1 pixels\) does not fit"):
        evaluated(folder, backbone)


def _scaled(image: object, factor: int) -> object:
    return (image, factor)


class _Step:
    """A transform step whose setting is hidden by its bound method."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def apply(self, image: object) -> object:
        return (image, self.factor)


@pytest.mark.parametrize(
    "step", [functools.partial(_scaled, factor=1), _Step(1).apply, lambda image: image]
)
def test_a_step_whose_settings_are_hidden_is_not_described(step: object) -> None:
    class Backbone:
        image_size = (8, 8)
        _steps = (step,)

    assert transform_of(Backbone()) is None  # type: ignore[arg-type]
