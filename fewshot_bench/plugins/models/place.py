"""The folder of a new model: checked before anything is fitted, and filled at the end.

`free_place` and `put` are the entry points. Nothing but an earlier model is ever replaced, and that
only by a complete one. Folders that exist stay: they may be mount points or working directories.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fewshot_bench.store.kept_models import MODEL_FILES, read_config
from fewshot_bench.utils.errors import StoreError, UsageError
from fewshot_bench.utils.files import sorted_entries, temporary_name
from fewshot_bench.utils.text import few

_MOST = 1000


def free_place(folder: Path, force: bool) -> Path:
    """The folder to write; UsageError if unwritable or in use (`force` replaces a model)."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"--output {folder}: is a file, expected a folder that is made")
    if problem := _in_use(folder, force):
        raise UsageError(f"--output {folder}: {problem}")
    whole = folder.absolute()
    above = next(parent for parent in (whole, *whole.parents) if parent.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UsageError(f"--output {folder}: {above} cannot be written to; choose another folder")
    return folder


def put(folder: Path, force: bool, write: Callable[[Path], object]) -> Path:
    """Write a model and move it to its folder, which is returned.

    It is another folder, beside it, if `folder` was taken since `free_place`. write: makes a folder
    with `MODEL_FILES`. UsageError if the disk does not take it; an earlier model is then as it was.
    """
    named = folder if folder.name not in ("", "..") else folder.resolve()
    home = named if named.is_dir() and not _in_use(named, force) else named.parent
    made = home / temporary_name()
    new, old = made / "new", made / "old"
    try:
        try:
            made.mkdir(parents=True)
            write(new)
            target = _claim(named, force, made)
            _replace(target, new, old)
            return folder if target == named else target
        finally:
            # What is in `old` could not be moved back.
            if not sorted_entries(old):
                shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        kept = f" (the earlier model is in {old})" if sorted_entries(old) else ""
        raise UsageError(
            f"cannot write '{folder}': {error.strerror or error}{kept}; choose another --output"
        ) from error


def _claim(folder: Path, force: bool, own: Path) -> Path:
    """The folder, or a new one beside it if it is in use by now; own: an entry that is no use."""
    names = (folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, _MOST)))
    for name in names:
        with suppress(FileExistsError):
            name.mkdir()
            return name
        if name == folder and folder.is_dir() and not _in_use(folder, force, own):
            return folder
    raise FileExistsError(errno.EEXIST, "every other name is taken, too")


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
    others = [file.name for file in entries if file.name not in MODEL_FILES or not file.is_file()]
    if others:
        return (
            f"holds {few(others)} beside its model, and --force replaces nothing but a model: "
            "choose another folder, or move that away"
        )
    return ""


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
                shutil.move(new / name, folder / name)
    except BaseException:
        for name in placed:
            (folder / name).unlink(missing_ok=True)
        for name in MODEL_FILES:
            if os.path.lexists(old / name):
                os.replace(old / name, folder / name)
        raise
    shutil.rmtree(old, ignore_errors=True)
