"""`manifest:FILE`: a table of image paths with labels or class names, and maybe splits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fewshot_bench import (
    DataMissingError,
    Pools,
    Stamp,
    UsageError,
    file_stamp,
    one_place,
    one_spelling,
)
from fsbench_datasets.disk import file_size
from fsbench_datasets.labels import (
    NAME_KEYS,
    Row,
    check_text,
    label_rows,
    number_or_name,
    role_of,
)
from fsbench_datasets.manifest_rows import Record, read_records
from fsbench_datasets.own_set import Listing, OwnSet
from fsbench_datasets.pools import UNSPLIT, check_holdout, complete, share_note
from fsbench_datasets.split_file import lines_of, shortened
from fsbench_datasets.stored import SplitPlaces, apply_split, kept_note

PATHS = ("path", "image", "file", "filename", "filepath", "impath")
LABEL, SPLIT = "label", "split"


@dataclass(frozen=True)
class Manifest:
    """The images that a manifest lists; ids are paths relative to its folder where they can be."""

    name: str
    path: Path
    lenient: bool = False

    def listing(self) -> Listing:
        """The rows, checked; DataMissingError says how many files are absent."""
        rows = read_rows(self.name, self.path)
        labeled = label_rows(self.name, rows)
        sizes = [file_size(self._base / row.id) for row in rows]
        missing = [row.id for row, size in zip(rows, sizes, strict=True) if size < 0]
        if missing and not self.lenient:
            raise DataMissingError(
                f"{self.name}: {len(missing)} of {len(rows)} images are not there: "
                f"{shortened(missing)}; paths are relative to {self._base} "
                "(--skip-damaged goes on without them)"
            )
        return Listing(labeled, lines_of(sizes), folder=str(self._base))

    def read(self, id: str) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        return (self._base / id).read_bytes()

    def stamp(self, id: str) -> Stamp | None:
        """The stamp of the image file; None when it is missing."""
        return file_stamp(self._base / id)

    @cached_property
    def _base(self) -> Path:
        return self.path.parent


@dataclass(frozen=True)
class KeptSplit:
    """Completes the lists of a manifest; test images that are made can be kept."""

    name: str
    path: Path
    holdout: float | None
    splits: Path | None

    def __call__(self, given: Pools) -> tuple[Pools, str]:
        """All three pools and a note."""
        if not _is_made(given):
            return complete(self.name, given, self.holdout)
        note = share_note(bool(given.get("val")), self.holdout)
        stored = self._places.found()
        if stored is None:
            return complete(self.name, given, self.holdout)[0], kept_note(note, None)
        return apply_split(stored, self.path, given), kept_note(note, stored)

    def keep(self, given: Pools, made: Pools, *, beside: bool) -> Path | None:
        """Keep the pools that were made of the lists; None where nothing was made."""
        return self._places.keep(made, beside=beside) if _is_made(given) else None

    @property
    def _places(self) -> SplitPlaces:
        beside = self.path.with_name(f"{self.path.name}.fsbench-split.json")
        return SplitPlaces.of(beside, self.path, self.holdout, self.splits)


def _is_made(given: Pools) -> bool:
    """Whether test images are held out of what is listed."""
    return bool(not given.get("test") and (given.get("train") or given.get(UNSPLIT)))


def open_manifest(
    argument: str,
    holdout: float | None = None,
    splits: Path | None = None,
    lenient: bool = False,
) -> OwnSet:
    """The data set for `manifest:FILE`."""
    path = one_place(argument)
    name = f"manifest:{one_spelling(path)}"
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise DataMissingError(
            f"{name}: {path} {problem}, expected a .csv, .tsv, .jsonl, .json or .parquet file"
        )
    check_holdout(name, holdout)
    kept = KeptSplit(name, path, holdout, splits)
    return OwnSet(name, path.stem, Manifest(name, path, lenient), kept)


def read_rows(name: str, path: Path) -> list[Row]:
    """The rows of a manifest; UsageError names the line of the first bad one."""
    records = read_records(path)
    if not records:
        raise UsageError(f"{name} lists no images: expected a header and at least two classes")
    reader = _Reader(name, path.parent, _Columns.of(name, records))
    return [reader.row(where, values) for where, values in records]


@dataclass(frozen=True)
class _Columns:
    """Which column holds what; "" for one that is not there."""

    path: str
    label: str
    classname: str
    split: str

    @classmethod
    def of(cls, name: str, records: Sequence[Record]) -> _Columns:
        """The columns by name, in any case; UsageError says which were found."""
        every = list(dict.fromkeys(str(key) for _, values in records for key in values))
        columns = cls(
            _one(name, every, PATHS),
            _one(name, every, (LABEL,)),
            _one(name, every, NAME_KEYS),
            _one(name, every, (SPLIT,)),
        )
        if not columns.path or not (columns.label or columns.classname):
            lacking = "a column for the path" if not columns.path else "a label or class name"
            raise UsageError(
                f"{name} lacks {lacking}: found the columns {', '.join(every)}; expected a header "
                f"with path (or {', '.join(PATHS[1:])}) and label (or {', '.join(NAME_KEYS)})"
            )
        return columns


def _one(name: str, every: Sequence[str], known: Sequence[str]) -> str:
    found = [column for column in every if column.strip().casefold() in known]
    if len(found) > 1:
        raise UsageError(
            f"{name} has the columns {' and '.join(found)}: expected one of them (rename the other)"
        )
    return found[0] if found else ""


@dataclass(frozen=True)
class _Reader:
    """Turns records into rows."""

    name: str
    base: Path
    columns: _Columns

    def row(self, where: str, values: Mapping[str, Any]) -> Row:
        """One row; UsageError when a field is empty or of the wrong kind."""
        columns = self.columns
        label: int | str | None = None
        if columns.label:
            label = number_or_name(self._field(values, columns.label, where))
        classname = None
        if columns.classname:
            classname = self._text(values, columns.classname, where)
        if isinstance(label, str) and classname is not None and label != classname:
            raise UsageError(
                f"{self.name}: label '{label}' and class name '{classname}' differ ({where}): "
                "expected a number as label, or one of the two columns"
            )
        role = UNSPLIT
        if columns.split:
            role = role_of(self.name, self._text(values, columns.split, where), where)
        known = classname if label is None else label
        assert known is not None
        named = classname if isinstance(known, int) else None
        return Row(
            self._id(self._text(values, columns.path, where), where), known, named, role, where
        )

    def _field(self, values: Mapping[str, Any], column: str, where: str) -> Any:
        value = values.get(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise UsageError(f"{self.name}: empty {column} ({where}): expected a value")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise UsageError(
                f"{self.name}: {column} {value!r:.60} ({where}): expected text"
                f"{' or a whole number' if column == self.columns.label else ''}"
            )
        return value

    def _text(self, values: Mapping[str, Any], column: str, where: str) -> str:
        return check_text(self.name, str(self._field(values, column, where)), column, where)

    def _id(self, text: str, where: str) -> str:
        """The path below the manifest's folder where it lies there, else the path as written."""
        if "://" in text:
            raise UsageError(
                f"{self.name}: '{text}' ({where}) is an address: expected a file on this machine "
                "(download the images first)"
            )
        path = os.path.normpath(text)
        if os.path.isabs(path):
            base = os.path.abspath(self.base)
            inside = os.path.commonpath([base, path]) == base
            path = os.path.relpath(path, base) if inside else path
        return path.replace(os.sep, "/")
