"""The flat table of records, one row each, for people's own queries: `fsbench store export`.

columns_of(records, ("dataset", "top1"))   # {"dataset": ["dtd", "pets"], "top1": [71.2, 88.0]}
write_table(columns_of(records), Path("results.parquet"))
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from fewshot_bench.api.column_names import ENTRIES
from fewshot_bench.api.record import Record, encode_json
from fewshot_bench.api.spec import RunSpec, plain
from fewshot_bench.utils.errors import UsageError, require
from fewshot_bench.utils.files import whole

_OF_RECORD: Mapping[str, Callable[[Record], Any]] = {
    "key": lambda record: record.spec.key(),
    "label": lambda record: record.spec.label,
    "status": lambda record: record.status,
    "error": lambda record: (record.error or {}).get("message"),
    "curves": lambda record: record.curves or None,
}
_OF_SPEC = tuple(field.name for field in fields(RunSpec))
TABLE = "records"
ENDINGS = (".csv", ".parquet", ".sqlite")

Columns = dict[str, list[Any]]


def columns_of(records: Sequence[Record], names: Iterable[str] | None = None) -> Columns:
    """Values of the records by the name of the column; None where a record lacks one.

    names: default: all, with every metric that a record has. Objects and lists are JSON.
    """
    if names is None:
        metrics = dict.fromkeys(name for record in records for name in record.metrics)
        names = dict.fromkeys((*_OF_RECORD, *_OF_SPEC, *metrics, *ENTRIES))
    names = tuple(names)
    columns: Columns = {}
    for field in dict.fromkeys(ENTRIES[name][0] for name in names if name in ENTRIES):
        asked = [name for name in names if name in ENTRIES and ENTRIES[name][0] == field]
        lines = Record.entries(records, field, *(ENTRIES[name][1] for name in asked))
        columns |= zip(asked, map(list, zip(*lines, strict=True)), strict=True)
    for name in names:
        if name in _OF_RECORD:
            columns[name] = list(map(_OF_RECORD[name], records))
        elif name in _OF_SPEC:
            columns[name] = list(map(attrgetter(name), (record.spec for record in records)))
        elif name not in ENTRIES:
            columns[name] = [record.metrics.get(name) for record in records]
    return {name: _flatten(columns.get(name, [])) for name in names}


def _flatten(values: list[Any]) -> list[Any]:
    values = [plain(value) for value in values]
    if any(isinstance(value, Mapping | list) for value in values):
        return [value if value is None else encode_json(value).decode() for value in values]
    if len({isinstance(value, str) for value in values if value is not None}) > 1:
        # Shots may be `all`.
        return [value if value is None else str(value) for value in values]
    return values


def write_table(columns: Columns, path: Path) -> None:
    """Write a table in the format of the file's ending; UsageError for another ending."""
    import pandas as pd

    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"'{path}': expected a name that ends with {', '.join(ENDINGS)}")
    if ending == ".parquet":
        require("pyarrow", "parquet", "a parquet file", "name a .csv or .sqlite file")
    frame = pd.DataFrame(columns, dtype=object)
    try:
        with whole(path) as temporary:
            if ending == ".csv":
                frame.to_csv(temporary, index=False, lineterminator="\n", errors="backslashreplace")
            elif ending == ".parquet":
                frame.to_parquet(temporary, engine="pyarrow", index=False)
            else:
                with closing(sqlite3.connect(temporary)) as connection, connection:
                    frame.to_sql(TABLE, connection, index=False)
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror or error}") from None
