"""Fetches, checks and places the files of a recipe with `prepare`; existing files are kept."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from fewshot_bench.api.dataset import Recipe, RemoteFile
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
from fewshot_bench.utils.errors import ContractError, DataMissingError, UsageError
from fewshot_bench.utils.files import FULL, same_content, whole
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import few, leaves, size_text

DOWNLOADS = "downloads"
TEMPORARY = ".fsbench-"
LARGE_BYTES = 2 * 10**9
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")

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

    def archive(self, dataset: str, file: RemoteFile) -> Path:
        """The path of a download until it is placed; a file put there by hand is used as well."""
        return self.root / DOWNLOADS / _PLAIN.sub("_", dataset) / file.name


class RefusedError(DataMissingError):
    """An archive is damaged or unsafe; fetching the same copy again would not help."""


Missing = tuple[RemoteFile, Exception]
"""A file that could not be prepared, and why.

StopError and OSError: fetching it by hand would not help; RefusedError: another copy is needed.
"""


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


def check_writable(root: Path) -> None:
    """Raise DataMissingError unless a data root, or its nearest existing parent, is writable."""
    folder = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    if not folder.is_dir():
        raise DataMissingError(f"{folder} is a file: expected a folder for data; choose --root")
    # Read-only permissions are respected even if the superuser could write.
    if not folder.stat().st_mode & 0o222 or not os.access(folder, os.W_OK | os.X_OK):
        raise DataMissingError(f"{folder} is read-only: choose a folder to write to with --root")


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


def _work_folder(state: str, file: RemoteFile, root: Path) -> Path:
    """Temporary folder of an archive that is being unpacked: beside the final files."""
    return root / file.place / f"{TEMPORARY}{state}-{_PLAIN.sub('_', file.name)}"


def pending(file: RemoteFile, root: Path) -> Path | None:
    """Folder of an archive that is fully unpacked but not fully placed (killed run), or None."""
    folder = _work_folder("unpacked", file, root)
    if file.unpack and folder.is_symlink():
        raise DataMissingError(f"{folder} is a link: remove it")
    return folder if file.unpack and folder.is_dir() else None


def missing_files(dataset: str, recipe: Recipe, target: Target) -> list[RemoteFile]:
    """The files that are neither in place nor downloaded."""
    return [
        file
        for file in recipe.files
        if locate(file, target.roots) is None
        and pending(file, target.root) is None
        and not target.archive(dataset, file).is_file()
    ]


def would_write(dataset: str, recipe: Recipe, target: Target) -> bool:
    """True when there is anything to fetch or to place."""
    by_hand = [file for file in missing_files(dataset, recipe, target) if not file.urls]
    left = [file for file in recipe.files if file not in by_hand]
    return any(locate(file, target.roots) is None for file in left)


def prepare(dataset: str, recipe: Recipe, target: Target, say: Say) -> list[Missing]:
    """Work through all files of a recipe; returns those that are still missing."""
    missing: list[Missing] = []
    for file in recipe.files:
        try:
            say(f"{file.name}: {_prepare_file(dataset, file, target, say)}")
        except DataMissingError as error:
            say(str(error))
            missing.append((file, error))
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            say(f"{file.name} cannot be placed: {error.strerror or error}{where}")
            missing.append((file, error))
    return missing


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
    _place_file(path, target.root, split, keep=True)
    return f"{split.name}: taken from {path}{', in place of another file' if replaces else ''}"


def _prepare_file(dataset: str, file: RemoteFile, target: Target, say: Say) -> str:
    archive = target.archive(dataset, file)
    if pending(file, target.root) is not None:
        return f"{_place_members(file, archive, target)} (unpacked by an earlier call)"
    path = locate(file, target.roots)
    if path is not None:
        own = difference(replace(file, size=0), path) if file.split and path.is_file() else None
        remark = f", not the published file: {own} (to replace it, remove it)" if own else ""
        return f"already at {path}{remark}"
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
        _place_file(archive, target.root, file, keep=keep)
        _tidy(archive, target)
        return f"at {target.root / file.place}"
    folder = _work_folder("unpacking", file, target.root)
    current().step(f"{file.name} (unpacking), MB", archive.stat().st_size / MB)
    try:
        count = unpack(archive, folder, strip=file.strip, inner=file.inner, most=file.max_unpacked)
    except BaseException as error:
        with suppress(OSError):
            folder.parent.rmdir()
        if isinstance(error, OSError) and error.errno in FULL:
            raise StopError(
                f"{file.name}: the disk is full ({folder.parent}): the archive is kept at "
                f"{archive}; make room, then run the same command again"
            ) from None
        raise
    folder.rename(_work_folder("unpacked", file, target.root))
    return f"{count:,} files, {_place_members(file, archive, target)}"


def _place_file(path: Path, root: Path, file: RemoteFile, *, keep: bool) -> None:
    """Put a single file in its place atomically; `keep` leaves `path` where it is."""
    target = root / file.place
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise DataMissingError(f"{target} is in the way: expected a file; move it away")
    if not keep:
        # To another disk, it is copied.
        with suppress(OSError):
            path.replace(target)
            return
    with whole(target) as temporary:
        shutil.copyfile(path, temporary)
    if not keep:
        path.unlink()


def _place_members(file: RemoteFile, archive: Path, target: Target) -> str:
    """Move unpacked members to their place, one by one; may be repeated after a kill.

    Existing files stay; the text says where the members are, and which of these differ from the
    archive's. Each move is atomic, so a file that exists both in its place and among the unpacked
    members was not put there by this merge.
    """
    members, folder = _work_folder("unpacked", file, target.root), target.root / file.place
    kept = [path.relative_to(members).as_posix() for path in _merge(members, folder)]
    shutil.rmtree(members)
    _tidy(archive, target)
    remark = f"; kept {len(kept):,} that were there and differ from the archive's: {few(kept)}"
    return f"placed in {folder}{remark if kept else ''}"


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


def _bad_archive(file: RemoteFile, archive: Path, error: Exception) -> str:
    kind = "is refused" if isinstance(error, UnsafeError) else "is damaged"
    end = " and it was removed"
    if file.digests or not source_of(archive):
        end = f"; it is kept at {archive}: replace or delete it"
    return f"{file.name} {kind}: {error} (nothing of it was unpacked{end})"


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


def list_steps(
    dataset: str, recipe: Recipe, missing: Sequence[Missing], target: Target
) -> list[str]:
    """Steps by which a person gets missing files, one step per line."""
    if not missing:
        return []
    no_help = (StopError, RefusedError, OSError)
    by_hand = [file for file, error in missing if not isinstance(error, no_help)]
    lines = list(recipe.by_hand) if by_hand else []
    for file in by_hand:
        if file.urls and not any(file.name in step for step in recipe.by_hand):
            archive = target.archive(dataset, file)
            lines.append(f"download {file.name} from {file.urls[0]} to {archive}")
    for file, error in missing:
        if isinstance(error, RefusedError):
            hosts = ", ".join(dict.fromkeys(map(source_host, file.urls))) or "where it was"
            lines.append(
                f"get another copy of {file.name} than the one of {hosts}, which is of no use, "
                f"and put it at {target.archive(dataset, file)}"
            )
    waiting = any(needs_agreement(file) for file, _ in missing if file not in by_hand)
    agree = " --yes" if waiting and not target.large else ""
    return [*lines, f"then run: fsbench data prepare {dataset}{agree}"]


def needs_agreement(file: RemoteFile) -> bool:
    """True if the user has to agree before a file is downloaded; False if its size is unknown."""
    return bool(file.urls) and file.size > LARGE_BYTES


def describe_size(file: RemoteFile) -> str:
    """A file's size as readable text."""
    return size_text(file.size) if file.size else "size not known"
