"""The folder of a new model or program: checked before any work, and filled at the end.

`check_free`, `refuse_model` and `put` are the entry points. What is replaced is replaced completely
or not at all. Folders that exist stay: they may be mount points or working directories.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from fewshot_bench.store.kept_models import MODEL_FILES, read_config
from fewshot_bench.utils.errors import StoreError, UsageError
from fewshot_bench.utils.files import TEMPORARY, is_stale, list_entries, temporary_name
from fewshot_bench.utils.text import few

_MOST = 1000

Refuse = Callable[[list[Path]], str]
"""The reason why a folder with these entries must not be filled, and the next step, or nothing."""


def refuse_model(folder: Path, force: bool) -> Refuse:
    """The `Refuse` of the folder of a model: `force` replaces the model that is there now."""
    restore(folder)
    first = ""
    with suppress(StoreError):
        first = read_config(folder).digest

    def refuse(entries: list[Path]) -> str:
        if not force:
            return "is not empty, expected a new folder (--force replaces a model)"
        try:
            digest = read_config(folder).digest
        except StoreError as error:
            return f"{error}; --force replaces nothing but a model: choose another folder"
        others = [e.name for e in entries if e.name not in MODEL_FILES or not e.is_file()]
        if not others:
            return "" if digest == first else "holds another model than before"
        return (
            f"holds {few(others)} beside its model, and --force replaces nothing but a model: "
            "choose another folder, or move that away"
        )

    return refuse


def restore(folder: Path) -> None:
    """Put back the model that a process has moved out of its folder before it was killed."""
    for left in folder.glob(f"{TEMPORARY}~*"):
        if not left.is_dir() or not is_stale(left):
            continue
        old = list_entries(left / "old")
        if old and not (folder / MODEL_FILES[-1]).exists():
            if not (left / "new" / MODEL_FILES[0]).exists():
                for name in MODEL_FILES:
                    (folder / name).unlink(missing_ok=True)
            for entry in old:
                os.replace(entry, folder / entry.name)
        shutil.rmtree(left, ignore_errors=True)


def check_free(folder: Path, refuse: Refuse) -> None:
    """UsageError for a folder that cannot be written, or is in use."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"--output {folder}: is a file, expected a folder that is made")
    if problem := _find_use(folder, refuse):
        raise UsageError(f"--output {folder}: {problem}")
    whole = folder.absolute()
    above = next(parent for parent in (whole, *whole.parents) if parent.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UsageError(f"--output {folder}: {above} cannot be written to; choose another folder")


def put(
    folder: Path, names: Sequence[str], refuse: Refuse, write: Callable[[Path], object]
) -> Path:
    """Let `write` make a folder, and move its files to `folder`, which is returned.

    names: of all files that are moved or replaced; without the last, a folder is no model or
    program. Another folder, beside `folder`, is filled if that was taken since `check_free`.
    UsageError if the disk does not take it; earlier files are then as they were.
    """
    named = folder if folder.name not in ("", "..") else folder.resolve()
    home = named if named.is_dir() and not _find_use(named, refuse) else named.parent
    made = home / temporary_name()
    new, old = made / "new", made / "old"
    try:
        for left in home.glob(f"{TEMPORARY}~*"):
            # A process that was killed between two moves has left earlier files in `old`.
            if left.is_dir() and is_stale(left) and not list_entries(left / "old"):
                shutil.rmtree(left, ignore_errors=True)
        try:
            new.mkdir(parents=True)
            write(new)
            target = _claim(named, refuse, made)
            _replace(target, names, new, old)
            return folder if target == named else target
        finally:
            # What is in `old` could not be moved back.
            if not list_entries(old):
                shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        kept = f" (the earlier files are in {old})" if list_entries(old) else ""
        raise UsageError(
            f"cannot write '{folder}': {error.strerror or error}{kept}; choose another --output"
        ) from error


def _claim(folder: Path, refuse: Refuse, own: Path) -> Path:
    """The folder, or a new one beside it if it is in use by now; own: an entry that is no use."""
    names = (folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, _MOST)))
    for name in names:
        with suppress(FileExistsError):
            name.mkdir()
            return name
        if name == folder and folder.is_dir() and not _find_use(folder, refuse, own):
            return folder
    raise FileExistsError(errno.EEXIST, "every other name is taken, too")


def _find_use(folder: Path, refuse: Refuse, own: Path | None = None) -> str:
    entries = [entry for entry in list_entries(folder) if entry != own]
    return refuse(entries) if entries else ""


def _replace(folder: Path, names: Sequence[str], new: Path, old: Path) -> None:
    """Move files into a folder, and those of the same names out of it; all back on failure."""
    placed: list[str] = []
    old.mkdir()
    try:
        for name in reversed(names):
            if os.path.lexists(folder / name):
                os.replace(folder / name, old / name)
        for name in names:
            if (new / name).exists():
                placed.append(name)
                shutil.move(new / name, folder / name)
    except BaseException:
        for name in placed:
            (folder / name).unlink(missing_ok=True)
        for name in names:
            if os.path.lexists(old / name):
                os.replace(old / name, folder / name)
        raise
    shutil.rmtree(old, ignore_errors=True)
