"""Paths of a recipe's files below a data root, and moving downloads and unpacked members there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from fewshot_bench.api.dataset import RemoteFile
from fewshot_bench.utils.errors import ContractError, DataMissingError
from fewshot_bench.utils.files import same_content, whole
from fewshot_bench.utils.text import leaves

DOWNLOADS = "downloads"
TEMPORARY = ".fsbench-"
LOCK = f"{TEMPORARY[1:]}prepare"
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


def check_recipe(dataset: str, files: Iterable[RemoteFile]) -> None:
    """ContractError unless every path of a recipe is relative and stays below the root."""
    for file in files:
        if not file.name or file.name != PurePosixPath(file.name).name or leaves(file.name):
            raise ContractError(f"data set '{dataset}': '{file.name}' is no plain file name")
        for path in (file.place, *file.provides, *file.alternatives):
            if path in ("", ".") or leaves(path):
                raise ContractError(
                    f"data set '{dataset}' places '{file.name}' at '{path}': expected a relative "
                    "path below the data root"
                )


def archive_path(root: Path, dataset: str, file: RemoteFile) -> Path:
    """The path of a download until it is placed; a file put there by hand is used as well."""
    return root / DOWNLOADS / _PLAIN.sub("_", dataset) / file.name


def locate(file: RemoteFile, roots: Iterable[Path]) -> Path | None:
    """The place of a file's content in any accepted layout; None when it is missing."""
    layouts = [file.provides or (f"{file.place}/" if file.unpack else file.place,)]
    layouts += [(path,) for path in file.alternatives]
    for root in roots:
        if pending(file, root) is not None:
            continue
        for layout in layouts:
            paths = [_locate_path(root, path) for path in layout]
            if None not in paths:
                return paths[0]
    return None


def _locate_path(root: Path, path: str) -> Path | None:
    """Non-empty location of a path below a root, which may itself be the path's first folder."""
    first, _, rest = path.partition("/")
    below = [root / path]
    if rest and os.path.basename(os.path.abspath(root)) == first:
        below.append(root / rest)
    return next((file for file in below if _has_content(file, path.endswith("/"))), None)


def _has_content(path: Path, folder: bool) -> bool:
    try:
        if path.is_file():
            return not folder
        # Hidden names are ours (TEMPORARY), or what systems leave in empty folders (.DS_Store).
        return any(not name.startswith(".") for name in os.listdir(path))
    except OSError:
        return False


def partial_folder(file: RemoteFile, root: Path) -> Path:
    """Temporary folder for unpacking an archive: beside the final files, on their disk."""
    return root / file.place / f"{TEMPORARY}unpacking-{_PLAIN.sub('_', file.name)}"


def _members_folder(file: RemoteFile, root: Path) -> Path:
    return root / file.place / f"{TEMPORARY}unpacked-{_PLAIN.sub('_', file.name)}"


def pending(file: RemoteFile, root: Path) -> Path | None:
    """Folder of an archive that is fully unpacked but not fully placed (killed run), or None."""
    if not file.unpack:
        return None
    folder = _members_folder(file, root)
    if folder.is_symlink():
        raise DataMissingError(f"{folder} is a link: remove it")
    return folder if folder.is_dir() else None


def place_members(file: RemoteFile, root: Path) -> list[str]:
    """Move unpacked members to their place, one by one; may be repeated after a kill.

    Existing files stay; returns the names, below the place, of those that differ from the
    archive's. Each move is atomic, so a file that exists both in its place and among the unpacked
    members was not put there by this merge.
    """
    members = _members_folder(file, root)
    if not members.is_dir():
        partial_folder(file, root).rename(members)
    kept = [path.relative_to(members).as_posix() for path in _merge(members, root / file.place)]
    shutil.rmtree(members)
    return kept


def _merge(source: Path, target: Path) -> Iterator[Path]:
    """Move all members whose destination is free; yields those that differ from a file there."""
    target.mkdir(exist_ok=True)
    for entry in sorted(source.iterdir()):
        destination = target / entry.name
        if entry.is_dir() and destination.is_symlink():
            raise DataMissingError(
                f"{destination} is a link, and nothing is unpacked through links: move it away"
            )
        elif entry.is_dir() and destination.is_dir():
            yield from _merge(entry, destination)
        elif not os.path.lexists(destination):
            entry.replace(destination)
        elif entry.is_dir() != destination.is_dir():
            kind = "a folder" if entry.is_dir() else "a file"
            raise DataMissingError(f"{destination} is in the way: expected {kind}; move it away")
        elif not same_content(entry, destination):
            yield entry


def place_file(path: Path, root: Path, file: RemoteFile, *, keep: bool) -> None:
    """Put a single file in its place atomically; `keep` leaves `path` where it is."""
    target = root / file.place
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise DataMissingError(f"{target} is in the way: expected a file; move it away")
    if not keep and path.stat().st_dev == target.parent.stat().st_dev:
        path.replace(target)
        return
    with whole(target) as temporary:
        shutil.copyfile(path, temporary)
    if not keep:
        path.unlink()
