"""What lies in a folder of images: which folders are classes, and which files are left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fewshot_bench import DataMissingError, UsageError, image_endings, image_remedy
from fsbench_datasets.disk import SYSTEM_FILES, is_image, is_system_folder
from fsbench_datasets.split_file import plain_text, shortened


@dataclass(frozen=True)
class Tree:
    """One folder. path: relative to the root, empty for the root itself.

    images: names of what can be read here; unread: of images that cannot; others: of other files;
    system: of folders that a system or program made. Hidden names are nowhere.
    """

    path: str
    images: tuple[str, ...]
    unread: tuple[str, ...]
    others: tuple[str, ...]
    system: tuple[str, ...]
    below: tuple[Tree, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def holds_images(self) -> bool:
        """Whether images lie directly in it, readable or not."""
        return bool(self.images or self.unread)

    @property
    def ids(self) -> tuple[str, ...]:
        """The images directly in it."""
        return tuple(self.id(name) for name in self.images)

    def id(self, name: str) -> str:
        """The path of a file in it."""
        return f"{self.path}/{name}" if self.path else name

    def walk(self) -> Iterator[Tree]:
        """The folder and all below it."""
        yield self
        for folder in self.below:
            yield from folder.walk()

    def leaves(self, root: Path) -> list[Tree]:
        """The folders of images in it or below it, and the empty ones: its classes.

        UsageError for a folder with images both in it and below it.
        """
        if not self.holds_images and self.below:
            return [leaf for folder in self.below for leaf in folder.leaves(root)]
        deeper = next((f for t in self.below for f in t.walk() if f.holds_images), None)
        if deeper is not None:
            raise UsageError(
                f"{root / self.path} holds images and folders of images ({deeper.path}): expected "
                "images in class folders alone (move the ones or the others away, or hide a folder "
                "by a dot before its name)"
            )
        return [self]

    def without_images(self, root: Path) -> str:
        """Why it is no class."""
        folder = root / self.path
        if self.unread:
            return (
                f"class folder {folder}: none of its {len(self.unread)} images can be read here: "
                f"{'; '.join(unread_lines([self]))}"
            )
        found = f" (it holds {shortened(self.others)})" if self.others else ""
        return (
            f"class folder {folder} has no images in it{found}: expected files that end in jpg, "
            f"png or whatever else Pillow reads ({len(image_endings())} endings here; add some, or "
            "remove the folder)"
        )


def read_tree(root: Path) -> Tree:
    """The tree below a folder; links are followed, names are in case-sensitive order.

    UsageError for names that are no plain text, and for links that lead in circles.
    """
    return _read(root, "", ())


def _read(root: Path, path: str, above: tuple[tuple[int, int], ...]) -> Tree:
    """above: device and inode of each folder on the way here."""
    folder = root / path
    here = folder.stat().st_dev, folder.stat().st_ino
    if here in above:
        raise UsageError(f"{folder} is a link to a folder that it lies in: remove the link")
    images, unread, others, system, below = [], [], [], [], []
    with os.scandir(folder) as entries:
        found = sorted((e.name, e.is_dir()) for e in entries if e.name[0] != ".")
    for name, is_folder in found:
        place = f"{path}/{name}" if path else name
        if is_folder and is_system_folder(name):
            system.append(name)
        elif is_folder:
            below.append(_read(root, place, (*above, here)))
        elif is_image(name):
            _check_plain(root, place)
            images.append(name)
        elif image_remedy(ending(name)):
            unread.append(name)
        elif name.casefold() not in SYSTEM_FILES:
            others.append(name)
    return Tree(path, tuple(images), tuple(unread), tuple(others), tuple(system), tuple(below))


def ending(name: str) -> str:
    """The ending of a file name, in lower case."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def refuse_empty(root: Path, classes: Sequence[Tree]) -> None:
    """DataMissingError for classes without any image that can be read: all of them at once."""
    empty = [folder for folder in classes if not folder.images]
    if empty:
        others = [folder.path for folder in empty[1:]]
        more = f"; the same holds for {len(others):,} more: {shortened(others)}" if others else ""
        raise DataMissingError(f"{empty[0].without_images(root)}{more}")


def unread_lines(folders: list[Tree]) -> Iterator[str]:
    """A line per kind of images that cannot be read here, with what mends it."""
    kinds: dict[str, list[str]] = {}
    for folder in folders:
        for name in folder.unread:
            kinds.setdefault(ending(name), []).append(folder.id(name))
    for kind, ids in sorted(kinds.items()):
        yield f"{len(ids):,} .{kind} cannot be read here ({image_remedy(kind)}): {shortened(ids)}"


def _check_plain(root: Path, path: str) -> None:
    if not plain_text(path):
        raise UsageError(
            f"{root} holds the path {path!a}: expected names in UTF-8 without control characters "
            "(rename it)"
        )
