"""ImageNet's images of one role: in class folders, or in the archives as they are published."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from fewshot_bench import DataMissingError, Stamp, file_stamp
from fsbench_datasets.disk import is_image
from fsbench_datasets.imagenet_devkit import DEVKIT, validation_synsets
from fsbench_datasets.synsets import check_plain, check_synsets, class_files
from fsbench_datasets.tar_files import Member, read_member
from fsbench_datasets.tar_index import Part, tar_index

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
# In the folder that Kaggle's ILSVRC/ lies in.
SOLUTION = "LOC_val_solution.csv"
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d+)\.JPEG", re.IGNORECASE)


class Source(Protocol):
    """Images by synset and file name."""

    @property
    def place(self) -> Path:
        """The folder or archive."""
        ...

    def classes(self) -> Mapping[str, Sequence[str]]:
        """Synset to file names, both sorted; DataMissingError when it cannot be used."""
        ...

    def read(self, synset: str, name: str) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        ...

    def stamp(self, synset: str, name: str) -> Stamp | None:
        """What tells that the image is unchanged; None when it is missing."""
        ...


@dataclass(frozen=True)
class Folders:
    """One folder per synset."""

    place: Path

    def classes(self) -> Mapping[str, Sequence[str]]:
        """The folders and what is in them."""
        found = class_files(self.place)
        check_synsets(list(found), self.place)
        return found

    def read(self, synset: str, name: str) -> bytes:
        """The file's content."""
        return (self.place / synset / name).read_bytes()

    def stamp(self, synset: str, name: str) -> Stamp | None:
        """The file's stamp."""
        return file_stamp(self.place / synset / name)


@dataclass(frozen=True)
class TrainArchive:
    """The archive of one archive per synset."""

    place: Path

    def classes(self) -> Mapping[str, Sequence[str]]:
        """The inner archives and what is in them."""
        found = {synset: _images(part, self.place) for synset, part in sorted(self._parts.items())}
        check_synsets(list(found), self.place)
        if not found:
            raise DataMissingError(f"archive {self.place} holds no class archives (n01440764.tar)")
        for synset, names in found.items():
            if not names:
                raise DataMissingError(f"{synset}.tar in archive {self.place} has no images")
        return found

    def read(self, synset: str, name: str) -> bytes:
        """The member's content."""
        return read_member(self.place, self._member(synset, name))

    def stamp(self, synset: str, name: str) -> Stamp | None:
        """The archive's stamp, with the member."""
        return _member_stamp(self.place, self._member(synset, name), f"{synset}/{name}")

    def _member(self, synset: str, name: str) -> Member:
        if synset not in self._parts:
            raise FileNotFoundError(f"archive {self.place} has no {synset}.tar")
        return self._parts[synset].find(name)

    @cached_property
    def _parts(self) -> Mapping[str, Part]:
        return tar_index(self.place, nested=True)


@dataclass(frozen=True)
class ValArchive:
    """The flat archive of validation images; their classes stand in the development kit."""

    place: Path
    devkits: tuple[Path, ...]

    def classes(self) -> Mapping[str, Sequence[str]]:
        """Images by the synset of their number."""
        synsets = validation_synsets(self._devkit())
        found: dict[str, list[str]] = {}
        for name in _images(self._part, self.place):
            match = VAL_NAME.fullmatch(name)
            number = int(match[1]) if match else 0
            if not 1 <= number <= len(synsets):
                raise DataMissingError(
                    f"archive {self.place} holds '{name}': expected ILSVRC2012_val_00000001.JPEG "
                    f"to {len(synsets):08d}.JPEG, as the development kit lists them"
                )
            found.setdefault(synsets[number - 1], []).append(name)
        if not found:
            raise DataMissingError(f"archive {self.place} holds no images")
        check_synsets(list(found), self.place)
        return dict(sorted(found.items()))

    def read(self, synset: str, name: str) -> bytes:
        """The member's content."""
        return read_member(self.place, self._part.find(name))

    def stamp(self, synset: str, name: str) -> Stamp | None:
        """The archive's stamp, with the member."""
        return _member_stamp(self.place, self._part.find(name), name)

    def _devkit(self) -> Path:
        found = next((path for path in self.devkits if path.is_file()), None)
        if found is None:
            raise DataMissingError(
                f"{self.place} is there, and {DEVKIT} is not, which holds the classes of its "
                f"images: fetch it from image-net.org and put it into {self.place.parent}"
            )
        return found

    @cached_property
    def _part(self) -> Part:
        return tar_index(self.place, nested=False)[""]


@dataclass(frozen=True)
class FlatFolder:
    """Validation images in one folder; their classes stand in the table that Kaggle gives along."""

    place: Path
    table: Path

    def classes(self) -> Mapping[str, Sequence[str]]:
        """Images by the synset of their line; DataMissingError for one that has none."""
        synsets = solution_synsets(self.table)
        found: dict[str, list[str]] = {}
        for name in sorted(filter(is_image, os.listdir(self.place))):
            check_plain(name, self.place)
            synset = synsets.get(name.rpartition(".")[0])
            if synset is None:
                raise DataMissingError(
                    f"{self.place} holds '{name}', of which {self.table} has no line: expected the "
                    "images of the validation set alone"
                )
            found.setdefault(synset, []).append(name)
        check_synsets(list(found), self.table)
        return dict(sorted(found.items()))

    def read(self, synset: str, name: str) -> bytes:
        """The file's content."""
        return (self.place / name).read_bytes()

    def stamp(self, synset: str, name: str) -> Stamp | None:
        """The file's stamp."""
        return file_stamp(self.place / name)


def solution_synsets(table: Path) -> dict[str, str]:
    """Image name without its ending to synset, from lines such as `ILSVRC2012_val_1,n01 85 1 9`."""
    try:
        lines = table.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataMissingError(f"{table} cannot be read: {error}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        name, comma, boxes = line.partition(",")
        synset = boxes.strip().partition(" ")[0]
        if not line.strip() or (number == 1 and name.strip() == "ImageId"):
            continue
        if not comma or not synset:
            raise DataMissingError(f"{table}, line {number}: expected ImageId,PredictionString")
        found[name.strip()] = synset
    return found


def _images(part: Part, place: Path) -> list[str]:
    names = [name for name in part.names if is_image(name)]
    for name in names:
        check_plain(name, place)
    return names


def _member_stamp(archive: Path, member: Member, name: str) -> Stamp | None:
    stamp = file_stamp(archive)
    if stamp is None:
        return None
    return replace(stamp, size=member.size, token=f"{stamp.token}:{name}")
