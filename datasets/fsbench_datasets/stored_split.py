"""Splits that are made once and kept: with the results, or beside the data."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench import DataMissingError, Item, UsageError
from fewshot_bench.api.sources import Pools, load_split, save_split
from fsbench_datasets.kept_pools import kept_pools
from fsbench_datasets.pools import TEST_SHARE
from fsbench_datasets.split_lists import ROLES


@dataclass(frozen=True)
class SplitPlaces:
    """Places where a split may be kept; a file beside the data goes first.

    kept: None where no results are known.
    """

    beside: Path
    kept: Path | None

    @classmethod
    def of(
        cls, beside: Path, subject: Path, holdout: float | None, splits: Path | None
    ) -> SplitPlaces:
        """beside: a name that ends in .json; subject: the folder or file that is split.

        splits: the folder of kept splits. Another share than the default one has another file, so
        that two splits are never taken for one another.
        """
        suffix = "" if holdout in (None, TEST_SHARE) else f"-holdout-{holdout!r}"
        key = hashlib.sha256(os.fsencode(subject.resolve())).hexdigest()[:16]
        kept = splits / f"{subject.resolve().name}-{key}{suffix}.json" if splits else None
        return cls(beside.with_name(f"{beside.stem}{suffix}.json"), kept)

    def found(self) -> Path | None:
        """The kept split, if there is one."""
        places = (self.beside, self.kept)
        return next((path for path in places if path is not None and path.is_file()), None)

    def keep(self, pools: Pools, *, beside: bool) -> Path | None:
        """Write the split, unless one is kept; returns its file, None where no results are known.

        UsageError where the folder cannot be written to; its mark is respected by root too.
        """
        found = self.found()
        target = self.beside if beside else self.kept
        if found is not None or target is None:
            return found
        try:
            if beside and not target.parent.stat().st_mode & 0o222:
                raise PermissionError("the folder is read-only")
            save_split(target, pools)
            kept_pools(_digest(target), lambda: pools)
        except OSError as error:
            other = "leave --keep-split out" if beside else "choose another --store"
            raise UsageError(
                f"the split cannot be kept at {target} ({error.strerror or error}): {other}"
            ) from None
        return target


def load_kept(path: Path) -> Pools:
    """The pools of a split file; DataMissingError when it is damaged.

    They are read from the user's cache where they were kept there for a file of these bytes.
    """
    try:
        digest = _digest(path)
    except OSError:
        return load_split(path)
    return kept_pools(digest, lambda: load_split(path))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kept_note(note: str, stored: Path | None) -> str:
    """Note on how the pools were made, and the file that keeps it."""
    return f"{note}, kept in {stored}" if stored else f"{note}; the first run keeps it"


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
