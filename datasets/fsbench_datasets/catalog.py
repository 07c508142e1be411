"""The public sets as data: folders, expected counts and prompt template of each.

`PUBLIC_SETS` holds the entries of `catalog.toml`; `PublicSet.open` opens one. Importing this module
imports no image reader.
"""

from __future__ import annotations

import importlib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fewshot_bench import Dataset, DatasetCard
from fewshot_bench.api.sources import data_roots

COOP_GUIDE = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
DRIVE = "https://drive.google.com/file/d/"

Layout = Literal["split", "aircraft", "imagenet", "synsets", "numbers"]
OPENERS: Mapping[Layout, tuple[str, str]] = {
    "split": ("coop_layout", "open_split_set"),
    "aircraft": ("aircraft", "open_aircraft"),
    "imagenet": ("imagenet", "open_imagenet"),
    "synsets": ("imagenet_ood", "open_variant"),
    "numbers": ("imagenet_ood", "open_variant"),
}


@dataclass(frozen=True, slots=True)
class PublicSet:
    """One public data set.

    folders: the data set's folder names below a data root; CoOp's place comes first, then
        CLIP-LoRA's, then torchvision's.
    images: the folders, in the same order, that item ids start from.
    counts: images per role in the published set; roles that it does not have are omitted.
    layout: how lists and labels are stored. `split`: a split file of CoOp's schema; `aircraft`:
        the lists of FGVC-Aircraft; `imagenet`: train and val by synset, in folders or archives;
        `synsets` and `numbers`: test images only, in folders named by synset or by class number.
    suites: the suites that the set belongs to.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    images: tuple[str, ...]
    template: str
    classes: int
    counts: Mapping[str, int]
    license: str
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()
    split_file: str | None = None
    split_id: str = ""
    layout: Layout = "split"
    suites: tuple[str, ...] = ("all",)

    @property
    def split_url(self) -> str:
        """Address at which CoOp's authors publish the split file."""
        return f"{DRIVE}{self.split_id}" if self.split_id else COOP_GUIDE

    def card(self, name: str = "") -> DatasetCard:
        """Known facts, without access to files; `name` replaces the set's own name."""
        return DatasetCard(
            name or self.name,
            self.title,
            (),
            (self.template,),
            expected_counts=self.counts,
            expected_classes=self.classes,
            license=self.license,
            sources=self.sources,
            notes=self.notes,
        )

    def open(self) -> Dataset:
        """Open the set, searching below every data root."""
        module, function = OPENERS[self.layout]
        opener = getattr(importlib.import_module(f"fsbench_datasets.{module}"), function)
        dataset: Dataset = opener(self, data_roots())
        return dataset


@cache
def read_table(file: str) -> dict[str, Any]:
    """The content of a TOML file beside this module, with lists as tuples."""
    with Path(__file__).with_name(file).open("rb") as stream:
        return {name: _freeze(value) for name, value in tomllib.load(stream).items()}


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _freeze(inner) for name, inner in value.items()}
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


PUBLIC_SETS = tuple(PublicSet(name, **facts) for name, facts in read_table("catalog.toml").items())


def public_set(name: str) -> PublicSet:
    """The catalog entry with this name."""
    return next(entry for entry in PUBLIC_SETS if entry.name == name)


def by_split_file(file_name: str) -> PublicSet | None:
    """The entry whose published split file has this name; None when there is none."""
    return next((entry for entry in PUBLIC_SETS if entry.split_file == file_name), None)


def places(roots: Iterable[Path], relatives: Iterable[str]) -> tuple[Path, ...]:
    """Every relative path below every root, in root order, without duplicates.

    If a root has the name of a path's first folder, the path is also tried without that folder.
    """
    relatives = tuple(relatives)
    return tuple(dict.fromkeys(p for root in roots for r in relatives for p in _below(root, r)))


def split_file_places(entry: PublicSet, roots: Iterable[Path]) -> tuple[Path, ...]:
    """Paths of the split file: the set's folders, the root, `splits/`, beside and in the images.

    In root order, so that files of the first root take precedence.
    """
    name = entry.split_file or ""
    candidates: list[Path] = []
    for root in roots:
        candidates += places([root], (*entry.folders, "", "splits"))
        for base in places([root], entry.images):
            candidates += [base.parent, base]
    return tuple(folder / name for folder in dict.fromkeys(candidates))


def _below(root: Path, relative: str) -> Iterator[Path]:
    yield root / relative
    first, _, rest = relative.partition("/")
    if first and os.path.basename(os.path.abspath(root)) == first:
        yield root / rest
