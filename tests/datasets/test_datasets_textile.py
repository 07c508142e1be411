"""`textile`: the data set of an installed package; here with files of the same names."""

from __future__ import annotations

import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench import DataMissingError, UsageError
from fewshot_bench.api.items import digest_of
from fewshot_bench.api.registry import registry
from tests.support.helpers import fsbench

PACKAGE = "conformal_clip_data"
COUNTS = {"nominal": 1000, "local": 500, "global": 500}
SPLIT = "04956809ceaa6117cb493079ed91aef02caefb23325a800e51c3ecd88b3312cc"


def opened() -> Any:
    return registry().dataset("textile")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake package with the file names of the real one."""
    root = tmp_path / PACKAGE / "data" / "textile_images" / "simulated"
    for folder, count in COUNTS.items():
        (root / folder).mkdir(parents=True)
        for number in range(1, count + 1):
            (root / folder / f"textile_{number:04d}.jpg").write_bytes(b"x" * number)
    (tmp_path / PACKAGE / "__init__.py").write_text("raise AssertionError('never imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return root


def test_the_split_is_fixed(images: Path) -> None:
    dataset = opened()
    pools = dataset.items()
    assert dataset.card().counts == {"train": 1000, "val": 400, "test": 600}
    assert dataset.card().classnames == ("no defect", "a local defect", "a global defect")
    assert Counter(item.classname for item in pools["test"]) == {
        "no defect": 300,
        "a local defect": 150,
        "a global defect": 150,
    }
    assert digest_of(pools.items()) == SPLIT


def test_images_and_stamps(images: Path) -> None:
    dataset = opened()
    item = dataset.items()["train"][0]
    assert dataset.read(item) == (images / item.id).read_bytes()
    assert dataset.stamp(item).size == len(dataset.read(item))
    assert dataset.card().custom_templates[0].replace("{}", item.classname) == (
        "a close-up photo of textile fabric with no defect."
    )


def test_a_package_that_is_not_whole(images: Path) -> None:
    (images / "local" / "textile_0007.jpg").unlink()
    with pytest.raises(DataMissingError, match=r"1999 images in .*, expected 2000; install the"):
        opened().items()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    result = fsbench("show", "textile")
    assert result.code == 3
    assert "pip install 'fewshot-bench[textile]'" in result.err
    with pytest.raises(UsageError, match="leave --holdout out"):
        registry().dataset("textile", {"holdout": 0.3})


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="conformal-clip-data is not installed")
def test_the_real_package() -> None:
    dataset = opened()
    assert digest_of(dataset.items().items()) == SPLIT
    assert dataset.read(dataset.items()["test"][0])[:3] == b"\xff\xd8\xff"
