"""`manifest:FILE`: a table of image paths with labels or class names, optionally with splits.

Main entry point: `open_manifest`. CSV, TSV, JSON lines, JSON and Parquet are read as records, each
with its position in the file for error messages.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from fewshot_bench import DataMissingError, Dataset, UsageError
from fewshot_bench.api.sources import Pools, Stamp, file_stamp, one_place, one_spelling
from fsbench_datasets.disk import read_file, size_and_inode
from fsbench_datasets.labels import NAME_KEYS, Row, check_text, label_rows, number_or_name, role_of
from fsbench_datasets.own_set import Listing, OwnSet
from fsbench_datasets.pools import UNSPLIT, check_holdout, complete, share_note
from fsbench_datasets.split_lists import lines_of, shortened
from fsbench_datasets.stored_split import SplitPlaces, apply_split, kept_note

Record = tuple[str, Mapping[str, Any]]
NEEDS_PARQUET = "pip install 'fewshot-bench[parquet]'"
PATHS = ("path", "image", "file", "filename", "filepath", "impath")
LABEL, SPLIT = "label", "split"


def read_records(path: Path) -> list[Record]:
    """Every record with its position ("line 7"); UsageError names an unreadable part."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"manifest {path}: expected a name that ends in {', '.join(_READERS)}, "
            f"got '{path.suffix}'"
        )
    return list(reader(path))


