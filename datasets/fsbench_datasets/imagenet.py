"""ImageNet from class folders, the original archives, or Kaggle's flat folder with its table.

Main entry point: `open_imagenet`. Items, their order and few-shot picks are the same for all of
these sources.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from fewshot_bench import DataMissingError, DatasetCard, Item
from fewshot_bench.api.sources import ItemList, Names, Pools, Recipe, Run, Stamp, file_stamp
from fsbench_datasets.advice import folder_problem, place_step
from fsbench_datasets.catalog import PublicSet, places
from fsbench_datasets.disk import is_image, read_file, subfolders
from fsbench_datasets.recipes import recipe_of
from fsbench_datasets.synsets import (
    DEVKIT,
    check_plain,
    check_synsets,
    class_files,
    synset_card,
    synset_names,
    validation_synsets,
)
from fsbench_datasets.tar import Member, Part, read_member, tar_index

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
# Located in the folder that contains Kaggle's ILSVRC/.
SOLUTION = "LOC_val_solution.csv"
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d+)\.JPEG", re.IGNORECASE)
SYNSET = re.compile(r"n\d{8}")
# The official validation images serve as test pool; few-shot validation images come from train.
FOLDERS = {"train": "train", "test": "val"}
# The folder with train/ and val/ in Kaggle's archive, and the name of the archive.
KAGGLE, COMPETITION = "ILSVRC/Data/CLS-LOC", "imagenet-object-localization-challenge"
ARCHIVES = {"train": TRAIN_TAR, "test": VAL_TAR}


class Source(Protocol):
    """Images by synset and file name."""

    @property
    def place(self) -> Path:
        """The folder or archive."""
        ...

    def classes(self) -> Mapping[str, Names]:
        """Synset to file names, both sorted; DataMissingError when it cannot be used."""
        ...

    def find(self, synset: str, name: str) -> Path | Member:
        """The file of an image, or its member of the archive."""
        ...


@dataclass(frozen=True)
class Folders:
    """One folder per synset."""

    place: Path

    def classes(self) -> Mapping[str, Names]:
        """Class folders and their file names, sorted."""
        files = class_files(self.place)
        check_synsets(list(files), self.place)
        return files

    def find(self, synset: str, name: str) -> Path:
        """The file."""
        return self.place / synset / name


@dataclass(frozen=True)
class TrainArchive:
    """The train archive, which contains one inner archive per synset."""

    place: Path

    def classes(self) -> Mapping[str, Names]:
        """Inner archives and their file names, sorted."""
        names_of = {
            synset: _images(part, self.place) for synset, part in sorted(self._parts.items())
        }
        check_synsets(list(names_of), self.place)
        if not names_of:
            raise DataMissingError(f"archive {self.place} holds no class archives (n01440764.tar)")
        for synset, names in names_of.items():
            if not names.count:
                raise DataMissingError(f"{synset}.tar in archive {self.place} has no images")
        return names_of

    def find(self, synset: str, name: str) -> Member:
        """The member of the inner archive; FileNotFoundError without it."""
        if synset not in self._parts:
            raise FileNotFoundError(f"archive {self.place} has no {synset}.tar")
        return self._parts[synset].find(name)

    @cached_property
    def _parts(self) -> Mapping[str, Part]:
        return tar_index(self.place, nested=True)


@dataclass(frozen=True)
class ValArchive:
    """The flat archive of validation images; the development kit lists their classes."""

    place: Path
    devkits: tuple[Path, ...]

    def classes(self) -> Mapping[str, Names]:
        """Image names by synset, found by image number in the development kit."""
        synsets = validation_synsets(self._devkit())
        names_of: dict[str, list[str]] = {}
        for name in _images(self._part, self.place).listed():
            match = VAL_NAME.fullmatch(name)
            number = int(match[1]) if match else 0
            if not 1 <= number <= len(synsets):
                raise DataMissingError(
                    f"archive {self.place} holds '{name}': expected ILSVRC2012_val_00000001.JPEG "
                    f"to {len(synsets):08d}.JPEG, as the development kit lists them"
                )
            names_of.setdefault(synsets[number - 1], []).append(name)
        if not names_of:
            raise DataMissingError(f"archive {self.place} holds no images")
        check_synsets(list(names_of), self.place)
        return {synset: Names.of(names) for synset, names in sorted(names_of.items())}

    def find(self, synset: str, name: str) -> Member:
        """The member; FileNotFoundError without it."""
        return self._part.find(name)

    def _devkit(self) -> Path:
        archive = next((path for path in self.devkits if path.is_file()), None)
        if archive is None:
            raise DataMissingError(
                f"{self.place} is there, and {DEVKIT} is not, which holds the classes of its "
                f"images: fetch it from image-net.org and put it into {self.place.parent}"
            )
        return archive

    @cached_property
    def _part(self) -> Part:
        return tar_index(self.place, nested=False)[""]


@dataclass(frozen=True)
class FlatFolder:
    """Validation images in one flat folder, with classes from Kaggle's table."""

    place: Path
    table: Path

    def classes(self) -> Mapping[str, Names]:
        """Image names by synset; DataMissingError for an image without a line in the table."""
        synsets = solution_synsets(self.table)
        names_of: dict[str, list[str]] = {}
        for name in sorted(filter(is_image, os.listdir(self.place))):
            check_plain(name, self.place)
            synset = synsets.get(name.rpartition(".")[0])
            if synset is None:
                raise DataMissingError(
                    f"{self.place} holds '{name}', of which {self.table} has no line: expected the "
                    "images of the validation set alone"
                )
            names_of.setdefault(synset, []).append(name)
        check_synsets(list(names_of), self.table)
        return {synset: Names.of(names) for synset, names in sorted(names_of.items())}

    def find(self, synset: str, name: str) -> Path:
        """The file."""
        return self.place / name


