"""What a published table needs, in a few lines, in place of one without any number of ours."""

from __future__ import annotations

from collections.abc import Sequence

from fewshot_bench.analysis.formats.document import Document, Item, Section
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.reproduce.build import NOT_USED, no_data
from fewshot_bench.plugins.reproduce.cells import Cell, Wanted, run_of
from fewshot_bench.plugins.reproduce.judge import Report
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.text import counted

_SOURCES = 2


def has_results(report: Report) -> bool:
    """False if the store says nothing about any number of the table."""
    return any(line.status not in ("missing", "not shipped") for line in report.lines)


def document(report: Report, cells: Sequence[Cell], wanted: Wanted, command: str) -> Document:
    """The sources, the runs, the missing data sets and the commands; command: of the whole call."""
    methods = dict.fromkeys(cell.setting.method for cell in cells)
    sets = list(dict.fromkeys(cell.number.dataset for cell in cells))
    shots = sorted({cell.shots for cell in cells})
    hidden = len(report.sources) - _SOURCES
    lacking = lacking_data(sets)
    texts = [
        f"{report.name}: {report.title}",
        *(f"source: {source}" for source in report.sources[:_SOURCES]),
        *([f"and {counted(hidden, 'more source')} (--full)"] if hidden > 0 else []),
        f"no results yet: the store has none of {counted(runs(cells, wanted), 'run')}",
        f"{counted(len(methods), 'method')}: {', '.join(methods)}",
        f"{counted(len(sets), 'data set')}, {','.join(map(str, shots))} shots, "
        f"{report.conditions[0]}",
        no_data(lacking) if lacking else "the data of all data sets are there",
        *(note for note in report.notes if note.startswith(NOT_USED)),
    ]
    steps = [
        f"to run what the data sets allow: {command}",
        f"what that takes: {command} --dry-run",
        "every number, the conditions of each row, what differs from the paper: "
        f"{command} --only-existing --full",
    ]
    items = [*map(Item, texts), *(Item(step, step=True) for step in steps)]
    return Document((Section(items=items),))


def runs(cells: Sequence[Cell], wanted: Wanted) -> int:
    """The number of runs that the cells need: rows of several sources share some."""
    found = {run_of(cell): cell.setting.random for cell in cells if cell.variant}
    return sum(len(wanted.seeds) if random else 1 for random in found.values())


def lacking_data(names: Sequence[str]) -> list[str]:
    """The data sets whose images are not there."""
    found = []
    for name in names:
        try:
            registry().dataset(name).items()
        except DataMissingError:
            found.append(name)
    return found
