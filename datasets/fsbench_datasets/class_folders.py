"""Assigns a role and a class to every image in a tree of class folders.

Main entry point: `find_images`. Every omission of files is reported by a line in `left_out`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fewshot_bench import DataMissingError, UsageError
from fewshot_bench.api.sources import ItemList, Run, image_endings, image_remedy, in_prompts
from fsbench_datasets.labels import tidy_name, twin_names
from fsbench_datasets.own_set import twins_refused
from fsbench_datasets.pools import ROLE_NAMES, UNSPLIT
from fsbench_datasets.split_lists import shortened
from fsbench_datasets.trees import Tree, ending, read_tree

# Subfolder that identifies a results store, which a run may have created among the images.
RECORDS = "records"
SPLIT_FILES = "fsbench-split"


def _leaves_of(root: Path, tree: Tree) -> list[Tree]:
    """The class folders of a tree: folders with images, and folders without any subfolder.

    UsageError for a folder with images both in it and below it.
    """
    if not tree.holds_images and tree.below:
        return [leaf for folder in tree.below for leaf in _leaves_of(root, folder)]
    deeper = next((f for t in tree.below for f in t.walk() if f.holds_images), None)
    if deeper is not None:
        raise UsageError(
            f"{root / tree.path} holds images and folders of images ({deeper.path}): expected "
            "images in class folders alone (move the ones or the others away, or hide a folder "
            "by a dot before its name)"
        )
    return [tree]


def _without_images(root: Path, tree: Tree) -> str:
    """Error text for a folder without readable images, which cannot be a class."""
    folder = root / tree.path
    if tree.unread:
        return (
            f"class folder {folder}: none of its {len(tree.unread)} images can be read here: "
            f"{'; '.join(unread_lines([tree]))}"
        )
    hint = f" (it holds {shortened(tree.others)})" if tree.others else ""
    return (
        f"class folder {folder} has no images in it{hint}: expected files that end in jpg, "
        f"png or whatever else Pillow reads ({len(image_endings())} endings here; add some, or "
        "remove the folder)"
    )


def refuse_empty(root: Path, classes: Sequence[Tree]) -> None:
    """Raise one DataMissingError for all classes without readable images."""
    empty = [folder for folder in classes if not folder.images.count]
    if empty:
        others = [folder.path for folder in empty[1:]]
        more = f"; the same holds for {len(others):,} more: {shortened(others)}" if others else ""
        raise DataMissingError(f"{_without_images(root, empty[0])}{more}")


def unread_lines(folders: list[Tree]) -> Iterator[str]:
    """A line per image format that cannot be read here, with its remedy."""
    kinds: dict[str, list[str]] = {}
    for folder in folders:
        for name in folder.unread:
            kinds.setdefault(ending(name), []).append(folder.id(name))
    for kind, ids in sorted(kinds.items()):
        yield f"{len(ids):,} .{kind} cannot be read here ({image_remedy(kind)}): {shortened(ids)}"


@dataclass(frozen=True)
class ClassFolder:
    """A class folder. parts: its path below the role folder or root, without the role's part."""

    role: str
    parts: tuple[str, ...]
    tree: Tree


@dataclass(frozen=True)
class Found:
    """The images by role (`UNSPLIT` without role folders), sorted by label, then by id.

    left_out: a line per reason why files are not used.
    """

    pools: Mapping[str, ItemList]
    left_out: tuple[str, ...]
    tree: Tree

    @cached_property
    def folders(self) -> Mapping[str, Tree]:
        """Folders by `prefix` (path with a trailing slash)."""
        return {folder.prefix: folder for folder in self.tree.walk()}