def solution_synsets(table: Path) -> dict[str, str]:
    """Image name without extension to synset, from lines such as `ILSVRC2012_val_1,n01 85 1 9`."""
    try:
        lines = table.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataMissingError(f"{table} cannot be read: {error}") from None
    synset_of = {}
    for number, line in enumerate(lines, 1):
        name, comma, boxes = line.partition(",")
        synset = boxes.strip().partition(" ")[0]
        if not line.strip() or (number == 1 and name.strip() == "ImageId"):
            continue
        if not comma or not synset:
            raise DataMissingError(f"{table}, line {number}: expected ImageId,PredictionString")
        synset_of[name.strip()] = synset
    return synset_of


def _images(part: Part, path: Path) -> Names:
    names = [name for name in part.names if is_image(name)]
    for name in names:
        check_plain(name, path)
    return Names.of(names)


@dataclass(frozen=True)
class ImageNet:
    """ImageNet; ids are `train/<synset>/<file>` and `val/<synset>/<file>` for every source.

    bases: folders that may hold train/ and val/; archives: folders that may hold the archives.
    """

    known: DatasetCard
    bases: tuple[Path, ...]
    archives: tuple[Path, ...]
    step: Callable[[], str]

    def card(self) -> DatasetCard:
        """Known facts; also classes, counts and revision if train and val are present."""
        return self._card

    @cached_property
    def _card(self) -> DatasetCard:
        if None in self._sources.values():
            return self.known
        source = self._need("train")
        folder = source.place.parent if isinstance(source, Folders) else source.place
        return synset_card(self.known, self._synsets, self._pools, folder, source.place.parent)

    def items(self) -> Pools:
        """`train` and `test`, sorted by synset and file name; there is no `val` pool."""
        return self._pools

    def read(self, item: Item) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        source, file = self._find_image(item)
        return read_member(source.place, file) if isinstance(file, Member) else read_file(file)

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of the file, or of the archive with the member's name."""
        source, file = self._find_image(item)
        if not isinstance(file, Member):
            return file_stamp(file)
        stamp = file_stamp(source.place)
        return stamp and replace(stamp, size=file.size, token=f"{stamp.token}:{item.id}")

    def recipe(self) -> Recipe:
        """The files to fetch and where they go."""
        return recipe_of(self.known.name)

    def _find_image(self, item: Item) -> tuple[Source, Path | Member]:
        folder, synset, name = item.id.split("/", 2)
        source = self._need(next(role for role, value in FOLDERS.items() if value == folder))
        return source, source.find(synset, name)

    @cached_property
    def _sources(self) -> dict[str, Source | None]:
        return {role: self._find(role) for role in FOLDERS}

    def _need(self, role: str) -> Source:
        source = self._sources[role]
        if source is None:
            raise self._missing()
        return source

    def _find(self, role: str) -> Source | None:
        """The source of a role: class folders, else Kaggle's flat folder, else the archive."""
        for base in self.bases:
            folder = base / FOLDERS[role]
            if any(SYNSET.fullmatch(f.name) for f in subfolders(folder)):
                return Folders(folder)
            table = _solution(base)
            if role == "test" and table is not None and any(map(is_image, _list(folder))):
                return FlatFolder(folder, table)
        archive = next((a for f in self.archives if (a := f / ARCHIVES[role]).is_file()), None)
        if archive is None:
            return None
        if role == "train":
            return TrainArchive(archive)
        return ValArchive(archive, tuple(folder / DEVKIT for folder in self.archives))

    @cached_property
    def _classes(self) -> dict[str, Mapping[str, Names]]:
        sources = {role: self._need(role) for role in FOLDERS}
        try:
            classes_of = {role: source.classes() for role, source in sources.items()}
        except DataMissingError as error:
            raise self._wrong(str(error)) from None
        for synset in classes_of["test"]:
            if synset not in classes_of["train"]:
                raise self._wrong(
                    f"class {synset} is in {sources['test'].place} and not in "
                    f"{sources['train'].place}: unpack its train images, or remove the class"
                )
        return classes_of

    @cached_property
    def _synsets(self) -> tuple[str, ...]:
        return tuple(self._classes["train"])

    @cached_property
    def _pools(self) -> Pools:
        names = synset_names()
        labels = {synset: label for label, synset in enumerate(self._synsets)}
        return {
            role: ItemList(
                Run(f"{folder}/{synset}/", labels[synset], names[synset], files)
                for synset, files in self._classes[role].items()
            )
            for role, folder in FOLDERS.items()
        }

    def _missing(self) -> DataMissingError:
        roles = [role for role in FOLDERS if self._sources[role] is None]
        folders = [FOLDERS[role] for role in roles]
        unsorted = (_hint_to_sort(base / folder) for base in self.bases for folder in folders)
        steps = "; ".join(filter(None, (next(filter(None, unsorted), ""), self.step())))
        return DataMissingError(
            f"data set '{self.known.name}': {steps}; "
            f"no {' and no '.join(folders)} images: expected {' and '.join(folders)} with one "
            f"folder per class (n01440764, ...) in {' or '.join(map(str, self.bases))}; or "
            f"{' and '.join(ARCHIVES[role] for role in roles)} in "
            f"{' or '.join(map(str, self.archives))}"
        )

    def _wrong(self, what: str) -> DataMissingError:
        return DataMissingError(f"data set '{self.known.name}': {what} ({self.step()})")


def _solution(base: Path) -> Path | None:
    """Kaggle's table of validation classes, in `base` or up to three folders above; or None."""
    return next((t for f in (base, *base.parents[:3]) if (t := f / SOLUTION).is_file()), None)


def _list(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _hint_to_sort(folder: Path) -> str:
    """The problem with an existing folder without class folders; empty if it does not exist."""
    if not folder.is_dir():
        return ""
    names = _list(folder)
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
        f"{place_step(entry, roots)}; or fsbench data prepare {entry.name} says how to get them: "
        f"{entry.sources[0]}"
    )
