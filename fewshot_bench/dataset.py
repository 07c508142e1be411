"""The contract of a data set: what it is called, which images it has, and how one is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from fewshot_bench.task import Item

SIMPLE_TEMPLATES = ("a photo of a {}.",)
# The seven prompts that CLIP's authors selected for ImageNet; Tip-Adapter uses them, METHODS 1.1.
ENSEMBLE_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
TEMPLATE_SETS = ("simple", "custom", "ensemble")
ROLES = ("train", "val", "test")


@dataclass(frozen=True)
class DatasetCard:
    """What a person should know about a data set before a number of it is printed.

    `mirrored` says whether a mirror image still shows its class; where it does not (digits,
    letters), no method gets mirrored training images.
    """

    name: str
    title: str
    classnames: tuple[str, ...]
    custom_templates: tuple[str, ...] = SIMPLE_TEMPLATES
    counts: Mapping[str, int] = field(default_factory=dict)
    expected_counts: Mapping[str, int] = field(default_factory=dict)
    license: str = "unknown"
    revision: str = ""
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    folder: str = ""
    mirrored: bool = True

    def templates(self, prompts: str) -> tuple[str, ...]:
        """The prompt templates of the set `simple`, `custom` or `ensemble`."""
        sets = {
            "simple": SIMPLE_TEMPLATES,
            "custom": self.custom_templates,
            "ensemble": ENSEMBLE_TEMPLATES,
        }
        return sets[prompts]


@runtime_checkable
class Dataset(Protocol):
    """A source of labeled images with fixed train, val and test pools.

    Few-shot picks are drawn by the harness from the `train` and `val` pools, in the order in
    which `items` lists them; the whole `test` pool is evaluated.
    """

    def card(self) -> DatasetCard:
        """Class names (index = label), templates, licence and sources. Must not decode images."""
        ...

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """The pools `train`, `val` and `test`. DataMissingError says what is absent and where."""
        ...

    def read(self, item: Item) -> bytes:
        """The encoded image file (JPEG, PNG, ...) of one item; OSError when it cannot be read."""
        ...


def all_items(dataset: Dataset) -> Iterator[tuple[str, Item]]:
    """Every (role, item) of a data set, in order."""
    pools = dataset.items()
    for role in ROLES:
        for item in pools.get(role, ()):
            yield role, item
