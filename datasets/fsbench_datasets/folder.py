"""Image folders: one folder per class, with or without train, val and test folders above them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fewshot_bench import (
    DataMissingError,
    DatasetCard,
    Item,
    Pools,
    Stamp,
    UsageError,
    file_stamp,
    load_split,
)
from fsbench_datasets.disk import EXTENSIONS, file_size, is_image, subfolders
from fsbench_datasets.pools import (
    UNSPLIT,
    VAL_NAMES,
    check_classes,
    check_holdout,
    complete,
    share_note,
)
from fsbench_datasets.split_file import (
    ROLES,
    classnames_of,
    counts_of,
    lines_of,
    plain_text,
    revision_of,
    shortened,
)
from fsbench_datasets.stored import split_places, store_split, stored_split

SPLIT_NAME = "fsbench-split.json"


@dataclass(frozen=True)
class ImageFolder:
    """A data set made of the images below one folder; ids are paths relative to it.

    holdout: the share of each class that is held out where there are no test folders.
    """

    name: str
    root: Path
    holdout: float | None = None

    def card(self) -> DatasetCard:
        """Class names are folder names, in case-sensitive order."""
        pools, notes = self._lists
        return DatasetCard(
            self.name,
            self.root.resolve().name,
            classnames_of(pools),
            counts=counts_of(pools),
            revision=self._revision,
            notes=notes,
            folder=str(self.root),
        )

    def items(self) -> Pools:
        """The pools; DataMissingError or UsageError when the folder cannot be used."""
        return self._lists[0]

    def read(self, item: Item) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        return (self.root / item.id).read_bytes()

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of the image file; None when it is missing."""
        return file_stamp(self.root / item.id)

    @cached_property
    def _revision(self) -> str:
        pools = self._lists[0]
        sizes = (file_size(self.root / item.id) for role in ROLES for item in pools[role])
        return revision_of(pools, lines_of(sizes))

    @cached_property
    def _lists(self) -> tuple[Pools, tuple[str, ...]]:
        roles = _role_folders(self.root)
        if "test" in roles:
            pools, note = self._made(roles)
            return pools, (note, *_beside(self.root, roles))
        if "train" in roles and self.holdout is None:
            raise UsageError(
                f"{self.root} has train/ but no test/: expected train/ and test/ (and val/ if "
                "there is one), or class folders only; --holdout 0.3 takes test images out of "
                "train/"
            )
        return self._kept(roles)

    def _made(self, roles: Mapping[str, str]) -> tuple[Pools, str]:
        pools, note = complete(self.name, _given(self.root, roles), self.holdout)
        check_classes(self.name, pools)
        return pools, note

    def _kept(self, roles: Mapping[str, str]) -> tuple[Pools, tuple[str, ...]]:
        """The split that was made once, and what came to the folder since."""
        places = split_places(self.root / SPLIT_NAME, self.root, self.holdout)
        stored = stored_split(places)
        if stored is None:
            stored = store_split(places, self._made(roles)[0])
        pools = load_split(stored)
        check_classes(self.name, pools)
        listed = {item.id for role in ROLES for item in pools[role]}
        for id in sorted(listed):
            path = self.root / id
            if path.is_symlink() and not path.exists():
                raise DataMissingError(
                    f"{path} is a link to nothing: mend the link, or remove it and {stored} to "
                    "have a new split made"
                )
            if not path.is_file():
                raise DataMissingError(
                    f"'{id}' is listed in {stored} and not in {self.root}: expected every listed "
                    "image (put it back, or delete the split file to have a new split made)"
                )
        note = f"{share_note('val' in roles, self.holdout)}, kept in {stored}"
        return pools, (note, *_left_out(self.root, roles, listed, stored))


def open_folder(argument: str, holdout: float | None = None) -> ImageFolder:
    """The data set for `folder:PATH`."""
    root = Path(argument).expanduser()
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise DataMissingError(
            f"folder:{argument}: {root} {problem}, expected a folder with one folder per class"
        )
    name = f"folder:{os.path.normpath(argument)}"
    check_holdout(name, holdout)
    return ImageFolder(name, root, holdout)


def _role_folders(root: Path) -> dict[str, str]:
    """Role to the folder that holds its class folders; one unnamed role where there are none."""
    folders = [folder.name for folder in subfolders(root)]
    only_test = "test" in folders and set(folders) <= {"test", *VAL_NAMES}
    if "train" not in folders and not only_test:
        return {UNSPLIT: ""}
    val = [name for name in VAL_NAMES if name in folders]
    if len(val) > 1:
        raise UsageError(f"{root} has {' and '.join(val)}: expected one validation folder")
    found = {"train": "train", "val": val[0] if val else "", "test": "test"}
    return {role: name for role, name in found.items() if name in folders}


def _beside(root: Path, roles: Mapping[str, str]) -> Iterator[str]:
    """A note on class folders that stand beside train/ and test/."""
    others = [folder.name for folder in subfolders(root) if folder.name not in roles.values()]
    if others:
        yield f"folders beside {' and '.join(roles.values())} are not used: {shortened(others)}"


def _given(root: Path, roles: Mapping[str, str]) -> Pools:
    """The images as the folders say, by role."""
    classes = {role: _classes(root, folder) for role, folder in roles.items()}
    names = sorted({name for found in classes.values() for name in found})
    labels = {name: label for label, name in enumerate(names)}
    return {
        role: tuple(Item(id, labels[name], name) for name, ids in found.items() for id in ids)
        for role, found in classes.items()
    }


def _classes(root: Path, below: str) -> dict[str, list[str]]:
    """Class name to image ids, both in case-sensitive order."""
    names = [folder.name for folder in subfolders(root / below)]
    if not names:
        raise DataMissingError(f"no class folders in {root / below}: expected one folder per class")
    return {name: _images(root, f"{below}/{name}" if below else name) for name in names}


def _images(root: Path, folder: str) -> list[str]:
    ids = _ids(root, folder)
    if not ids:
        known = ", ".join(sorted(EXTENSIONS))
        raise DataMissingError(
            f"class folder {root / folder} has no images directly in it: expected files that end "
            f"in {known} (add some, or remove the folder)"
        )
    for id in ids:
        if not plain_text(id):
            raise UsageError(
                f"{root} holds the path {id!a}: expected names in UTF-8 without control "
                "characters (rename it)"
            )
    return ids


def _ids(root: Path, folder: str) -> list[str]:
    found = sorted(path for path in (root / folder).iterdir() if is_image(path.name))
    return [f"{folder}/{path.name}" for path in found if path.is_file() or path.is_symlink()]


def _left_out(
    root: Path, roles: Mapping[str, str], listed: set[str], stored: Path
) -> Iterator[str]:
    """A note on images that are there and that the stored split does not know."""
    found = []
    for below in roles.values():
        for folder in subfolders(root / below):
            found += _ids(root, f"{below}/{folder.name}" if below else folder.name)
    added = [id for id in found if id not in listed]
    if not added:
        return
    known = {id.rpartition("/")[0] for id in listed}
    classes = sorted({id.rpartition("/")[0] for id in added} - known)
    new = f", with the whole of {shortened(classes)}" if classes else ""
    yield (
        f"images that came later are not used ({len(added)}{new}): {shortened(added)}; delete "
        f"{stored} to have a new split made (its numbers cannot be compared with those before)"
    )
