"""What `fsbench env` says of caches, and that it removes only our own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.utils.small_cache import keep_list
from tests.support.helpers import Result, fsbench
from tests.support.image_cases import Photos, make_folder, tiny

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


def clear(tmp_path: Path, kinds: str) -> Result:
    return fsbench("env", "--clear-cache", kinds, "--store", tmp_path / "store")


def sizes(tmp_path: Path) -> dict[str, str]:
    """The line of each kind."""
    lines = fsbench("env", "--store", tmp_path / "store").out.splitlines()
    return {line.split()[0][6:]: line for line in lines if line.startswith("cache.")}


def test_env_has_sizes_and_bounds(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_CACHE_GB", "3")
    lines = sizes(tmp_path)
    (path,) = cache.rglob(SEGMENT)
    size = f"{path.stat().st_size / 1000:.1f} kB"
    assert f"{size} of at most 3.0 GB (FSBENCH_CACHE_GB) in 1 files" in lines["images"]
    assert str(cache / "digests") in lines["digests"]
    assert str(tmp_path / "store" / "cache" / "features") in lines["features"]
    monkeypatch.setenv("FSBENCH_CACHE_GB", "lots")
    assert fsbench("env").code == 2


def test_only_what_is_ours_is_removed(cache: Path, tmp_path: Path) -> None:
    assert clear(tmp_path, "digests,lists").out.startswith("removed 2 files")
    left = {name for name, line in sizes(tmp_path).items() if "in 0 files" not in line}
    assert left == {"images", "features"}
    assert clear(tmp_path, "all").out.startswith("removed 2 files")
    assert all("in 0 files" in line for line in sizes(tmp_path).values())
    for name in FOREIGN:
        assert (cache / name).read_text(encoding="utf-8") == "keep"


def test_no_link_is_followed(cache: Path, tmp_path: Path) -> None:
    (path,) = cache.rglob(SEGMENT)
    outside = tmp_path / "outside"
    path.parent.rename(outside)
    path.parent.symlink_to(outside)
    inside = cache / "images" / "0123456789abcdef" / f"{'b' * 64}.pixels"
    inside.symlink_to(outside / path.name)
    clear(tmp_path, "all")
    assert (outside / path.name).is_file()
    assert inside.is_symlink()


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    result = clear(tmp_path, "image")
    assert (result.code, "did you mean 'images'" in result.err) == (2, True)
