"""The contract of a data set: what it is called, which images it has, and how one is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from fewshot_bench.api.items import Item
from fewshot_bench.api.recipe import Recipe
from fewshot_bench.utils.mistyped import keys, texts

SIMPLE_TEMPLATES = ("a photo of a {}.",)
# The seven prompts that CLIP's authors selected for ImageNet; Tip-Adapter uses them.
ENSEMBLE_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
# The prompts of each template set; None stands for the data set's own.
TEMPLATE_SETS: Mapping[str, tuple[str, ...] | None] = {
    "simple": SIMPLE_TEMPLATES,
    "custom": None,
    "ensemble": ENSEMBLE_TEMPLATES,
}
ROLES = ("train", "val", "test")


@dataclass(frozen=True)
class DatasetCard:
    """Facts of a data set that stand beside its numbers: source, counts, class names, templates.

    `expected_counts` and `expected_classes` are those of the published set (0: not known), `counts`
    those of this copy. `mirrored` says whether a mirror image still shows its class; where it does
    not (digits, letters), no method gets mirrored training images. `class_ids` name classes without
    ambiguity where `classnames` cannot (ImageNet has two classes `missile`): two data sets that
    share ids have these classes in common. `left_out` says what lies with the images and is not
    used, a line per reason; `run` and `data verify` show it too.
    """

    name: str
    title: str
    classnames: tuple[str, ...]
    custom_templates: tuple[str, ...] = SIMPLE_TEMPLATES
    counts: Mapping[str, int] = field(default_factory=dict)
    expected_counts: Mapping[str, int] = field(default_factory=dict)
    expected_classes: int = 0
    license: str = "unknown"
    revision: str = ""
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    folder: str = ""
    mirrored: bool = True
    class_ids: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """ContractError for a text where several belong, a template without {}, unknown pools."""
        for name in ("classnames", "sources", "notes", "class_ids", "left_out"):
            texts(f"DatasetCard.{name}", getattr(self, name))
        texts("DatasetCard.custom_templates", self.custom_templates, contain="{}")
        for name in ("counts", "expected_counts"):
            keys(f"DatasetCard.{name}", getattr(self, name), ROLES)

    @property
    def identities(self) -> tuple[str, ...]:
        """Identities of the classes by label: `class_ids`, or the names where there are none."""
        return self.class_ids or self.classnames

    def templates(self, prompts: str) -> tuple[str, ...]:
        """The prompts of a template set."""
        return TEMPLATE_SETS[prompts] or self.custom_templates


@runtime_checkable
class Dataset(Protocol):
    """A source of labeled images with fixed train, val and test pools.

    Few-shot picks are drawn by the harness from the `train` and `val` pools, in the order in
    which `items` lists them; the whole `test` pool is evaluated.
    """

    def card(self) -> DatasetCard:
        """Class names (index = label), templates, licence and sources. Must not decode images."""
        ...

    def items(self) -> Mapping[str, Sequence[Item]]:
        """The pools `train`, `val` and `test`. DataMissingError says what is absent and where.

        Where there is no `val` pool at all, validation images are held out of `train`: they are
        drawn from the images that were not picked. An empty `train` pool makes a set that can only
        be evaluated on (`--transfer`).
        """
        ...

    def read(self, item: Item) -> bytes:
        """The encoded image file (JPEG, PNG, ...) of one item; OSError when it cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class Stamp:
    """Identity of an image file without reading it: an equal stamp stands for equal bytes.

    size: bytes; changed: when the file was last changed, in seconds since 1970; token: differs
    from every other version of the file, and from other files.
    """

    size: int
    changed: float
    token: str


def file_stamp(path: str | os.PathLike[str]) -> Stamp | None:
    """The stamp of a file by its inode, size and times; None when there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    token = f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
    return Stamp(found.st_size, max(found.st_mtime, found.st_ctime), token)


@runtime_checkable
class Stamped(Protocol):
    """A data set that can tell cheaply whether an image changed; others are read every time."""

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of one item's file; None when it cannot be told."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """A data set that makes a split of its own, which has to stay when images come later.

    Its function has a parameter `splits`: the folder with the results where kept splits are.
    """

    def keep_split(self, *, beside: bool = False) -> Path | None:
        """Write the split there, or beside the data; returns its file, None without a split."""
        ...


@runtime_checkable
class Undivided(Protocol):
    """A data set that may hold images out of those to train on, for validation or testing."""

    def undivided(self) -> Dataset:
        """The same data set with all that may be trained on in `train`; test images stay."""
        ...


@runtime_checkable
class Relisting(Protocol):
    """A data set that keeps the list of its files, and does not look at all of them every time."""

    def look_again(self) -> Sequence[str]:
        """Look at every file before anything is listed.

        Returns the folders in which files were replaced since they were listed, unseen.
        """
        ...


@runtime_checkable
class Preparable(Protocol):
    """A data set that says what `fsbench data prepare` has to fetch."""

    def recipe(self) -> Recipe:
        """The files to fetch and where they go."""
        ...


def all_items(dataset: Dataset) -> Iterator[tuple[str, Item]]:
    """Every (role, item) of a data set, in order."""
    pools = dataset.items()
    for role in ROLES:
        for item in pools.get(role, ()):
            yield role, item
