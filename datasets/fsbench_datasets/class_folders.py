"""Role and class of every image in a tree of folders, and what is left out.

`find_images` is the entry. The tree is read once and in sorted order; nothing is left out without a
line that says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fewshot_bench import DataMissingError, Item, UsageError
from fewshot_bench.api.sources import Pools, image_endings, image_remedy
from fsbench_datasets.disk import SYSTEM_FILES, is_image, is_system_folder
from fsbench_datasets.labels import in_order, tidy_name, twin_names
from fsbench_datasets.own_set import twins_refused
from fsbench_datasets.pools import ROLE_NAMES, UNSPLIT
from fsbench_datasets.split_lists import plain_text, shortened

# How a folder of results is known, which a run in the folder of images leaves there.
RECORDS = "records"
SPLIT_FILES = "fsbench-split"


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
        """True when images lie directly in it, readable or not."""
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


@dataclass(frozen=True)
class ClassFolder:
    """A folder of images. parts: of its path below the folder of its role, without the role."""

    role: str
    parts: tuple[str, ...]
    tree: Tree


@dataclass(frozen=True)
class Found:
    """The images of a folder by role (`UNSPLIT` where no folder names one).

    left_out: what is not used, a line per reason.
    """

    pools: Pools
    left_out: tuple[str, ...]


def find_images(name: str, root: Path) -> Found:
    """All images below a folder; UsageError or DataMissingError where classes are not clear.

    Folders `train`, `val` and `test` (in any case, with their other usual names) stand above the
    class folders or in each of them. A class is a folder of images, and is called by its own name,
    or by its path where another class has the same name.
    """
    tree = read_tree(root)
    top = _unwrapped(tree)
    roles, beside = _role_folders(root, top)
    classes = _classes(root, top, roles)
    refuse_empty(root, [folder.tree for folder in classes])
    named = _named(name, classes)
    labels = {text: label for label, text in enumerate(sorted(set(named)))}
    pools: dict[str, list[Item]] = {role: [] for role in roles or {UNSPLIT: top}}
    for folder, text in zip(classes, named, strict=True):
        items = (Item(id, labels[text], text) for id in folder.tree.ids)
        pools.setdefault(folder.role, []).extend(items)
    if not roles and any(folder.role for folder in classes):
        del pools[UNSPLIT]
    return Found(in_order(pools), tuple(_left_out(tree, top, roles, beside)))


def _unwrapped(tree: Tree) -> Tree:
    """The folder itself, or the one that it holds in place of class folders."""
    while not tree.holds_images:
        below = [inner for inner in tree.below if not _is_store(inner)]
        if len(below) != 1 or not below[0].below or below[0].holds_images or _role(below[0]):
            return tree
        (tree,) = below
    return tree


def _role(folder: Tree) -> str:
    return ROLE_NAMES.get(folder.name.strip().casefold(), "")


def _role_folders(root: Path, top: Tree) -> tuple[dict[str, Tree], list[Tree]]:
    """The folders of the roles, none where no folder names one; and the folders beside them.

    A folder without folders of images in it is a class, whatever its name.
    """
    found: dict[str, list[Tree]] = {}
    for folder in top.below:
        if _role(folder) and any(f.holds_images for inner in folder.below for f in inner.walk()):
            found.setdefault(_role(folder), []).append(folder)
    named = all(_role(folder) for folder in top.below)
    if "train" not in found and not ("test" in found and named):
        _refuse_bare(root, top)
        return {}, []
    for role, folders in found.items():
        if len(folders) > 1:
            names = " and ".join(folder.name for folder in folders)
            kind = {"val": "validation"}.get(role, role)
            raise UsageError(f"{root / top.path} has {names}: expected one {kind} folder")
    order: tuple[str, ...] = ("train", "val", "test")
    roles = {role: found[role][0] for role in order if role in found}
    return roles, [folder for folder in top.below if folder not in roles.values()]


def _refuse_bare(root: Path, top: Tree) -> None:
    """DataMissingError where images lie in `train` and the like with no class folder between."""
    bare = [folder for folder in top.below if _role(folder) and folder.holds_images]
    if bare and len(bare) == len(top.below):
        raise _no_classes(root, bare[0])


def _no_classes(root: Path, folder: Tree) -> DataMissingError:
    found = f" (images lie directly in it: {shortened(folder.images)})" if folder.images else ""
    return DataMissingError(
        f"no class folders in {root / folder.path}{found}: expected one folder per class"
    )


def _classes(root: Path, top: Tree, roles: Mapping[str, Tree]) -> list[ClassFolder]:
    if roles:
        return [
            ClassFolder(role, _below(leaf, folder), leaf)
            for role, folder in roles.items()
            for leaf in _leaves(root, folder)
        ]
    found = [ClassFolder(UNSPLIT, _below(leaf, top), leaf) for leaf in _leaves(root, top)]
    inside = [_role(folder.tree) for folder in found]
    if all(inside) and {"train", "test"} & set(inside) and all(len(f.parts) > 1 for f in found):
        return [
            ClassFolder(role, folder.parts[:-1], folder.tree)
            for role, folder in zip(inside, found, strict=True)
        ]
    return found


def _leaves(root: Path, folder: Tree) -> list[Tree]:
    below = [inner for inner in folder.below if not _is_store(inner)]
    if not below:
        raise _no_classes(root, folder)
    return [leaf for inner in below for leaf in inner.leaves(root)]


def _is_store(folder: Tree) -> bool:
    images = any(inner.holds_images for inner in folder.walk())
    return not images and RECORDS in {inner.name for inner in folder.below}


def _below(leaf: Tree, folder: Tree) -> tuple[str, ...]:
    path = leaf.path[len(folder.path) :].lstrip("/")
    return tuple(path.split("/"))


def _named(name: str, classes: Sequence[ClassFolder]) -> list[str]:
    """A class name per folder; UsageError for two that differ in case or blanks alone."""
    paths = {tuple(map(tidy_name, folder.parts)) for folder in classes}
    ends: dict[str, int] = {}
    for parts in paths:
        end = parts[-1].casefold()
        ends[end] = ends.get(end, 0) + 1
    # Where all that differs is case, the path does not tell them apart either.
    folded = {tuple(part.casefold() for part in parts) for parts in paths}
    if len(folded) < len(paths):
        raise _twins(name, classes)
    names = []
    for folder in classes:
        parts = tuple(map(tidy_name, folder.parts))
        names.append(parts[-1] if ends[parts[-1].casefold()] == 1 else "/".join(parts))
    return names


def _twins(name: str, classes: Sequence[ClassFolder]) -> UsageError:
    paths = {"/".join(map(tidy_name, folder.parts)): folder.tree.path for folder in classes}
    twins = twin_names(paths)
    return twins_refused(name, twins, [paths[text] for text in twins])


def _left_out(
    tree: Tree, top: Tree, roles: Mapping[str, Tree], beside: Sequence[Tree]
) -> Iterator[str]:
    """A line for each reason why files are not used."""
    unused = [inner.path for inner in beside if not _is_store(inner)]
    if unused:
        above = " and ".join(folder.name for folder in roles.values())
        yield f"folders beside {above} are not used: {shortened(unused)}"
    unused += [inner.path for inner in tree.walk() if _is_store(inner)]
    used = [folder for folder in tree.walk() if not _lies_in(folder, unused)]
    yield from (f"images left out: {line}" for line in unread_lines(used))
    above_classes = {folder.path: folder for folder in (tree, top, *roles.values())}
    stray = [id for folder in above_classes.values() for id in folder.ids]
    if stray:
        yield f"images in no class folder are not used ({len(stray):,}): {shortened(stray)}"
    system = [folder.id(name) for folder in used for name in folder.system]
    if system:
        yield f"folders of systems and programs are no classes: {shortened(system)}"
    others = [f.id(name) for f in used for name in f.others if not name.startswith(SPLIT_FILES)]
    if others:
        kinds = sorted({f".{ending(id)}" if ending(id) else "no ending" for id in others})
        yield (
            f"files that are no images by their ending ({len(others):,}; {shortened(kinds)}): "
            f"{shortened(others)}"
        )


def _lies_in(folder: Tree, paths: Sequence[str]) -> bool:
    return any(folder.path == path or folder.path.startswith(f"{path}/") for path in paths)
