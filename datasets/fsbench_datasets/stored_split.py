"""Splits that are made once and stored: with the results, or beside the data."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench import DataMissingError, Item, UsageError
from fewshot_bench.api.sources import MAX_BYTES, Pools, load_split, read_regular, save_split
from fsbench_datasets.kept_lists import keep_pools
from fsbench_datasets.pools import TEST_SHARE
from fsbench_datasets.split_lists import ROLES


@dataclass(frozen=True)
class SplitPlaces:
    """Possible files of a stored split; a file beside the data takes precedence.

    beside: file beside the data; kept: file with the results, None without a results folder.
    """

    beside: Path
    kept: Path | None

    @classmethod
    def of(
        cls, beside: Path, subject: Path, holdout: float | None, splits: Path | None
    ) -> SplitPlaces:
        """Derive both files; a non-default `holdout` adds a suffix, so that splits never mix.

        beside: a path that ends in .json; subject: the folder or file that is split; splits: the
        folder of stored splits.
        """
        suffix = "" if holdout in (None, TEST_SHARE) else f"-holdout-{holdout!r}"
        key = hashlib.sha256(os.fsencode(subject.resolve())).hexdigest()[:16]
        kept = splits / f"{subject.resolve().name}-{key}{suffix}.json" if splits else None
        return cls(beside.with_name(f"{beside.stem}{suffix}.json"), kept)

    def found(self) -> Path | None:
        """The file of the stored split; None when there is none."""
        places = (self.beside, self.kept)
        return next((path for path in places if path is not None and path.is_file()), None)

    def keep(self, pools: Pools, *, beside: bool) -> Path | None:
        """Write the split unless one is stored; returns its file, or None without a target.

        UsageError if the folder is not writable. With `beside`, a folder without write permission
        bits is refused even for root.
        """
        split = self.found()
        target = self.beside if beside else self.kept
        if split is not None or target is None:
            return split
        try:
            if beside and not target.parent.stat().st_mode & 0o222:
                raise PermissionError("the folder is read-only")
            save_split(target, pools)
            keep_pools(_digest(target), lambda: pools)
        except OSError as error:
            other = "leave --keep-split out" if beside else "choose another --store"
            raise UsageError(
                f"the split cannot be kept at {target} ({error.strerror or error}): {other}"
            ) from None
        return target


def load_kept(path: Path) -> Pools:
    """The pools of a split file; DataMissingError when it is damaged.

    Parsed pools are cached under the file's SHA-256 digest.
    """
    try:
        _refuse_mark(path)
        digest = _digest(path)
    except OSError:
        return load_split(path)
    return keep_pools(digest, lambda: load_split(path))


def _refuse_mark(path: Path) -> None:
    """DataMissingError for a byte order mark, which editors add and this program never writes."""
    with path.open("rb") as file:
        if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
            raise DataMissingError(
                f"split file {path} starts with a byte order mark, expected UTF-8 without it: save "
                "it so, or delete it to have a new split made"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kept_note(note: str, stored: Path | None) -> str:
    """`note` on how the pools were made, with the file in which the split is stored."""
    return f"{note}, kept in {stored}" if stored else f"{note}; the first run keeps it"


def apply_split(path: Path, source: Path, given: Pools) -> Pools:
    """The images of `given` in the pools of the stored split, in the order of `given`.

    UsageError when the split and the manifest `source` differ in images, labels or roles.
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
        _refuse_mark(path)
        content = json.loads(read_regular(path, MAX_BYTES))
        return {
            id: (role, label, classname) for role in ROLES for id, label, classname in content[role]
        }
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataMissingError(
            f"split file {path} cannot be read as a split ({type(error).__name__}: {error}): put "
            "it back as it was, or delete it to have a new split made"
        ) from None
