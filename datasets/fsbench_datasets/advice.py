"""Hints for fixing a public set: the command to run, the folder to rename, the images to move."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from functools import partial
from pathlib import Path

from fsbench_datasets.catalog import PublicSet, places
from fsbench_datasets.disk import file_size, subfolders
from fsbench_datasets.listed import Steps

SEARCH_DEPTH = 4
SEARCH_FOLDERS = 5000


def public_steps(entry: PublicSet, roots: Sequence[Path]) -> Steps:
    """Steps that fix missing images of a catalog set."""
    prepare = f"fsbench data prepare {entry.name}"
    return Steps(
        place_step(entry, roots),
        f"; or {prepare} fetches them or says how to get them: {entry.sources[0]}",
        f"put them back: unpack the archive again, or move FOLDER away and run {prepare}",
        partial(folder_problem, entry, tuple(roots)),
    )


def place_step(entry: PublicSet, roots: Sequence[Path]) -> str:
    """The step to name the data root, with the present one."""
    absent = "" if any(root.is_dir() for root in roots) else ", which does not exist"
    return (
        f"set FSBENCH_DATA to the folder that holds {entry.folders[0]}/ (it is {listed(roots)}"
        f"{absent})"
    )


def folder_problem(entry: PublicSet, roots: Sequence[Path], probes: Sequence[str] = ()) -> str:
    """The problem with the folders below the data roots and its fix, or an empty text.

    probes: relative paths of some listed images, to search for them elsewhere.
    """
    problem = _problem(entry, roots, probes)
    return f"{problem}; otherwise fsbench data prepare {entry.name}" if problem else ""


def _problem(entry: PublicSet, roots: Sequence[Path], probes: Sequence[str]) -> str:
    if not any(root.is_dir() for root in roots):
        return place_step(entry, roots)
    elsewhere = displaced(roots, probes) if probes else None
    if elsewhere is None:
        return misnamed(entry, roots)
    expected = places(roots, entry.images)
    above = [folder for folder in expected if folder in elsewhere.parents]
    if above:
        return f"unpacked one level too deep: move the content of {elsewhere} to {above[0]}"
    root = root_above(elsewhere, entry.images)
    if root is not None:
        return f"they are in {elsewhere}: set FSBENCH_DATA to {root}"
    return misnamed(entry, roots) or f"they are in {elsewhere}: move its content to {expected[0]}"


def unlisted_problem(entry: PublicSet, roots: Sequence[Path], holds: Callable[[Path], bool]) -> str:
    """`folder_problem` for a set without lists; `holds`: True for a folder with class folders."""
    named = {_squash(part) for part in _parts(entry)} | _aliases(entry)
    named.discard("")
    near = [f for root in roots for f in subfolders(root) if _squash(f.name) in named]
    near += [root for root in roots if _squash(root.name) in named]
    elsewhere = _first(near, holds)
    if elsewhere is None:
        return folder_problem(entry, roots) if not near else ""
    expected = places(roots, entry.images)
    above = [folder for folder in expected if folder in elsewhere.parents]
    if elsewhere in expected:
        return ""
    if above:
        step = f"unpacked one level too deep: move the content of {elsewhere} to {above[0]}"
    elif elsewhere.parent in roots:
        step = misnamed(entry, roots) or f"they are in {elsewhere}: rename it to {expected[0]}"
    else:
        step = f"they are in {elsewhere}: move its content to {expected[0]}"
    return f"{step}; otherwise fsbench data prepare {entry.name}"


def misnamed(entry: PublicSet, roots: Iterable[Path]) -> str:
    """The step to rename a folder whose name differs from the expected one; else empty."""
    for aliases in (frozenset[str](), _aliases(entry)):
        for root in roots:
            for relative in (*entry.images, *entry.folders):
                name = _other_name(root, relative, _parts(entry), aliases)
                if name:
                    return name
    return ""


def _other_name(root: Path, relative: str, accepted: Set[str], aliases: Set[str]) -> str:
    """The step to rename the first missing part of `relative`; empty if there is no candidate.

    A candidate is a folder whose name matches the part but for case and punctuation or, at the
    root, matches an alias.
    """
    here = root
    for part in filter(None, relative.split("/")):
        if not (here / part).is_dir():
            alike = {_squash(part)} | (aliases if here == root else set())
            for folder in subfolders(here):
                if folder.name not in accepted and _squash(folder.name) in alike:
                    return f"{folder} has another name than expected: rename it to {here / part}"
            return ""
        here /= part
    return ""


def _parts(entry: PublicSet) -> set[str]:
    return {part for path in (*entry.folders, *entry.images) for part in path.split("/")}


def _aliases(entry: PublicSet) -> frozenset[str]:
    """Other usual names of a data set's folder, in squashed form."""
    title = entry.title.partition(" (")[0]
    stem = (entry.split_file or "").removeprefix("split_zhou_").removesuffix(".json")
    return frozenset(_squash(name) for name in (entry.name, title, stem)) - {""}


def _squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def root_above(folder: Path, relatives: Sequence[str]) -> Path | None:
    """The data root from which one of `relatives` leads to `folder`; None when there is none.

    A folder with the set's own name is no data root: a set unpacked there has to be moved.
    """
    names = {relative.partition("/")[0] for relative in relatives}
    for relative in filter(None, relatives):
        parts = Path(relative).parts
        root = Path(*folder.parts[: -len(parts)])
        if folder.parts[-len(parts) :] == parts and root.name not in names:
            return root
    return None


def displaced(roots: Iterable[Path], probes: Sequence[str]) -> Path | None:
    """The first folder at or below a root in which all these relative paths exist, or None."""
    return _first(roots, lambda folder: all(file_size(folder / probe) >= 0 for probe in probes))


def _first(roots: Iterable[Path], holds: Callable[[Path], bool]) -> Path | None:
    """The first folder for which `holds` is true, breadth first from the roots; else None."""
    waiting = deque((root, 0) for root in roots if root.is_dir())
    for _ in range(SEARCH_FOLDERS):
        if not waiting:
            return None
        folder, depth = waiting.popleft()
        if holds(folder):
            return folder
        if depth < SEARCH_DEPTH:
            waiting.extend((below, depth + 1) for below in subfolders(folder))
    return None


def listed(folders: Sequence[Path]) -> str:
    """The folders as comma-separated text."""
    return ", ".join(map(str, folders))
