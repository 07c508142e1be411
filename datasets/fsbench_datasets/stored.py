"""Splits that are made once and kept: beside the data, or in the user's data folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

from fewshot_bench import DataMissingError, Item, Pools, UsageError, save_split
from fsbench_datasets.pools import TEST_SHARE
from fsbench_datasets.split_file import ROLES


def split_places(beside: Path, subject: Path, holdout: float | None) -> tuple[Path, Path]:
    """Where a split is kept: `beside` (named .json), or in the user's data folder.

    subject: the folder or file that was split. Another share than the default one has another
    file, so that two splits are never taken for one another.
    """
    suffix = "" if holdout in (None, TEST_SHARE) else f"-holdout-{holdout!r}"
    base = os.environ.get("XDG_DATA_HOME", "")
    home = Path(base) if base else Path.home() / ".local" / "share"
    key = hashlib.sha256(os.fsencode(subject.resolve())).hexdigest()[:32]
    return (
        beside.with_name(f"{beside.stem}{suffix}.json"),
        home / "fsbench" / "splits" / f"{key}{suffix}.json",
    )


def stored_split(places: tuple[Path, Path]) -> Path | None:
    """The kept split, if there is one."""
    return next((path for path in places if path.is_file()), None)


def store_split(places: tuple[Path, Path], pools: Pools) -> Path:
    """Write the split to the first place that can be written to; DataMissingError if none can."""
    failure = OSError(errno.EROFS, os.strerror(errno.EROFS))
    for path in places:
        if _marked_read_only(path.parent):
            continue
        try:
            save_split(path, pools)
        except OSError as error:
            failure = error
        else:
            return path
    raise DataMissingError(
        f"the split can be stored neither in {places[0].parent} nor in {places[1].parent} "
        f"({failure}): make one writable, or set XDG_DATA_HOME"
    )


def _marked_read_only(folder: Path) -> bool:
    """Whether nobody has write permission; the mark is respected even where root could write."""
    return folder.is_dir() and not folder.stat().st_mode & 0o222


def apply_split(path: Path, source: Path, given: Pools) -> Pools:
    """The images of `given` in the pools that the stored split says, in the order of `given`.

    UsageError when the split and the list `source` are not about the same images and labels.
    """
    places = _read(path)
    parts: dict[str, list[Item]] = {role: [] for role in ROLES}
    made = [role for role in ROLES if role == "train" or not given.get(role)]
    for listed, items in given.items():
        allowed = [listed] if listed in ("val", "test") else made
        for item in items:
            role, label, classname = places.pop(item.id, ("", -1, ""))
            if role not in allowed or (label, classname) != (item.label, item.classname):
                what = "is not in it" if not role else "has another label, class or split there"
                raise _differs(path, source, f"'{item.id}' {what}")
            parts[role].append(item)
    if places:
        raise _differs(path, source, f"'{next(iter(places))}' is listed in the split alone")
    return {role: tuple(items) for role, items in parts.items()}


def _differs(path: Path, source: Path, what: str) -> UsageError:
    return UsageError(
        f"{source} has changed since its split {path} was stored: {what}; undo the change, or "
        "delete the split file to have a new split made (numbers of both cannot be compared)"
    )


def _read(path: Path) -> dict[str, tuple[str, int, str]]:
    """Image id to role, label and class name."""
    try:
        content = json.loads(path.read_text("utf-8"))
        return {
            id: (role, label, classname) for role in ROLES for id, label, classname in content[role]
        }
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataMissingError(
            f"split file {path} cannot be read as a split ({type(error).__name__}: {error}): put "
            "it back as it was, or delete it to have a new split made"
        ) from None
