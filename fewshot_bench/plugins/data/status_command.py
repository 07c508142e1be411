"""`fsbench data status`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal

import click

from fewshot_bench.api.dataset import DATA_VARIABLE, data_roots
from fewshot_bench.api.registry import registry
from fewshot_bench.cli.completion import datasets, several_of, suites
from fewshot_bench.cli.options import NAMES, format_option, kept_split_option
from fewshot_bench.cli.output import aligned, say, terminal_width
from fewshot_bench.cli.working import working
from fewshot_bench.plugins.data.checks import role_counts, slashed
from fewshot_bench.plugins.data.status import Status, status_of
from fewshot_bench.runner.isolation import contained
from fewshot_bench.utils.progress import over
from fewshot_bench.utils.text import color_system, printable, size_text

COLUMNS = ("data set", "state", "classes", "train/val/test", "size", "verified", "folder")
NUMBERS = frozenset(("classes", "size"))
FOLDED = frozenset(("data set", "verified", "folder"))
UNKNOWN = "-"
GAP = 2
# Columns of a terminal below which the table would break within words.
_NARROW = 110


@click.command("status", short_help="Show which data sets are there, and where.")
@click.argument(
    "names",
    metavar="[NAME[,NAME]|SUITE]...",
    type=NAMES,
    shell_complete=several_of(datasets, suites),
    nargs=-1,
)
@format_option(("terminal", "json"), "How to write it.")
@kept_split_option
@working("data status", live=False)
def command(names: tuple[tuple[str, ...], ...], form: str, store: Path) -> None:
    """Show which data sets are there, and where.

    Without names: every registered data set. No image is opened; fsbench data verify does that.
    """
    known = registry()
    everything = [name for name in known.datasets.entries if not name.endswith(":")]
    chosen = known.expand_datasets(chain.from_iterable(names)) if names else everything
    found = []
    for name in over(chosen, "data sets"):
        with contained():
            found.append(status_of(name, partial(known.dataset, store=store)))
    if form == "json":
        say(_as_json(found))
        return
    say(f"{_roots_line()}\n")
    _print_table([_row(status) for status in found])
    steps = _steps(found)
    if steps:
        say("\nnext steps:")
    for line in steps:
        say(f"  {' '.join(line.split())}")


def _roots_line() -> str:
    places = [f"{root}{_trouble(root)}" for root in data_roots()]
    value = os.environ.get(DATA_VARIABLE, "")
    if value:
        return f"{DATA_VARIABLE} is set: {', '.join(places)}"
    return f"{DATA_VARIABLE} is not set: data is looked for in {', '.join(places)}"


def _trouble(root: Path) -> str:
    """Why a data root cannot be listed, in parentheses; empty if it can."""
    try:
        os.scandir(root).close()
    except (FileNotFoundError, NotADirectoryError):
        return " (does not exist)"
    except OSError as error:
        return f" (cannot be read: {error.strerror})"
    return ""


def _steps(found: list[Status]) -> list[str]:
    """One line per data set that is not ready; two or more `plain` ones share one line."""
    plain = [status.name for status in found if status.plain]
    together = plain if len(plain) > 1 else []
    lines = [f"{s.name}: {s.step}" for s in found if s.step and s.name not in together]
    if together:
        lines.append(
            f"{', '.join(together)}: fsbench data prepare NAME fetches a set or says how to get it;"
            " fsbench data status NAME says where it is looked for"
        )
    return lines


def _row(status: Status) -> tuple[str, ...]:
    size = UNKNOWN if status.bytes is None else size_text(status.bytes)
    return (
        status.name,
        status.state,
        _classes(status),
        _counts(status),
        size,
        _verified(status),
        status.folder or UNKNOWN,
    )


def _classes(status: Status) -> str:
    found, expected = status.classes, status.expected_classes
    if expected is None or found == expected:
        return UNKNOWN if found is None else f"{found:,}"
    return f"{UNKNOWN if found is None else f'{found:,}'} of {expected:,}"


def _counts(status: Status) -> str:
    found = slashed(role_counts(status.counts)) if status.counts else UNKNOWN
    expected = slashed(role_counts(status.expected_counts)) if status.expected_counts else found
    return found if found == expected else f"{found} of {expected}"


def _verified(status: Status) -> str:
    verified = status.verified
    if verified is None:
        return "no"
    if not status.current:
        return f"changed since {verified.day}"
    return f"{verified.day}, differs" if verified.differs else verified.day


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print columns that fit the terminal; unwrapped lines if the output is piped."""
    if not sys.stdout.isatty():
        numbers = [place for place, name in enumerate(COLUMNS) if name in NUMBERS]
        for line in aligned([COLUMNS, *rows], numbers):
            say(line)
        return
    width = terminal_width()
    if width is not None and width < _NARROW:
        _print_stacked(rows, width)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for name in COLUMNS:
        justify: Literal["left", "right"] = "right" if name in NUMBERS else "left"
        width = len("2026-12-31,") if name == "verified" else None
        table.add_column(
            name, justify=justify, overflow="fold", no_wrap=name not in FOLDED, min_width=width
        )
    for row in rows:
        cells = zip(COLUMNS, map(printable, row), strict=True)
        table.add_row(*(Text(c if n in FOLDED else c.replace(" of ", "\nof ")) for n, c in cells))
    Console(color_system=color_system()).print(table)


def _print_stacked(rows: list[tuple[str, ...]], width: int) -> None:
    """Print the name of each data set, and its facts below, wrapped between words."""
    for name, *values in rows:
        known = [f"{head} {value}" for head, value in zip(COLUMNS[1:], values, strict=True)]
        say(name)
        text = ", ".join(known)
        for line in wrap(text, width - 2, break_long_words=False, break_on_hyphens=False):
            say(f"  {line}")


def _as_json(found: list[Status]) -> str:
    content: dict[str, Any] = {
        "variable": DATA_VARIABLE,
        "value": os.environ.get(DATA_VARIABLE) or None,
        "roots": [{"path": str(root), "exists": os.path.isdir(root)} for root in data_roots()],
        "datasets": [asdict(status) for status in found],
    }
    return json.dumps(content, indent=2)
