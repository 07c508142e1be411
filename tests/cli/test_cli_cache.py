"""`fsbench cache`: its listing, and that it removes only our own files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.utils.small_cache import keep_list
from tests.helpers import fsbench
from tests.image_cases import COUNT, Photos, make_folder, tiny

SEGMENT = f"{'[0-9a-f]' * 64}.pixels"
FOREIGN = ("images/notes.pixels", "images/0123456789abcdef/mine.txt", "other/a.pixels", "digests/x")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one file of each kind, and foreign files."""
    photos = Photos(make_folder(tmp_path, monkeypatch))
    source = ImageSource.of(photos, photos.items()["test"], tiny())
    store = FeatureCache(tmp_path / "store" / "cache" / "features")
    meter = Meter(source.backbone.device)
    with meter.phase("fit"):
        _ = image_view(source, store, meter, phase="encode_queries").features
    folder = tmp_path / "cache"
    keep_list("key", b"content")
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("keep", encoding="utf-8")
    return folder


def kinds(tmp_path: Path) -> list[str]:
    """Kinds listed by `ls`."""
    listed = fsbench("cache", "ls", "--store", tmp_path / "store")
    assert listed.code == 0, listed
    return sorted(line.split()[0] for line in listed.out.splitlines()[1:])


def test_ls_says_what_there_is(cache: Path, tmp_path: Path) -> None:
    days = [time.strftime("%Y-%m-%d")]
    listed = fsbench("cache", "ls", "--store", tmp_path / "store").out.splitlines()
    days.append(time.strftime("%Y-%m-%d"))
    assert listed[0].split() == ["kind", "data", "set", "images", "size", "last", "used", "file"]
    rows = {line.split()[0]: line.split() for line in listed[1:]}
    assert sorted(rows) == ["digests", "features", "images", "lists"]
    for kind in ("digests", "features", "images"):
        assert rows[kind][1:3] == ["photos", str(COUNT)]
    assert rows["images"][-3] in days
    assert kinds(tmp_path) == sorted(rows)


def test_size_prints_totals_and_the_bound(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_CACHE_GB", "3")
    result = fsbench("cache", "size", "--store", tmp_path / "store")
    lines = {line.split()[0]: line for line in result.out.splitlines()}
    (path,) = cache.rglob(SEGMENT)
    size = f"{path.stat().st_size / 1000:.1f} kB"
    assert f"{size} of at most 3.0 GB (FSBENCH_CACHE_GB) in 1 files" in lines["images"]
    assert str(cache / "digests") in lines["digests"]
    assert str(tmp_path / "store" / "cache" / "features") in lines["features"]
    monkeypatch.setenv("FSBENCH_CACHE_GB", "lots")
    assert fsbench("cache", "size").code == 2


def test_rm_removes_what_is_ours(cache: Path, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    assert fsbench("cache", "rm", "--yes", "--older", "1h", *store).out == "removed 0 files, 0 B\n"
    (path,) = cache.rglob(SEGMENT)
    os.utime(path, (time.time() - 7200,) * 2)
    assert fsbench("cache", "rm", "--yes", "--older", "1h", *store).out.startswith(
        "removed 1 files"
    )
    assert kinds(tmp_path) == ["digests", "features", "lists"]
    fsbench("cache", "rm", "--yes", "--kind", "digests,lists", *store)
    assert kinds(tmp_path) == ["features"]
    assert fsbench("cache", "rm", "--yes", *store).out.startswith("removed 1 files")
    assert fsbench("cache", "ls", *store).out == "nothing is cached\n"
    for name in FOREIGN:
        assert (cache / name).read_text(encoding="utf-8") == "keep"


def test_rm_follows_no_link(cache: Path, tmp_path: Path) -> None:
    (path,) = cache.rglob(SEGMENT)
    outside = tmp_path / "outside"
    path.parent.rename(outside)
    path.parent.symlink_to(outside)
    inside = cache / "images" / "0123456789abcdef" / f"{'b' * 64}.pixels"
    inside.symlink_to(outside / path.name)
    fsbench("cache", "rm", "--yes", "--store", tmp_path / "store")
    assert (outside / path.name).is_file()
    assert inside.is_symlink()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["rm", "--kind", "image"], "did you mean 'images'"),
        (["rm", "--older", "30x"], "'30x': expected a number and s, m, h, d or w"),
        (["rn"], "did you mean 'rm'"),
    ],
)
def test_wrong_usage(arguments: list[str], part: str) -> None:
    result = fsbench("cache", *arguments)
    assert result.code == 2
    assert part in result.err
    assert len(result.err.splitlines()) == 1
