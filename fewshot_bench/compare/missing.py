"""In words: which cells are missing or failed, and the commands that would run them."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from fewshot_bench.compare.model import AVERAGE, Cell, Row, Seed, Table

_LISTED = 12


def _own_cells(table: Table) -> Iterator[Cell]:
    return (cell for cell in table.cells.values() if cell.dataset != AVERAGE and cell.expected)


def commands(table: Table, store: str) -> list[str]:
    """`fsbench run` commands that compute exactly the cells that do not exist."""
    return [
        _command(row, datasets, shots, seeds, store)
        for row in table.rows
        for datasets, shots, seeds in _blocks(table, row)
    ]


def _blocks(
    table: Table, row: Row
) -> Iterator[tuple[list[str], tuple[int, ...], tuple[Seed, ...]]]:
    """Missing cells of a row as products of data sets, shots and seeds."""
    per_dataset: defaultdict[tuple[str, tuple[Seed, ...]], list[int]] = defaultdict(list)
    for cell in _own_cells(table):
        if cell.row is row and cell.missing_seeds:
            per_dataset[cell.dataset, cell.missing_seeds].append(cell.shots)
    blocks: defaultdict[tuple[tuple[int, ...], tuple[Seed, ...]], list[str]] = defaultdict(list)
    for (dataset, seeds), shots in per_dataset.items():
        blocks[tuple(shots), seeds].append(dataset)
    for (shot_list, seeds), datasets in blocks.items():
        yield datasets, shot_list, seeds


def _command(
    row: Row, datasets: Sequence[str], shots: Sequence[int], seeds: Sequence[Seed], store: str
) -> str:
    spec = row.spec
    words = ["fsbench", "run", "--store", store, "--method", spec.method]
    for name in sorted(spec.overrides):
        words += ["-o", f"{name}={spec.overrides[name]}"]
    words += ["--dataset", ",".join(datasets), "--shots", _join(shots), "--seeds", _join(seeds)]
    for name in ("backbone", "protocol", "val", "prompts", "precision", "device"):
        words += [f"--{name}", getattr(spec, name)]
    if spec.limit is not None:
        words += ["--limit", str(spec.limit)]
    return shlex.join(words)


def _join(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def notes(table: Table) -> list[str]:
    """Footnotes, the gravest first."""
    return [
        *_marks(table),
        *_failures(table),
        *_holes(table),
        *_seeds(table),
        *_averages(table),
    ]


def _marks(table: Table) -> Iterator[str]:
    unfair = [row.label for row in table.rows if row.spec.val == "full"]
    if unfair:
        yield (
            f"unfair validation: {_some(unfair)} chose on the full validation set, "
            "many more labels than the shots"
        )
    for limit in sorted({row.spec.limit for row in table.rows if row.spec.limit is not None}):
        yield f"limited run: only {limit} queries per data set; not the data set's accuracy"
    if any(seed.split != seed.train for seed in table.seeds):
        yield (
            "seeds written a/b: split seed a, training seed b; the interval treats all runs as "
            "independent"
        )


def _failures(table: Table) -> Iterator[str]:
    failed = [cell for cell in _own_cells(table) if cell.failed]
    if failed:
        total = sum(cell.failed for cell in failed)
        parts = [f"{_where(cell)}: {cell.failed} x {', '.join(cell.errors)}" for cell in failed]
        yield f"{total} failed (!; run again with --retry-failed): {_some(parts, '; ')}"


def _holes(table: Table) -> Iterator[str]:
    absent = [cell for cell in _own_cells(table) if cell.status == "missing"]
    if absent:
        parts = [f"{_where(cell)}{': ' if cell.reason else ''}{cell.reason}" for cell in absent]
        yield f"{len(absent)} cells missing (—): {_some(parts, '; ')}"
    without = [_where(cell) for cell in table.cells.values() if _lacks_difference(table, cell)]
    if without:
        yield f"no difference, for want of identical splits with a result: {_some(without, '; ')}"


def _lacks_difference(table: Table, cell: Cell) -> bool:
    if table.baseline is None or cell.row.label == table.baseline or cell.dataset == AVERAGE:
        return False
    return cell.delta is None and table.metric in cell.estimates


def _seeds(table: Table) -> Iterator[str]:
    parts = []
    for cell in _own_cells(table):
        values = cell.series.get(table.metric, {})
        if values and len(values) < len(table.seeds):
            parts.append(f"{_where(cell)}: {_join(values)}")
    if parts:
        yield f"cells with other seeds than {_join(table.seeds)}: {_some(parts, '; ')}"


def _averages(table: Table) -> Iterator[str]:
    found = []
    for row in table.rows:
        reasons: defaultdict[str, list[int]] = defaultdict(list)
        for shots in table.shots:
            cell = table.cell(AVERAGE, row, shots)
            if cell.reason and cell.expected:
                reasons[cell.reason].append(shots)
        for reason, shots_list in reasons.items():
            found.append(f"no average of {row.label}, {_join(shots_list)}-shot: {reason}")
    yield from found[:_LISTED]
    if len(found) > _LISTED:
        yield f"{len(found) - _LISTED} more averages missing; reasons in --format json"


def _where(cell: Cell) -> str:
    return f"{cell.row.label} on {cell.dataset}, {cell.shots}-shot"


def _some(parts: Sequence[str], separator: str = ", ") -> str:
    more = len(parts) - _LISTED
    shown = separator.join(parts[:_LISTED])
    return f"{shown}{separator}and {more} more" if more > 0 else shown