def _text(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8-sig")
    except OSError as error:
        raise DataMissingError(
            f"manifest {path} cannot be read: {error.strerror or error}"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(
            f"manifest {path}, line {line}: is not UTF-8 ({error.reason}); save it as UTF-8"
        ) from None


def _table(path: Path, delimiters: str) -> Iterator[Record]:
    """Rows of a table with a header; quoted fields may hold the delimiter and line breaks."""
    text = _text(path)
    # Spreadsheets write semicolons where the comma is the decimal sign.
    delimiter = max(delimiters, key=text.lstrip().partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        while True:
            line = reader.line_num + 1
            fields = next(reader, None)
            if fields is None:
                return
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = _header(path, line, fields)
                continue
            if len(fields) != len(header):
                raise UsageError(
                    f"manifest {path}, line {line}: has {len(fields)} fields, the header has "
                    f"{len(header)} ({', '.join(header)}); quote a field that holds {delimiter!r}"
                )
            yield f"line {line}", dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise UsageError(f"manifest {path}, line {reader.line_num}: {error}") from None


def _header(path: Path, line: int, fields: list[str]) -> list[str]:
    names = [name.strip() for name in fields]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(
            f"manifest {path}, line {line}: has the column '{twice[0]}' twice: expected distinct "
            "column names"
        )
    return names


class _Pairs(dict[str, Any]):
    """A JSON object; `twice` is a key that occurs more than once, of which `dict` keeps one."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        count = Counter(key for key, _ in pairs) if len(self) < len(pairs) else {}
        self.twice = next((key for key, times in count.items() if times > 1), None)


def _json_lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            where = f"line {number}"
            yield where, _object(path, where, _parse(path, where, line))


def _json(path: Path) -> Iterator[Record]:
    content = _parse(path, "", _text(path))
    if isinstance(content, dict) and {"train", "test"} <= set(content):
        raise UsageError(
            f"manifest {path} has the keys {', '.join(content)}: for a split file of CoOp's schema "
            "use coop:FOLDER; expected a list of objects with path and label"
        )
    if not isinstance(content, list):
        raise UsageError(f"manifest {path}: expected a list of objects with path and label")
    for number, value in enumerate(content):
        where = f"entry {number}"
        yield where, _object(path, where, value)


def _parse(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        location = where or f"line {error.lineno}"
        raise UsageError(f"manifest {path}, {location}: is not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"manifest {path}: is not usable JSON: {error}") from None


def _object(path: Path, where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(
            f"manifest {path}, {where}: expected an object with path and label, got {value!r:.60}"
        )
    if isinstance(value, _Pairs) and value.twice is not None:
        raise UsageError(
            f"manifest {path}, {where}: has the key '{value.twice}' twice: expected distinct keys "
            "(keep one of them)"
        )
    return value


def _parquet(path: Path) -> Iterator[Record]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataMissingError(
            f"manifest {path} needs the package pyarrow: {NEEDS_PARQUET}"
        ) from None
    arrow = importlib.import_module("pyarrow")
    try:
        schema = parquet.read_schema(path)
        rows = parquet.read_table(path, columns=_plain(path, arrow.types, schema)).to_pylist()
    except UsageError:
        raise
    # pyarrow raises errors of many kinds for damaged files.
    except Exception as error:
        problem = str(error).partition("\n")[0]
        raise UsageError(f"manifest {path} cannot be read as Parquet: {problem}") from None
    for number, row in enumerate(rows):
        yield f"row {number}", row


def _plain(path: Path, types: Any, schema: Any) -> list[str]:
    """The columns of text, integers and booleans; others are not read, as they are not used.

    UsageError if a column that is needed has only other types.
    """
    for column in schema:
        if column.name.casefold() == "image" and types.is_struct(column.type):
            raise UsageError(
                f"manifest {path}: the column '{column.name}' holds images, expected their paths; "
                "for images inside Parquet files use hf:FOLDER"
            )
    plain = [column for column in schema if _is_plain(types, column.type)]
    for group in (PATHS, (LABEL, *NAME_KEYS), (SPLIT,)):
        columns = [column for column in schema if column.name.strip().casefold() in group]
        if columns and not any(column in plain for column in columns):
            raise UsageError(
                f"manifest {path}: the column '{columns[0].name}' is of type {columns[0].type}: "
                "expected text or whole numbers (write it anew as one of them)"
            )
    return [column.name for column in plain]


def _is_plain(types: Any, kind: Any) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    # Older versions of pyarrow have no `string_view`.
    checks = ("is_string", "is_large_string", "is_string_view", "is_integer", "is_boolean")
    return any(getattr(types, check, lambda _: False)(kind) for check in checks)


_READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".csv": partial(_table, delimiters=",;"),
    ".tsv": partial(_table, delimiters="\t"),
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}


@dataclass(frozen=True)
class Manifest:
    """The images in a manifest; ids are paths relative to its folder, or absolute ones outside."""

    name: str
    path: Path
    lenient: bool = False

    def listing(self) -> Listing:
        """The checked rows; DataMissingError if files are absent, unless `lenient`."""
        rows = read_rows(self.name, self.path)
        labeled = label_rows(self.name, rows)
        sizes, inodes = array("q"), array("Q")
        for row in rows:
            size, inode = size_and_inode(self._base / row.id)
            sizes.append(size)
            inodes.append(inode)
        missing = [row.id for row, size in zip(rows, sizes, strict=True) if size < 0]
        if missing and not self.lenient:
            raise DataMissingError(
                f"{self.name}: {len(missing)} of {len(rows)} images are not there: "
                f"{shortened(missing)}; paths are relative to {self._base} "
                "(--skip-damaged goes on without them)"
            )
        self._refuse_twice(rows, inodes)
        # Sorted, so that the revision does not depend on the order of the rows.
        by_id = sorted(zip((row.id for row in rows), sizes, strict=True))
        return Listing(labeled, lines_of(size for _, size in by_id), folder=str(self._base))

    def _refuse_twice(self, rows: Sequence[Row], inodes: Sequence[int]) -> None:
        """UsageError when two rows are one file by other paths, also through links.

        inodes: of the rows' files, 0 if unknown. Only rows whose inode is not their own are looked
        at. Hard links are files of their own, as in class folders.
        """
        count = Counter(inodes)
        seen: dict[str, Row] = {}
        for row, inode in zip(rows, inodes, strict=True):
            if inode and count[inode] == 1:
                continue
            other = seen.setdefault(os.path.realpath(self._base / row.id), row)
            if other is not row:
                raise UsageError(
                    f"{self.name} lists one file twice, as '{other.id}' ({other.where}) and as "
                    f"'{row.id}' ({row.where}): expected every image once"
                )

    def read(self, id: str) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        return read_file(self._base / id)

    def stamp(self, id: str) -> Stamp | None:
        """The stamp of the image file; None when it is missing."""
        return file_stamp(self._base / id)

    @cached_property
    def _base(self) -> Path:
        return self.path.parent


@dataclass(frozen=True)
class KeptSplit:
    """Completes the pools of a manifest; a split made here can be stored."""

    name: str
    path: Path
    holdout: float | None
    splits: Path | None

    def __call__(self, given: Pools, dataset: Dataset | None) -> tuple[Pools, str]:
        """All three pools and a note."""
        if not _is_made(given):
            return complete(self.name, given, dataset, self.holdout)
        note = share_note(bool(given.get("val")), self.holdout)
        stored = self._places.found()
        if stored is None:
            return complete(self.name, given, dataset, self.holdout)[0], kept_note(note, None)
        return apply_split(stored, self.path, given), kept_note(note, stored)

    def keep(self, given: Pools, made: Pools, *, beside: bool) -> Path | None:
        """Store the pools made from the listed ones; None if no split was made."""
        return self._places.keep(made, beside=beside) if _is_made(given) else None

    @property
    def _places(self) -> SplitPlaces:
        beside = self.path.with_name(f"{self.path.name}.fsbench-split.json")
        return SplitPlaces.of(beside, self.path, self.holdout, self.splits)


def _is_made(given: Pools) -> bool:
    """True when test images have to be held out of the listed ones."""
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
    return OwnSet(name, path.stem, Manifest(name, path, lenient), kept, lenient=lenient)


def read_rows(name: str, path: Path) -> list[Row]:
    """The rows of a manifest; UsageError names the line of the first bad one."""
    records = read_records(path)
    if not records:
        raise UsageError(f"{name} lists no images: expected a header and at least two classes")
    reader = _Reader(name, path.parent, _Columns.of(name, records))
    return [reader.row(where, values) for where, values in records]


@dataclass(frozen=True)
class _Columns:
    """Column names by their meaning; "" for an absent column."""

    path: str
    label: str
    classname: str
    split: str

    @classmethod
    def of(cls, name: str, records: Sequence[Record]) -> _Columns:
        """Find the columns by name, ignoring case; UsageError lists the columns found."""
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


def _one(name: str, every: Sequence[str], names: Sequence[str]) -> str:
    columns = [column for column in every if column.strip().casefold() in names]
    if len(columns) > 1:
        raise UsageError(
            f"{name} has the columns {' and '.join(columns)}: expected one of them (rename the "
            "other)"
        )
    return columns[0] if columns else ""


@dataclass(frozen=True)
class _Reader:
    """Turns records into rows. spellings: of each label that is a number, the first one."""

    name: str
    base: Path
    columns: _Columns
    spellings: dict[int, tuple[str, str]] = field(default_factory=dict)

    def row(self, where: str, values: Mapping[str, Any]) -> Row:
        """One row; UsageError when a field is empty or of the wrong kind."""
        columns = self.columns
        label: int | str | None = None
        if columns.label:
            label = self._label(self._field(values, columns.label, where), where)
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
        content = classname if label is None else label
        assert content is not None
        named = classname if isinstance(content, int) else None
        return Row(
            self._id(self._text(values, columns.path, where), where), content, named, role, where
        )

    def _label(self, value: int | str, where: str) -> int | str:
        """The label; UsageError if `0` and `00` are in one column, which may be two classes."""
        label, text = number_or_name(value), str(value).strip()
        if isinstance(label, int):
            first, before = self.spellings.setdefault(label, (text, where))
            if first != text:
                raise UsageError(
                    f"{self.name}: the labels '{first}' ({before}) and '{text}' ({where}) are one "
                    "number: expected one way to write it (or, for names, a column class)"
                )
        return label

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
        """The normalized path; absolute paths inside the manifest's folder become relative."""
        if "://" in text:
            raise UsageError(
                f"{self.name}: '{text}' ({where}) is an address: expected a file on this machine "
                "(download the images first)"
            )
        path = os.path.normpath(text)
        # Behind a link to a folder, `..` is the parent of what it leads to; `base` is no link.
        if "/.." in text.lstrip("./"):
            real = os.path.realpath(self.base / text)
            if os.path.realpath(self.base / path) != real:
                path = real if os.path.isabs(text) else os.path.relpath(real, self.base)
        if os.path.isabs(path):
            base = os.path.abspath(self.base)
            inside = os.path.commonpath([base, path]) == base
            path = os.path.relpath(path, base) if inside else path
        return path.replace(os.sep, "/")
