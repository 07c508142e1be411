"""The folder of a new model: checked before anything is fitted, and filled at the end.

`free_place` and `put` are the entry points. Nothing but an earlier model is ever replaced, and that
only by a complete one. Folders that exist stay: they may be mount points or working directories.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fewshot_bench.store.model_files import MODEL_FILES, read_config
from fewshot_bench.utils.errors import StoreError, UsageError
from fewshot_bench.utils.files import sorted_entries, temporary_name
from fewshot_bench.utils.text import few

# Error numbers of a rename to a place where something is.
_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR})
_MOST = 1000


def free_place(folder: Path, force: bool) -> Path:
    """The folder to write; UsageError if unwritable or in use (`force` replaces a model)."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"--output {folder}: is a file, expected a folder that is made")
    if problem := _in_use(folder, force):
        raise UsageError(f"--output {folder}: {problem}")
    whole = folder.absolute()
    above = next(place for place in (whole, *whole.parents) if place.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UsageError(f"--output {folder}: {above} cannot be written to; choose another folder")
    return folder


def put(folder: Path, force: bool, write: Callable[[Path], object]) -> Path:
    """Write a model and move it to its folder; returns its place.

    The place is another one if the folder was taken since `free_place`. write: makes a folder with
    `MODEL_FILES`. UsageError if the disk does not take it; an earlier model is then as it was.
    """
    named = folder if folder.name not in ("", "..") else folder.resolve()
    inside = folder.is_dir() and not _in_use(folder, force)
    home = folder if inside else named.parent
    made = home / temporary_name()
    new, old = made / "new", made / "old"
    try:
        try:
            made.mkdir(parents=True)
            write(new)
            if not inside:
                return _moved(new, named)
            if _in_use(folder, force, made):
                return _moved_beside(new, named)
            _replace(folder, new, old)
            return folder
        finally:
            # What is in `old` could not be moved back.
            if not sorted_entries(old):
                shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        kept = f" (the earlier model is in {old})" if sorted_entries(old) else ""
        raise UsageError(
            f"cannot write '{folder}': {error.strerror or error}{kept}; choose another --output"
        ) from error


def _in_use(folder: Path, force: bool, own: Path | None = None) -> str:
    """Why a folder must not be filled, with the next step; empty if it may be.

    own: an entry of it that does not count.
    """
    entries = [entry for entry in sorted_entries(folder) if entry != own]
    if not entries:
        return ""
    if not force:
        return "is not empty, expected a new folder (--force replaces a model)"
    try:
        read_config(folder)
    except StoreError as error:
        return f"{error}; --force replaces nothing but a model: choose another folder"
    others = [one.name for one in entries if one.name not in MODEL_FILES or not one.is_file()]
    if others:
        return (
            f"holds {few(others)} beside its model, and --force replaces nothing but a model: "
            "choose another folder, or move that away"
        )
    return ""


def _moved(new: Path, folder: Path) -> Path:
    """Move a model to a folder that does not exist, or beside it if it does by now."""
    try:
        new.rename(folder)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return _moved_beside(new, folder)
    return folder


def _moved_beside(new: Path, folder: Path) -> Path:
    """Move a model to the first free name beside a folder, or in it if that is another disk."""
    problem: OSError | None = None
    for home in (folder.parent, folder):
        for number in range(2, _MOST):
            place = home / f"{folder.name}-{number}"
            if os.path.lexists(place):
                continue
            try:
                new.rename(place)
            except OSError as error:
                problem = error
                if error.errno in _TAKEN:
                    continue
                break
            return place
    raise problem or FileExistsError(errno.EEXIST, "every other name is taken, too")


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Move the files of a model into a folder, and those of an earlier one out of it.

    On failure, all files are moved back.
    """
    placed: list[str] = []
    old.mkdir()
    try:
        # The config goes first and comes last: a folder without one is no model.
        for name in reversed(MODEL_FILES):
            if os.path.lexists(folder / name):
                os.replace(folder / name, old / name)
        for name in MODEL_FILES:
            if (new / name).exists():
                placed.append(name)
                os.replace(new / name, folder / name)
    except BaseException:
        for name in placed:
            (folder / name).unlink(missing_ok=True)
        for name in MODEL_FILES:
            if os.path.lexists(old / name):
                os.replace(old / name, folder / name)
        raise
    shutil.rmtree(old, ignore_errors=True)
