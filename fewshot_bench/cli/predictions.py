"""`fsbench compare --predictions`: a file of what every method predicted, image by image."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.cli.output import replaced
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.extras import require

if TYPE_CHECKING:
    from fewshot_bench.analysis.table.model import Table
    from fewshot_bench.api.record import Record
    from fewshot_bench.store.predictions import Outcomes

ENDINGS = (".csv", ".parquet")
Block = Mapping[str, list[Any]]


def check_predictions(path: Path | None) -> None:
    """UsageError for a file that cannot be written, before anything is read."""
    if path is None:
        return
    check_file("--predictions", path, ENDINGS)
    if path.suffix.lower() == ".parquet":
        _parquet()


def check_file(option: str, path: Path, endings: Sequence[str]) -> None:
    """UsageError unless the file has one of these endings and a folder that is there."""
    if path.suffix.lower() not in endings:
        raise UsageError(f"{option} '{path}': expected a name that ends in {', '.join(endings)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{option} '{path}': expected a file in a folder that is there")


def write_predictions(
    path: Path, table: Table, records: Sequence[Record], outcomes: Outcomes
) -> None:
    """Write the file, and say on stderr what is in it."""
    from fewshot_bench.analysis.table.predictions import Predictions

    outcomes.prepare(records)
    found = Predictions(table, outcomes)
    blocks = found.blocks(records)
    first = next(blocks, None)
    if first is None:
        raise UsageError(
            "--predictions: no finished record here has logits that can be used; run the cells "
            "again to have them"
        )
    with replaced(path, "--predictions") as temporary:
        write = _write_csv if path.suffix.lower() == ".csv" else _write_parquet
        rows = write(temporary, found.columns, _chained(first, blocks))
    counts = (len(table.rows), "method"), (len(found.datasets), "data set"), (found.cells, "cell")
    parts = ", ".join(_counted(*pair) for pair in counts)
    click.echo(f"{path}: {rows:,} rows of predictions, {parts}", err=True)
    if found.absent:
        absent = _counted(found.absent, "finished record")
        click.echo(f"warning: {absent} without logits that can be used left out", err=True)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _chained(first: Block, others: Iterator[Block]) -> Iterator[Block]:
    yield first
    yield from others


def _write_csv(path: Path, columns: Mapping[str, type], blocks: Iterable[Block]) -> int:
    from fewshot_bench.analysis.formats.tidy import field

    rows = 0
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(field, columns))
        for block in blocks:
            for line in zip(*(block[name] for name in columns), strict=True):
                writer.writerow(map(field, line))
                rows += 1
    return rows


def _write_parquet(path: Path, columns: Mapping[str, type], blocks: Iterable[Block]) -> int:
    arrow, parquet = _parquet()
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    schema = arrow.schema([(_clean(name), kinds[kind]) for name, kind in columns.items()])
    rows = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for block in blocks:
            values = [[_clean(v) if isinstance(v, str) else v for v in block[n]] for n in columns]
            made = arrow.table(
                [arrow.array(v, part.type) for v, part in zip(values, schema, strict=True)],
                schema=schema,
            )
            writer.write_table(made)
            rows += len(values[0])
    return rows


def _clean(text: str) -> str:
    """Text that is UTF-8: file names need not be."""
    return text.encode("utf-8", "backslashreplace").decode()


def _parquet() -> tuple[Any, Any]:
    what = "--predictions to .parquet"
    needed = ("pyarrow", "pyarrow.parquet")
    first, second = (require(name, "parquet", what, "name a .csv file") for name in needed)
    return first, second
