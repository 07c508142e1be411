"""Fetches, checks and places the files of a recipe with `prepare`; existing files are kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fewshot_bench.api.dataset import Recipe, RemoteFile
from fewshot_bench.plugins.data import places
from fewshot_bench.plugins.data.download import (
    Download,
    StopError,
    describe_check,
    difference,
    note_of,
    source_host,
    source_of,
)
from fewshot_bench.plugins.data.extract import MB, DamagedError, UnsafeError, unpack
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.files import FULL, same_content
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import few, size_text

LARGE_BYTES = 2 * 10**9


Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """The data root to write to, and the choices of the user.

    roots: folders searched for data, `root` among them. large: whether downloads of more than
    LARGE_BYTES may start. keep_archives: whether downloaded archives are kept.
    """

    root: Path
    roots: tuple[Path, ...]
    large: bool = False
    keep_archives: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """A file that could not be prepared, and why.

    StopError and OSError: fetching it by hand would not help; RefusedError: another copy is needed.
    """

    file: RemoteFile
    error: Exception


class RefusedError(DataMissingError):
    """An archive is damaged or unsafe; fetching the same copy again would not help."""


def missing_files(dataset: str, recipe: Recipe, target: Target) -> list[RemoteFile]:
    """The files that are neither in place nor downloaded."""
    return [
        file
        for file in recipe.files
        if places.locate(file, target.roots) is None
        and places.pending(file, target.root) is None
        and not places.archive_path(target.root, dataset, file).is_file()
    ]


def would_write(dataset: str, recipe: Recipe, target: Target) -> bool:
    """True when there is anything to fetch or to place."""
    by_hand = [file for file in missing_files(dataset, recipe, target) if not file.urls]
    left = [file for file in recipe.files if file not in by_hand]
    return any(places.locate(file, target.roots) is None for file in left)


def prepare(dataset: str, recipe: Recipe, target: Target, say: Say) -> list[Missing]:
    """Work through all files of a recipe; returns those that are still missing."""
    missing = []
    for file in recipe.files:
        try:
            say(f"{file.name}: {_prepare_file(dataset, file, target, say)}")
        except DataMissingError as error:
            say(str(error))
            missing.append(Missing(file, error))
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            say(f"{file.name} cannot be placed: {error.strerror or error}{where}")
            missing.append(Missing(file, error))
    return missing


def check_writable(root: Path) -> None:
    """Raise DataMissingError unless a data root, or its nearest existing parent, is writable."""
    folder = root
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise DataMissingError(f"{folder} is a file: expected a folder for data; choose --root")
    # Read-only permissions are respected even if the superuser could write.
    if not folder.stat().st_mode & 0o222 or not os.access(folder, os.W_OK | os.X_OK):
        raise DataMissingError(f"{folder} is read-only: choose a folder to write to with --root")


def give_split(dataset: str, recipe: Recipe, target: Target, path: Path, *, other: bool) -> str:
    """Put a local file where the split file belongs; returns what was done, in words.

    UsageError if the data set has no split file or `path` is no file; without `other`, also if
    `path` is not the published file or a different file is in its place.
    """
    split = next((file for file in recipe.files if file.split), None)
    if split is None:
        raise UsageError(f"data set '{dataset}' has no split file: leave --split-file out")
    if not path.is_file():
        raise UsageError(f"--split-file {path}: expected a file")
    split_path = target.root / split.place
    replaces = os.path.lexists(split_path) and not same_content(path, split_path)
    problem = difference(replace(split, size=0), path)
    if problem and not other:
        raise UsageError(
            f"--split-file {path} is not the published {split.name}: {problem} (to use it all the "
            "same, add --yes; its numbers cannot be compared with published ones)"
        )
    if replaces and not other:
        raise UsageError(
            f"--split-file {path}: {split_path} is there and differs: add --yes to replace it, or "
            "move it away"
        )
    places.place_file(path, target.root, split, keep=True)
    return f"{split.name}: taken from {path}{', in place of another file' if replaces else ''}"


def _prepare_file(dataset: str, file: RemoteFile, target: Target, say: Say) -> str:
    archive = places.archive_path(target.root, dataset, file)
    if places.pending(file, target.root) is not None:
        kept = places.place_members(file, target.root)
        _tidy(archive, target)
        folder = target.root / file.place
        return f"placed in {folder} (unpacked by an earlier call){_describe_kept(kept)}"
    path = places.locate(file, target.roots)
    if path is not None:
        return f"already at {path}{_own_split(file, path)}"
    left = file.urls
    while True:
        source = _obtain(replace(file, urls=left), archive, target, say)
        try:
            return f"{source}, {_put(file, archive, target)}"
        except (DamagedError, UnsafeError) as error:
            came_from = source_of(archive)
            problem = _bad_archive(file, archive, error)
            if not came_from or file.digests:
                raise RefusedError(problem) from None
            left = tuple(url for url in left if url != came_from)
            _remove(archive)
            if not left:
                raise RefusedError(problem) from None
            say(problem)


def _own_split(file: RemoteFile, path: Path) -> str:
    """Remark on an existing split file that is not the published one, or empty text."""
    problem = difference(replace(file, size=0), path) if file.split and path.is_file() else None
    return f", not the published file: {problem} (to replace it, remove it)" if problem else ""


def _obtain(file: RemoteFile, archive: Path, target: Target, say: Say) -> str:
    """Ensure that the download is on disk and checked; returns its source as text."""
    if archive.is_file():
        problem = difference(file, archive)
        if problem is None:
            return f"from {archive}, {describe_check(file)}"
        if not source_of(archive):
            raise DataMissingError(f"{archive} is another file: {problem} (delete or replace it)")
        _remove(archive)
    if not file.urls:
        raise DataMissingError(f"{file.name} is missing and has to be got by hand")
    source = Download(file, archive, say, 0 if target.large else LARGE_BYTES).run()
    return f"from {source_host(source)}, {describe_check(file)}"


def _put(file: RemoteFile, archive: Path, target: Target) -> str:
    """Move or unpack a checked download to its place; returns the place as text."""
    if not file.unpack:
        keep = target.keep_archives or not source_of(archive)
        places.place_file(archive, target.root, file, keep=keep)
        _tidy(archive, target)
        return f"at {target.root / file.place}"
    count = _unpack(file, archive, target)
    kept = places.place_members(file, target.root)
    _tidy(archive, target)
    return f"{count:,} files in {target.root / file.place}{_describe_kept(kept)}"


def _describe_kept(names: Sequence[str]) -> str:
    """Remark on existing files that were kept, though they differ from the archive's."""
    if not names:
        return ""
    return f"; kept {len(names):,} that were there and differ from the archive's: {few(names)}"