def find_images(name: str, root: Path, *, lenient: bool = False) -> Found:
    """Find all images below a folder; UsageError or DataMissingError if its classes are unclear.

    Folders `train`, `val` and `test` (in any case, or one of the aliases in `ROLE_NAMES`) are
    either above the class folders or in each of them. A class is a folder of images; its class name
    is the folder name, or the path where another class has the same folder name. lenient: class
    folders without readable images are left out.
    """
    tree = read_tree(root)
    top = _unwrap(tree)
    roles, beside = _role_folders(root, top)
    classes = _classes(root, top, roles)
    _refuse_one_folder_twice(root, classes)
    empty = [folder for folder in classes if not folder.tree.images.count]
    if not lenient or len(empty) == len(classes):
        refuse_empty(root, [folder.tree for folder in empty])
    classes = [folder for folder in classes if folder not in empty]
    named = _class_names(name, classes)
    labels = {text: label for label, text in enumerate(sorted(set(named)))}
    pools: dict[str, list[Run]] = {role: [] for role in roles or {UNSPLIT: top}}
    for folder, text in zip(classes, named, strict=True):
        run = Run(folder.tree.prefix, labels[text], text, folder.tree.images)
        pools.setdefault(folder.role, []).append(run)
    if not roles and any(folder.role for folder in classes):
        del pools[UNSPLIT]
    # No class folder contains another, so sorting the folders sorts the ids.
    ordered = {
        role: ItemList(sorted(runs, key=lambda run: (run.label, run.folder)))
        for role, runs in pools.items()
    }
    paths = [folder.tree.path for folder in empty]
    lines = [f"class folders without images ({len(paths):,}): {shortened(paths)}"] if paths else []
    return Found(ordered, (*lines, *_notes_on_rest(tree, top, roles, beside)), tree)


def _refuse_one_folder_twice(root: Path, classes: Sequence[ClassFolder]) -> None:
    """UsageError if two class folders are one by a link: of two classes, or of train and test."""
    seen: dict[str, str] = {}
    for folder in classes:
        path = folder.tree.path
        other = seen.setdefault(os.path.realpath(root / path), path)
        if other != path:
            raise UsageError(
                f"the folders '{other}' and '{path}' of {root} are one folder, by a link: expected "
                "every image once (remove the link, or hide it by a dot before its name)"
            )


def _unwrap(tree: Tree) -> Tree:
    """Skip wrappers: descend while the only folder holds folders, no images, and is no role."""
    while not tree.holds_images:
        below = [inner for inner in tree.below if not _is_store(inner)]
        if len(below) != 1 or not below[0].below or below[0].holds_images or _role(below[0]):
            return tree
        (tree,) = below
    return tree


def _role(folder: Tree) -> str:
    return ROLE_NAMES.get(folder.name.strip().casefold(), "")


def _role_folders(root: Path, top: Tree) -> tuple[dict[str, Tree], list[Tree]]:
    """Role to folder, empty if the roles are not at this level; and the folders beside them.

    A folder without image folders in it is a class, whatever its name.
    """
    trees: dict[str, list[Tree]] = {}
    for folder in top.below:
        if _role(folder) and any(f.holds_images for inner in folder.below for f in inner.walk()):
            trees.setdefault(_role(folder), []).append(folder)
    named = all(_role(folder) for folder in top.below)
    if "train" not in trees and not ("test" in trees and named):
        if named and top.below and all(folder.holds_images for folder in top.below):
            raise _no_classes(root, top.below[0])
        return {}, []
    for role, folders in trees.items():
        if len(folders) > 1:
            names = " and ".join(folder.name for folder in folders)
            kind = {"val": "validation"}.get(role, role)
            raise UsageError(f"{root / top.path} has {names}: expected one {kind} folder")
    order: tuple[str, ...] = ("train", "val", "test")
    roles = {role: trees[role][0] for role in order if role in trees}
    return roles, [folder for folder in top.below if folder not in roles.values()]


def _no_classes(root: Path, folder: Tree) -> DataMissingError:
    images = folder.images.listed()
    hint = f" (images lie directly in it: {shortened(images)})" if images else ""
    return DataMissingError(
        f"no class folders in {root / folder.path}{hint}: expected one folder per class"
    )


