"""ImageNet from class folders or from the original archives, in an order of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from fewshot_bench import DataMissingError, DatasetCard, Item, Recipe, Stamp
from fsbench_datasets.advice import folder_problem
from fsbench_datasets.catalog import PublicSet
from fsbench_datasets.disk import is_image, subfolders
from fsbench_datasets.imagenet_devkit import DEVKIT
from fsbench_datasets.imagenet_sources import (
    SOLUTION,
    TRAIN_TAR,
    VAL_TAR,
    FlatFolder,
    Folders,
    Source,
    TrainArchive,
    ValArchive,
)
from fsbench_datasets.places import places
from fsbench_datasets.recipes import recipe_of
from fsbench_datasets.split_file import copy_note, revision_of
from fsbench_datasets.synsets import local_names_note, synset_names

SYNSET = re.compile(r"n\d{8}")
# The validation images are what is tested on; validation images are held out of train.
FOLDERS = {"train": "train", "test": "val"}
# The folder with train/ and val/ in Kaggle's archive, and the name of the archive.
KAGGLE, COMPETITION = "ILSVRC/Data/CLS-LOC", "imagenet-object-localization-challenge"
ARCHIVES = {"train": TRAIN_TAR, "test": VAL_TAR}


@dataclass(frozen=True)
class ImageNet:
    """Images by synset; ids are `train/<synset>/<file>` and `val/<synset>/<file>` in any storage.

    bases: folders that may hold train/ and val/; archives: folders that may hold the archives.
    """

    known: DatasetCard
    bases: tuple[Path, ...]
    archives: tuple[Path, ...]
    step: Callable[[], str]

    def card(self) -> DatasetCard:
        """Known facts; classes, counts and revision as well where train and val are there."""
        if None in self._sources.values():
            return self.known
        pools, synsets = self._pools, self._synsets
        classnames = tuple(synset_names()[synset] for synset in synsets)
        counts = {role: len(items) for role, items in pools.items()}
        place = self._need("train").place
        return replace(
            self.known,
            classnames=classnames,
            class_ids=synsets,
            counts=counts,
            revision=revision_of({**pools, "val": ()}),
            notes=(
                *self.known.notes,
                *copy_note(self.known, len(synsets), counts),
                *local_names_note((place.parent, place.parent.parent)),
            ),
            folder=str(place.parent if isinstance(self._need("train"), Folders) else place),
        )

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """`train` and `test`, by synset and file name; there is no `val` pool."""
        return self._pools

    def read(self, item: Item) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        source, synset, name = self._where(item)
        return source.read(synset, name)

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of the file, or of the archive with the member's name."""
        source, synset, name = self._where(item)
        return source.stamp(synset, name)

    def recipe(self) -> Recipe:
        """The files to fetch and where they go."""
        return recipe_of(self.known.name)

    def _where(self, item: Item) -> tuple[Source, str, str]:
        folder, synset, name = item.id.split("/", 2)
        role = next(role for role, value in FOLDERS.items() if value == folder)
        return self._need(role), synset, name

    @cached_property
    def _sources(self) -> dict[str, Source | None]:
        return {role: self._find(role) for role in FOLDERS}

    def _need(self, role: str) -> Source:
        source = self._sources[role]
        if source is None:
            raise self._missing()
        return source

    def _find(self, role: str) -> Source | None:
        """Class folders where there are any, else what Kaggle gives, else the archive."""
        for base in self.bases:
            folder = base / FOLDERS[role]
            if any(SYNSET.fullmatch(f.name) for f in subfolders(folder)):
                return Folders(folder)
            table = _solution(base)
            if role == "test" and table is not None and any(map(is_image, _listed(folder))):
                return FlatFolder(folder, table)
        archive = next((a for f in self.archives if (a := f / ARCHIVES[role]).is_file()), None)
        if archive is None:
            return None
        if role == "train":
            return TrainArchive(archive)
        return ValArchive(archive, tuple(folder / DEVKIT for folder in self.archives))

    @cached_property
    def _classes(self) -> dict[str, Mapping[str, Sequence[str]]]:
        sources = {role: self._need(role) for role in FOLDERS}
        try:
            found = {role: source.classes() for role, source in sources.items()}
        except DataMissingError as error:
            raise self._wrong(str(error)) from None
        for synset in found["test"]:
            if synset not in found["train"]:
                raise self._wrong(
                    f"class {synset} is in {sources['test'].place} and not in "
                    f"{sources['train'].place}: unpack its train images, or remove the class"
                )
        return found

    @cached_property
    def _synsets(self) -> tuple[str, ...]:
        return tuple(self._classes["train"])

    @cached_property
    def _pools(self) -> Mapping[str, tuple[Item, ...]]:
        names = synset_names()
        labels = {synset: label for label, synset in enumerate(self._synsets)}
        return {
            role: tuple(
                Item(f"{folder}/{synset}/{file}", labels[synset], names[synset])
                for synset, listed in self._classes[role].items()
                for file in listed
            )
            for role, folder in FOLDERS.items()
        }

    def _missing(self) -> DataMissingError:
        roles = [role for role in FOLDERS if self._sources[role] is None]
        folders = [FOLDERS[role] for role in roles]
        unsorted = (_unsorted(base / folder) for base in self.bases for folder in folders)
        return self._wrong(
            f"no {' and no '.join(folders)} images: expected {' and '.join(folders)} with one "
            f"folder per class (n01440764, ...) in {' or '.join(map(str, self.bases))}; or "
            f"{' and '.join(ARCHIVES[role] for role in roles)} in "
            f"{' or '.join(map(str, self.archives))}",
            next(filter(None, unsorted), ""),
        )

    def _wrong(self, what: str, step: str = "") -> DataMissingError:
        steps = "; ".join(filter(None, (step, self.step())))
        return DataMissingError(f"data set '{self.known.name}': {what} ({steps})")


def _solution(base: Path) -> Path | None:
    """Kaggle's table of validation classes, in the folder of the images or in one above it."""
    return next((t for f in (base, *base.parents[:3]) if (t := f / SOLUTION).is_file()), None)


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _unsorted(folder: Path) -> str:
    """What is wrong with a folder that is there and has no class folders."""
    if not folder.is_dir():
        return ""
    names = _listed(folder)
    if any(name.endswith(".tar") for name in names):
        return f"{folder} holds archives: unpack each into a folder of its name"
    if any(map(is_image, names)):
        return (
            f"{folder} holds images directly: sort them into one folder per class, or put "
            f"{VAL_TAR} and {DEVKIT} beside it and remove the folder, or put Kaggle's {SOLUTION} "
            "beside it"
        )
    kind = f"holds '{names[0]}', no class folder" if names else "is empty"
    return f"{folder} {kind}: unpack the archive again into folders named by synset"


def open_imagenet(entry: PublicSet, roots: Sequence[Path]) -> ImageNet:
    """ImageNet, searched for below every data root."""
    kaggle = [
        f"{above}/{KAGGLE}" if above else KAGGLE for above in (*entry.folders, "", COMPETITION)
    ]
    bases = places(roots, (*entry.images, "", *kaggle))
    archives = places(roots, (*entry.folders, *entry.images, ""))
    step = partial(_step, entry, roots)
    return ImageNet(entry.card(), bases, archives, step)


def _step(entry: PublicSet, roots: Sequence[Path]) -> str:
    return folder_problem(entry, roots) or (
        f"fsbench data prepare {entry.name} says how to get them: {entry.sources[0]}; set "
        f"FSBENCH_DATA to the folder that holds {entry.folders[0]}/"
    )
