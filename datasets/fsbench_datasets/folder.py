"""Image folders: one folder per class, with or without train, val and test folders above them."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from fewshot_bench import DataMissingError, DatasetCard, Item, UsageError
from fsbench_datasets.split_file import (
    ROLES,
    Pools,
    classnames_of,
    counts_of,
    file_sizes,
    load_split,
    plain_text,
    revision_of,
    save_split,
)

EXTENSIONS = frozenset(["jpg", "jpeg", "png", "bmp", "gif", "tif", "tiff", "webp", "ppm"])
VAL_NAMES = ("val", "valid", "validation")
SPLIT_NAME = "fsbench-split.json"
SPLIT_SEED = 1
VAL_SHARE, TEST_SHARE = 0.2, 0.3

Classes = dict[str, list[str]]


@dataclass(frozen=True)
class ImageFolder:
    """A data set made of the images below one folder; ids are paths relative to it."""

    name: str
    root: Path

    def card(self) -> DatasetCard:
        """Class names are folder names, in case-sensitive order."""
        pools = self._lists[0]
        return DatasetCard(
            self.name,
            self.root.resolve().name,
            classnames_of(pools),
            counts=counts_of(pools),
            revision=self._revision,
            notes=(self._lists[1],),
            folder=str(self.root),
        )

    def items(self) -> Pools:
        """The pools; DataMissingError or UsageError when the folder cannot be used."""
        return self._lists[0]

    def read(self, item: Item) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        return (self.root / item.id).read_bytes()

    @cached_property
    def _revision(self) -> str:
        pools = self._lists[0]
        return revision_of(pools, file_sizes(self.root, pools))

    @cached_property
    def _lists(self) -> tuple[Pools, str]:
        folders = subfolders(self.root)
        if {"train", "test"} <= set(folders):
            return _from_roles(self.root, folders)
        if "train" in folders:
            raise UsageError(
                f"{self.root} has train/ but no test/: expected train/ and test/ (and val/ if "
                "there is one), or class folders only"
            )
        return _from_classes(self.root)


def open_folder(argument: str) -> ImageFolder:
    """The data set for `folder:PATH`."""
    root = Path(argument).expanduser()
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise DataMissingError(
            f"folder:{argument}: {root} {problem}, expected a folder with one folder per class"
        )
    return ImageFolder(f"folder:{os.path.normpath(argument)}", root)


def subfolders(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, in case-sensitive order."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and _visible(path))


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _from_roles(root: Path, folders: list[str]) -> tuple[Pools, str]:
    train, test = _classes(root, "train"), _classes(root, "test")
    val_names = [name for name in VAL_NAMES if name in folders]
    if len(val_names) > 1:
        raise UsageError(f"{root} has {' and '.join(val_names)}: expected one validation folder")
    if val_names:
        val, note = _classes(root, val_names[0]), "split by folders"
    else:
        train, val = _hold_out(train)
        note = "split by folders; a fifth of train/ is held out per class for validation"
    labels = {name: label for label, name in enumerate(train)}
    parts = {"train": train, "val": val, "test": test}
    for role, classes in parts.items():
        unknown = sorted(set(classes) - set(labels))
        if unknown:
            raise UsageError(
                f"{root}: class '{unknown[0]}' of the {role} images is not in train/: expected "
                "the same class folders (add train images, or remove the folder)"
            )
    return {role: _items(classes, labels) for role, classes in parts.items()}, note


def _classes(root: Path, below: str = "") -> Classes:
    """Class name to image ids, both in case-sensitive order."""
    names = subfolders(root / below)
    if not names:
        raise DataMissingError(f"no class folders in {root / below}: expected one folder per class")
    return {name: _images(root, f"{below}/{name}" if below else name) for name in names}


def _images(root: Path, folder: str) -> list[str]:
    found = sorted(path.name for path in (root / folder).iterdir() if _is_image(path))
    if not found:
        known = ", ".join(sorted(EXTENSIONS))
        raise DataMissingError(
            f"class folder {root / folder} has no images directly in it: expected files that end "
            f"in {known} (add some, or remove the folder)"
        )
    ids = [f"{folder}/{name}" for name in found]
    for id in ids:
        if not plain_text(id):
            raise UsageError(
                f"{root} holds the path {id!a}: expected names in UTF-8 without control "
                "characters (rename it)"
            )
    return ids


def _is_image(path: Path) -> bool:
    return (
        _visible(path)
        and path.suffix[1:].lower() in EXTENSIONS
        and (path.is_file() or path.is_symlink())
    )


def _items(classes: Classes, labels: Mapping[str, int]) -> tuple[Item, ...]:
    return tuple(Item(id, labels[name], name) for name, ids in classes.items() for id in ids)


def _ranked(ids: list[str]) -> list[str]:
    return sorted(ids, key=lambda id: hashlib.sha256(f"{SPLIT_SEED}\t{id}".encode()).digest())


def _take(ids: list[str], keep: Callable[[int], bool]) -> list[str]:
    """Ids whose rank is kept, in the order of the list."""
    ranks = {id: rank for rank, id in enumerate(_ranked(ids))}
    return [id for id in ids if keep(ranks[id])]


def _share(count: int, share: float) -> int:
    return max(1, round(count * share))


def _hold_out(train: Classes) -> tuple[Classes, Classes]:
    """A fifth of every class, at least one image; a class with one image keeps it for training."""
    rest: Classes = {}
    held: Classes = {}
    for name, ids in train.items():
        count = _share(len(ids), VAL_SHARE) if len(ids) > 1 else 0
        rest[name] = _take(ids, partial(_outside, 0, count))
        held[name] = _take(ids, partial(_inside, 0, count))
    return rest, held


def _inside(start: int, stop: int, rank: int) -> bool:
    return start <= rank < stop


def _outside(start: int, stop: int, rank: int) -> bool:
    return not _inside(start, stop, rank)


def _from_classes(root: Path) -> tuple[Pools, str]:
    places = (root / SPLIT_NAME, _user_split(root))
    stored = next((path for path in places if path.is_file()), None)
    if stored is None:
        stored = _store(places, _new_split(root))
    pools = load_split(stored)
    for role in ROLES:
        for item in pools[role]:
            if not (root / item.id).is_file():
                raise DataMissingError(
                    f"'{item.id}' is listed in {stored} and not in {root}: expected every listed "
                    "image (put it back, or delete the split file to have a new split made)"
                )
    return pools, f"split 50/20/30 per class, kept in {stored}"


def _user_split(root: Path) -> Path:
    """Where the split of a folder that cannot be written to is kept."""
    base = os.environ.get("XDG_DATA_HOME", "")
    home = Path(base) if base else Path.home() / ".local" / "share"
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return home / "fsbench" / "splits" / f"{key}.json"


def _store(places: tuple[Path, Path], pools: Pools) -> Path:
    failure = OSError(errno.EROFS, os.strerror(errno.EROFS))
    for path in places:
        if _marked_read_only(path.parent):
            continue
        try:
            save_split(path, pools)
        except OSError as error:
            failure = error
        else:
            return path
    raise DataMissingError(
        f"the split can be stored neither in {places[0].parent} nor in {places[1].parent} "
        f"({failure}): make one writable, or set XDG_DATA_HOME"
    )


def _marked_read_only(folder: Path) -> bool:
    """Whether nobody has write permission; the mark is respected even where root could write."""
    return folder.is_dir() and not folder.stat().st_mode & 0o222


def _new_split(root: Path) -> Pools:
    classes = _classes(root)
    parts: dict[str, Classes] = {role: {} for role in ROLES}
    for name, ids in classes.items():
        if len(ids) < 3:
            raise UsageError(
                f"{root}: class '{name}' has {len(ids)} images: expected 3 or more, one each for "
                "train, val and test (add images, or make train/ and test/ folders)"
            )
        val, test = _share(len(ids), VAL_SHARE), _share(len(ids), TEST_SHARE)
        parts["val"][name] = _take(ids, partial(_inside, 0, val))
        parts["test"][name] = _take(ids, partial(_inside, val, val + test))
        parts["train"][name] = _take(ids, partial(_outside, 0, val + test))
    labels = {name: label for label, name in enumerate(classes)}
    return {role: _items(parts[role], labels) for role in ROLES}
