"""Class folders: which role and which class every image of a folder has, and what is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench import DataMissingError, Item, Pools, UsageError
from fsbench_datasets.folder_tree import Tree, ending, read_tree, refuse_empty, unread_lines
from fsbench_datasets.labels import in_order, tidy_name, twin_names
from fsbench_datasets.own_set import twins_refused
from fsbench_datasets.pools import ROLE_NAMES, UNSPLIT
from fsbench_datasets.split_file import shortened

# How a folder of results is known, which a run in the folder of images leaves there.
RECORDS = "records"
SPLIT_FILES = "fsbench-split"


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
