"""`fsbench run` twice: the second run reads no image, and never serves outdated pixels."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot_bench.api.registry import registry
from tests.helpers import Result, fsbench, save_image

MODULE = "fsbench_counted_photos"
TRAIN, TEST = 2, 30


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The images, with the plug-in installed here and in child processes."""
    folder = tmp_path_factory.mktemp("counted")
    source = Path(__file__).parents[1] / "plugin_photos.py"
    shutil.copy(source, folder / f"{MODULE}.py")
    info = folder / f"{MODULE}-1.0.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: {MODULE}\nVersion: 1.0\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    (info / "entry_points.txt").write_text(
        f"[fewshot_bench]\ncounted = {MODULE}\n", encoding="utf-8"
    )
    photos = folder / "photos"
    for role, count in (("train", TRAIN), ("test", TEST)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                seed = 1000 * label + index + 500 * (role == "train")
                save_image(photos / role / name / f"{index:02}.bmp", seed, (120, 90))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        before = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), before))))
        patch.setenv("FSBENCH_CACHE", str(folder / "cache"))
        registry.cache_clear()
        yield photos
    registry.cache_clear()


def feature_names(store: Path) -> set[int]:
    """Names of all rows in a store's cache."""
    names: set[int] = set()
    for path in (store / "cache").rglob("*.rows"):
        with closing(sqlite3.connect(path)) as base:
            names |= {name for (name,) in base.execute("select name from row")}
    return names


class Run:
    """One `fsbench run` of zero-shot into a store of its own."""

    def __init__(self, root: Path, store: Path) -> None:
        log = root / "reads.log"
        log.unlink(missing_ok=True)
        self.result: Result = fsbench(
            *("run", "--method", "zero-shot", "--dataset", f"counted:{root}", "--shots", "1"),
            *("--backbone", "tiny"),
            *("--seeds", "1", "--val", "none", "--store", store, "--jobs", "1"),
        )
        text = log.read_text(encoding="utf-8") if log.is_file() else ""
        self.reads = sorted(set(text.split()))
        (path,) = (store / "records").rglob("*.json")
        self.record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.images = self.record["timings"]["images"]
        self.answers: Any = np.load(path.with_suffix(".npz"))["statistics"]
        self.features = feature_names(store)


@pytest.mark.slow
def test_the_second_run_reads_nothing_and_a_changed_image_is_seen(
    root: Path, tmp_path: Path
) -> None:
    first = Run(root, tmp_path / "first")
    assert first.result.code == 0, first.result
    assert len(first.reads) == 2 * (TRAIN + TEST)
    assert (first.images["decoded"], first.images["cached"]) == (2 * TEST, 0)

    second = Run(root, tmp_path / "second")
    assert second.result.code == 0, second.result
    assert second.reads == []
    assert (second.images["decoded"], second.images["cached"]) == (0, 2 * TEST)
    assert np.array_equal(first.answers, second.answers)
    assert first.features == second.features

    changed = root / "test" / "dog" / "07.bmp"
    before = changed.stat()
    save_image(changed, 4242, (120, 90))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = changed.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    third = Run(root, tmp_path / "third")
    assert third.result.code == 0, third.result
    assert third.reads == ["test/dog/07.bmp"]
    assert (third.images["decoded"], third.images["cached"]) == (1, 2 * TEST - 1)
    differs = np.flatnonzero(first.answers != third.answers)
    assert differs.tolist() == [TEST + 7]
    assert third.features != first.features
    digests = [run.record["split"]["images"] for run in (first, second, third)]
    assert digests[0] == digests[1] != digests[2]