def _unpack(file: RemoteFile, archive: Path, target: Target) -> int:
    folder = places.partial_folder(file, target.root)
    current().step(f"{file.name} (unpacking), MB", archive.stat().st_size / MB)
    try:
        return unpack(archive, folder, strip=file.strip, inner=file.inner, most=file.max_unpacked)
    except BaseException as error:
        with suppress(OSError):
            folder.parent.rmdir()
        if isinstance(error, OSError) and error.errno in FULL:
            raise StopError(
                f"{file.name}: the disk is full ({folder.parent}): the archive is kept at "
                f"{archive}; make room, then run the same command again"
            ) from None
        raise


def _bad_archive(file: RemoteFile, archive: Path, error: Exception) -> str:
    kind = "is refused" if isinstance(error, UnsafeError) else "is damaged"
    end = "nothing of it was unpacked"
    if file.digests or not source_of(archive):
        end += f"; it is kept at {archive}: replace or delete it"
    else:
        end += " and it was removed"
    return f"{file.name} {kind}: {error} ({end})"


def _tidy(archive: Path, target: Target) -> None:
    """Remove a download that is no longer needed; files put there by hand stay."""
    if source_of(archive) and not target.keep_archives:
        _remove(archive)


def _remove(archive: Path) -> None:
    archive.unlink(missing_ok=True)
    note_of(archive).unlink(missing_ok=True)
    for folder in (archive.parent, archive.parent.parent):
        with suppress(OSError):
            folder.rmdir()


def steps(dataset: str, recipe: Recipe, missing: Sequence[Missing], target: Target) -> list[str]:
    """Steps by which a person gets missing files, one step per line."""
    if not missing:
        return []
    no_help = (StopError, RefusedError, OSError)
    by_hand = [entry.file for entry in missing if not isinstance(entry.error, no_help)]
    lines = list(recipe.by_hand) if by_hand else []
    for file in by_hand:
        if file.urls and not any(file.name in step for step in recipe.by_hand):
            archive = places.archive_path(target.root, dataset, file)
            lines.append(f"download {file.name} from {file.urls[0]} to {archive}")
    for entry in missing:
        if isinstance(entry.error, RefusedError):
            archive = places.archive_path(target.root, dataset, entry.file)
            hosts = ", ".join(dict.fromkeys(map(source_host, entry.file.urls))) or "where it was"
            lines.append(
                f"get another copy of {entry.file.name} than the one of {hosts}, which is of no "
                f"use, and put it at {archive}"
            )
    waiting = any(needs_agreement(entry.file) for entry in missing if entry.file not in by_hand)
    agree = " --yes" if waiting and not target.large else ""
    return [*lines, f"then run: fsbench data prepare {dataset}{agree}"]


def needs_agreement(file: RemoteFile) -> bool:
    """True if the user has to agree before a file is downloaded; False if its size is unknown."""
    return bool(file.urls) and file.size > LARGE_BYTES


def describe_size(file: RemoteFile) -> str:
    """A file's size as readable text."""
    return size_text(file.size) if file.size else "size not known"
