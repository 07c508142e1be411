"""Checks of the files in a local folder that `hf:PATH` reads.

The package `datasets` reads all files under the columns of the first one: `check_classnames`
refuses files whose own class names are others. `empty_splits` finds splits saved without rows.
`is_older` finds copies in the cache of `datasets` whose files have changed since.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fewshot_bench import UsageError
from fsbench_datasets.disk import is_image

STATE = "state.json"
# The endings under which `datasets` reads a file as Parquet.
PARQUET = (".parquet", ".geoparquet", ".gpq")


@dataclass(frozen=True)
class _Names:
    """The class names by label in the label column of one file, None if it has none.

    by_number: the labels are whole numbers.
    """

    file: str
    names: tuple[str, ...] | None
    by_number: bool


def check_classnames(
    name: str,
    package: Any,
    folder: Path,
    splits: Iterable[str],
    label: str,
    classnames: Sequence[str] | None,
) -> None:
    """UsageError unless the files' own class names are those under which their labels were read.

    splits: names of the splits that are used; label: the label column; classnames: by label, None
    if the column has none.
    """
    given = package.load_dataset_builder(str(folder)).config.data_files or {}
    every = {split: list(_name(package, folder, given[split], label)) for split in given}
    own = [names for split in splits for names in every.get(split, ()) if names.by_number]
    # Without any names of their own, the labels of all files are read under declared ones.
    if all(names.names is None for names in own):
        return
    read = None if classnames is None else tuple(classnames)
    alike = (other.file for files in every.values() for other in files if other.names == read)
    as_read = _Names(next(alike, "the data set's description"), read, True)
    for names in own:
        if names.names != read:
            raise UsageError(
                f"{name}: {_difference(names, as_read)}: expected the same class names in the same "
                "order in all files (give every split one ClassLabel before to_parquet, or save "
                "the names as text)"
            )


def _difference(first: _Names, second: _Names) -> str:
    """The first label with two meanings, or the files with and without class names."""
    if first.names is None or second.names is None:
        bare, named = (first, second) if first.names is None else (second, first)
        return f"{bare.file} has labels without class names, {named.file} has class names"
    pairs = enumerate(zip_longest(first.names, second.names))
    label, texts = next((label, both) for label, both in pairs if both[0] != both[1])
    mine, theirs = ("no class" if text is None else f"'{text}'" for text in texts)
    return f"label {label} is {mine} in {first.file} and {theirs} in {second.file}"


def _name(package: Any, folder: Path, files: Iterable[str], label: str) -> Iterator[_Names]:
    for file in files:
        schema = _schema(file)
        if schema is not None and label in schema.names:
            feature = package.Features.from_arrow_schema(schema)[label]
            names = getattr(feature, "names", None)
            by_number = "int" in str(schema.field(label).type)
            shown = os.path.relpath(file, os.path.realpath(folder))
            outside = shown.startswith(os.pardir)
            named = None if names is None else tuple(names)
            yield _Names(file if outside else shown, named, by_number)


def _schema(file: str) -> Any:
    """The columns of a Parquet or Arrow file; None for a file of another kind."""
    if file.endswith(PARQUET):
        return importlib.import_module("pyarrow.parquet").read_schema(file)
    if not file.endswith(".arrow"):
        return None
    ipc = importlib.import_module("pyarrow").ipc
    # The two formats of Arrow files; the stream has no mark by which to recognize it.
    for opened in (ipc.open_stream, ipc.open_file):
        with suppress(OSError, ValueError), open(file, "rb") as content:
            return opened(content).schema
    return None


def empty_splits(folder: Path) -> list[str]:
    """The folders of a saved set that were written without rows, which `datasets` cannot load."""
    empty = []
    for state in (folder / STATE, *sorted(folder.glob(f"*/{STATE}"))):
        with suppress(OSError, ValueError, RecursionError):
            content = json.loads(state.read_text("utf-8"))
            if isinstance(content, Mapping) and content.get("_data_files") == []:
                empty.append(state.parent.name)
    return empty


def last_change(folder: Path) -> int:
    """The latest change of the files of a folder, in nanoseconds.

    `datasets` copies tables into its cache and knows a file by path and time of change alone. The
    time of status change also shows a file that was replaced by one with the same time. Images in
    files of their own are not copied.
    """
    return max(_changes(folder), default=0)


def is_older(loaded: Mapping[str, Any], change: int) -> bool:
    """True if the splits that were loaded from a folder were copied before a change of its files.

    True also if nothing was copied to a file.
    """
    return min((os.stat(copy).st_mtime_ns for copy in _copies(loaded)), default=0) <= change


def date(loaded: Mapping[str, Any], change: int) -> None:
    """Date new copies after the change: the clock of the folder's file system may be ahead."""
    for copy in _copies(loaded):
        if os.stat(copy).st_mtime_ns <= change:
            os.utime(copy, ns=(change + 1, change + 1))


def _copies(loaded: Mapping[str, Any]) -> list[str]:
    return [file["filename"] for rows in loaded.values() for file in rows.cache_files]


def _changes(folder: Path) -> Iterator[int]:
    """The times of status change of a folder, the visible ones below it, and their tables."""
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        tables = [name for name in files if name[0] != "." and not is_image(name)]
        for path in (here, *(os.path.join(here, name) for name in tables)):
            with suppress(OSError):
                yield os.stat(path).st_ctime_ns
