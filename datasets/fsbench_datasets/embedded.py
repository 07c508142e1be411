"""Small data sets that need no download: digits (from scikit-learn), letters and shapes."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewshot_bench import DataMissingError, DatasetCard, Item
from fewshot_bench.api.sources import Pools
from fsbench_datasets.split_lists import ROLES, counts_of, revision_of

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_TRAIN, DIGITS_VAL = 40, 20


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images (n, h, w) or (n, h, w, 3) uint8, labels (n,) int64, split (n,) as index into ROLES.

    `order` (n,) holds image indices in the order in which the pools list them.
    """

    images: np.ndarray[Any, np.dtype[np.uint8]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    split: np.ndarray[Any, np.dtype[np.uint8]]
    order: tuple[int, ...]
    classnames: tuple[str, ...]


@dataclass(frozen=True)
class Embedded:
    """A data set served from arrays; the number in an id is the index of its image."""

    known: DatasetCard
    load: Callable[[], Arrays]

    def card(self) -> DatasetCard:
        """Facts and counts."""
        return self._card

    def items(self) -> Pools:
        """The pools, in the order given by `Arrays.order`."""
        return self._pools

    def read(self, item: Item) -> bytes:
        """The image as PNG; OSError for an id that is not in the data set."""
        index = self._index.get(item.id)
        if index is None:
            raise FileNotFoundError(f"data set '{self.known.name}' has no image '{item.id}'")
        buffer = io.BytesIO()
        Image.fromarray(self._arrays.images[index]).save(buffer, "PNG")
        return buffer.getvalue()

    @cached_property
    def _card(self) -> DatasetCard:
        pools, arrays = self.items(), self._arrays
        return replace(
            self.known,
            classnames=arrays.classnames,
            counts=counts_of(pools),
            revision=revision_of(pools, [arrays.images.tobytes()]),
        )

    @cached_property
    def _arrays(self) -> Arrays:
        return self.load()

    @cached_property
    def _index(self) -> dict[str, int]:
        return {_id(self._arrays, index): index for index in self._arrays.order}

    @cached_property
    def _pools(self) -> Pools:
        pools: dict[str, list[Item]] = {role: [] for role in ROLES}
        arrays = self._arrays
        for index in arrays.order:
            label = int(arrays.labels[index])
            item = Item(_id(arrays, index), label, arrays.classnames[label])
            pools[ROLES[arrays.split[index]]].append(item)
        return {role: tuple(items) for role, items in pools.items()}


def _id(arrays: Arrays, index: int) -> str:
    return f"{ROLES[arrays.split[index]]}/{index:04d}.png"


@cache
def digits() -> Embedded:
    """1,797 handwritten digits of 8 x 8 pixels."""
    card = DatasetCard(
        "digits",
        "Optical recognition of handwritten digits",
        DIGITS,
        ('a photo of the number: "{}".',),
        license="CC BY 4.0",
        sources=(
            "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            "E. Alpaydin and C. Kaynak (1998), UCI Machine Learning Repository, "
            "doi:10.24432/C50P49; the copy that scikit-learn carries",
        ),
        mirrored=False,
        notes=("8 x 8 pixels, white strokes on black", "fixed split: 40 train, 20 val per class"),
    )
    return Embedded(card, _load_digits)


@cache
def letters() -> Embedded:
    """Drawn capital letters."""
    return _draw("letters", "Letters", "a photo of the letter {}.", mirrored=False)


@cache
def shapes() -> Embedded:
    """Drawn shapes."""
    return _draw("shapes", "Shapes", "a photo of a {}.", mirrored=True)


def _draw(name: str, title: str, template: str, *, mirrored: bool) -> Embedded:
    card = DatasetCard(
        name,
        title,
        (),
        (template,),
        license="Apache-2.0 (part of this package)",
        mirrored=mirrored,
        sources=("scripts/train_tiny",),
        notes=("synthetic, 32 x 32 pixels; for demonstrations and tests",),
    )
    return Embedded(card, partial(_load_drawn, f"{name}.npz"))


@cache
def _load_drawn(file: str) -> Arrays:
    source = files("fsbench_datasets").joinpath("demo", file)
    try:
        content = source.read_bytes()
    except OSError as error:
        raise DataMissingError(
            f"demo/{file} is not part of this installation ({error}); install fewshot-bench again"
        ) from None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        names = tuple(str(name) for name in arrays["classnames"])
        order = tuple(range(len(arrays["labels"])))
        return Arrays(arrays["images"], arrays["labels"], arrays["split"], order, names)


@cache
def _load_digits() -> Arrays:
    table = _digits_table()
    images = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    order = tuple(sorted(range(len(labels)), key=_digit_rank))
    split = np.full(len(labels), ROLES.index("test"), dtype=np.uint8)
    for label in range(len(DIGITS)):
        ranked = [index for index in order if labels[index] == label]
        split[ranked[:DIGITS_TRAIN]] = ROLES.index("train")
        split[ranked[DIGITS_TRAIN : DIGITS_TRAIN + DIGITS_VAL]] = ROLES.index("val")
    return Arrays(images, labels, split, order, DIGITS)


def _digits_table() -> np.ndarray[Any, np.dtype[np.float64]]:
    """(1797, 65): the pixels of a digit (0 to 16) and its label.

    Scikit-learn's data file is read directly if found, since importing the package takes a second.
    """
    spec = find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            with gzip.open(file, "rt", encoding="ascii") as lines:
                return np.loadtxt(lines, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def _digit_rank(index: int) -> bytes:
    return hashlib.sha256(f"digits\t{index}".encode()).digest()
