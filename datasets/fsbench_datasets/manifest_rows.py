"""Manifest files as records: CSV, TSV, JSON lines, JSON and Parquet, each with its place."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fewshot_bench import DataMissingError, UsageError

Record = tuple[str, Mapping[str, Any]]
NEEDS_PARQUET = "pip install 'fewshot-bench[parquet]'"


def read_records(path: Path) -> list[Record]:
    """Every record with where it stands ("line 7"); UsageError names what cannot be read."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"manifest {path}: expected a name that ends in {', '.join(_READERS)}, "
            f"got '{path.suffix}'"
        )
    return list(reader(path))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataMissingError(f"manifest {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(
            f"manifest {path}, line {line}: is not UTF-8 ({error.reason}); save it as UTF-8"
        ) from None


def _table(path: Path, delimiter: str) -> Iterator[Record]:
    """Rows of a table with a header; quoted fields may hold the delimiter and line breaks."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
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


def _csv(path: Path) -> Iterator[Record]:
    return _table(path, ",")


def _tsv(path: Path) -> Iterator[Record]:
    return _table(path, "\t")


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
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where or f"line {error.lineno}"
        raise UsageError(f"manifest {path}, {place}: is not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"manifest {path}: is not usable JSON: {error}") from None


def _object(path: Path, where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(
            f"manifest {path}, {where}: expected an object with path and label, got {value!r:.60}"
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
    """The columns of text and whole numbers; others would be read for nothing."""
    for field in schema:
        if field.name.casefold() == "image" and types.is_struct(field.type):
            raise UsageError(
                f"manifest {path}: the column '{field.name}' holds images, expected their paths; "
                "for images inside Parquet files use hf:FOLDER"
            )
    return [field.name for field in schema if _is_plain(types, field.type)]


def _is_plain(types: Any, kind: Any) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(
        check(kind)
        for check in (types.is_string, types.is_large_string, types.is_integer, types.is_boolean)
    )


_READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}