def _classes(root: Path, top: Tree, roles: Mapping[str, Tree]) -> list[ClassFolder]:
    if roles:
        return [
            ClassFolder(role, _below(leaf, folder), leaf)
            for role, folder in roles.items()
            for leaf in _leaves(root, folder)
        ]
    leaves = [ClassFolder(UNSPLIT, _below(leaf, top), leaf) for leaf in _leaves(root, top)]
    inside = [_role(folder.tree) for folder in leaves]
    if all(inside) and {"train", "test"} & set(inside) and all(len(f.parts) > 1 for f in leaves):
        return [
            ClassFolder(role, folder.parts[:-1], folder.tree)
            for role, folder in zip(inside, leaves, strict=True)
        ]
    return leaves


def _leaves(root: Path, folder: Tree) -> list[Tree]:
    below = [inner for inner in folder.below if not _is_store(inner)]
    if not below:
        raise _no_classes(root, folder)
    return [leaf for inner in below for leaf in _leaves_of(root, inner)]


def _is_store(folder: Tree) -> bool:
    images = any(inner.holds_images for inner in folder.walk())
    return not images and RECORDS in {inner.name for inner in folder.below}


def _below(leaf: Tree, folder: Tree) -> tuple[str, ...]:
    path = leaf.path[len(folder.path) :].lstrip("/")
    return tuple(path.split("/"))


def _class_names(name: str, classes: Sequence[ClassFolder]) -> list[str]:
    """Class name of each folder; UsageError if two are one in prompts."""
    _refuse_equal(name, classes)
    paths = {tuple(map(tidy_name, folder.parts)) for folder in classes}
    if not all(parts[-1].strip() for parts in paths):
        raise UsageError(f"{name}: a class folder has a blank name; expected a name of the class")
    ends = Counter(in_prompts(parts[-1]) for parts in paths)
    # If paths are one in prompts, even the full path is no distinct class name.
    folded = {tuple(map(in_prompts, parts)) for parts in paths}
    if len(folded) < len(paths):
        whole = {"/".join(map(tidy_name, folder.parts)): folder.tree.path for folder in classes}
        twins = twin_names(whole)
        raise twins_refused(name, twins, [whole[text] for text in twins])
    names = []
    for folder in classes:
        parts = tuple(map(tidy_name, folder.parts))
        names.append(parts[-1] if ends[in_prompts(parts[-1])] == 1 else "/".join(parts))
    return names


def _refuse_equal(name: str, classes: Sequence[ClassFolder]) -> None:
    """UsageError for two folders with one class name in one role; of two roles, they are one class.

    Such names are distinct for the file system alone: `cat` and `cat `, `é` in two Unicode forms.
    """
    seen: dict[tuple[str, ...], str] = {}
    for folder in classes:
        parts = tuple(map(tidy_name, folder.parts))
        other = seen.setdefault((folder.role, *parts), folder.tree.path)
        if other != folder.tree.path:
            raise UsageError(
                f"{name}: the folders '{other}' and '{folder.tree.path}' are both the class "
                f"'{'/'.join(parts)}', as blanks and the Unicode form of a name do not count: "
                "expected one folder per class (put the images into one, or rename the other)"
            )


def _notes_on_rest(
    tree: Tree, top: Tree, roles: Mapping[str, Tree], beside: Sequence[Tree]
) -> Iterator[str]:
    """Yield a line for each reason why files are not used."""
    unused = [inner.path for inner in beside if not _is_store(inner)]
    if unused:
        above = " and ".join(folder.name for folder in roles.values())
        yield f"folders beside {above} are not used: {shortened(unused)}"
    unused += [inner.path for inner in tree.walk() if _is_store(inner)]
    outside = frozenset(unused)
    used = [folder for folder in tree.walk() if not _lies_in(folder, outside)]
    yield from (f"images left out: {line}" for line in unread_lines(used))
    above_classes = {folder.path: folder for folder in (tree, top, *roles.values())}
    stray = [f.id(name) for f in above_classes.values() for name in f.images.listed()]
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


def _lies_in(folder: Tree, paths: Collection[str]) -> bool:
    parts = folder.path.split("/")
    return any("/".join(parts[:end]) in paths for end in range(1, len(parts) + 1))
