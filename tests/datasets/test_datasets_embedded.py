"""The demo suite: complete, fixed, readable."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from fsbench_datasets import embedded
from PIL import Image

from fewshot_bench import Dataset, Item
from fewshot_bench.api.dataset import all_items
from fewshot_bench.api.registry import registry

DEMO = ("digits", "letters", "shapes")
ANY_DEMO = pytest.mark.parametrize("name", DEMO)


def open_set(name: str) -> Any:
    return registry().dataset(name)


def test_the_suite() -> None:
    assert registry().datasets.suites()["demo"] == list(DEMO)


@ANY_DEMO
def test_cards_and_pools_agree(name: str) -> None:
    dataset = open_set(name)
    card, pools = dataset.card(), dataset.items()
    assert isinstance(dataset, Dataset)
    assert card.name == name
    assert card.counts == {role: len(items) for role, items in pools.items()}
    assert card.custom_templates[0].count("{}") == 1
    assert len(card.revision) == 64
    for items in pools.values():
        assert {item.classname for item in items} == set(card.classnames)
        assert all(card.classnames[item.label] == item.classname for item in items)
    names = [item.id for _, item in all_items(dataset)]
    assert len(set(names)) == len(names)
    assert all(item.id.startswith(f"{role}/") for role, item in all_items(dataset))


@ANY_DEMO
def test_every_image_decodes(name: str) -> None:
    dataset = open_set(name)
    for items in dataset.items().values():
        for item in items[::25]:
            image = Image.open(io.BytesIO(dataset.read(item)))
            image.load()
            assert (image.format, image.mode) == ("PNG", "L" if name == "digits" else "RGB")


@ANY_DEMO
def test_smallest_class_allows_sixteen_shots(name: str) -> None:
    counts = Counter(item.label for item in open_set(name).items()["train"])
    assert min(counts.values()) >= 16


@ANY_DEMO
def test_no_image_is_in_two_pools(name: str) -> None:
    dataset = open_set(name)
    pools = {
        role: {dataset.read(item) for item in items} for role, items in dataset.items().items()
    }
    assert not pools["train"] & pools["test"]
    assert not pools["val"] & pools["test"]
    assert not pools["train"] & pools["val"]


def test_digits_are_the_original_pixels() -> None:
    from sklearn.datasets import load_digits

    dataset, original = open_set("digits"), load_digits()
    for role, item in list(all_items(dataset))[::50]:
        index = int(item.id.removeprefix(f"{role}/").removesuffix(".png"))
        pixels = np.asarray(Image.open(io.BytesIO(dataset.read(item))), dtype=float)
        assert np.abs(pixels * 16 / 255 - original.images[index]).max() < 0.1
        assert item.label == original.target[index]


def fingerprint(dataset: Any) -> list[str]:
    """The revision and a digest of all images."""
    sha = hashlib.sha256()
    for _, item in all_items(dataset):
        sha.update(dataset.read(item))
    return [dataset.card().revision, sha.hexdigest()]


def test_digits_come_from_scikit_learns_file_or_else_from_its_loader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Importing scikit-learn takes a second, so it is done only if necessary."""
    code = (
        "import sys\n"
        "from fsbench_datasets import embedded\n"
        "print(embedded.digits().card().revision)\n"
        "assert 'sklearn' not in sys.modules\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    usual = fingerprint(open_set("digits"))
    assert ran.stdout.strip() == usual[0]
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    monkeypatch.setattr(embedded, "_load_digits", embedded._load_digits.__wrapped__)
    assert fingerprint(embedded.digits.__wrapped__()) == usual


def test_the_digits_split_is_fixed() -> None:
    dataset = open_set("digits")
    assert dataset.card().counts == {"train": 400, "val": 200, "test": 1197}
    assert dataset.items()["train"][0] == Item("train/1609.png", 6, "six")
    assert dataset.card().revision.startswith("a27684a33f09")


def test_an_unknown_item_is_an_os_error() -> None:
    with pytest.raises(OSError, match=r"has no image 'train/9999\.png'"):
        open_set("digits").read(Item("train/9999.png", 0, "zero"))
