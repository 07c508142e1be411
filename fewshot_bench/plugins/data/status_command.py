"""`fsbench data status`."""

from __future__ import annotations

import json
import os
from functools import partial
from itertools import chain
from pathlib import Path
from textwrap import wrap
from typing import Any

import click
import msgspec

from fewshot_bench.api.dataset import DATA_VARIABLE, data_roots
from fewshot_bench.api.registry import registry
from fewshot_bench.cli.completion import datasets, several_of, suites
from fewshot_bench.cli.options import NAMES, format_option, kept_split_option
from fewshot_bench.cli.output import aligned, say, terminal_width
from fewshot_bench.cli.working import working
from fewshot_bench.plugins.data.checks import join_counts, role_counts
from fewshot_bench.plugins.data.status import Status, status_of
from fewshot_bench.runner.isolation import collect_output
from fewshot_bench.utils.progress import over
from fewshot_bench.utils.text import size_text

COLUMNS = ("data set", "state", "classes", "train/val/test", "size", "verified", "folder")
NUMBERS = frozenset(("classes", "size"))
UNKNOWN = "-"


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
    plugins = registry()
    everything = [name for name in plugins.datasets.entries if not name.endswith(":")]
    chosen = plugins.expand_datasets(chain.from_iterable(names)) if names else everything
    statuses = []
    for name in over(chosen, "data sets"):
        with collect_output():
            statuses.append(status_of(name, partial(plugins.dataset, store=store)))
    if form == "json":
        say(_as_json(statuses))
        return
    say(f"{_roots_line()}\n")
    _print_table([_row(status) for status in statuses])
    steps = _steps(statuses)
    if steps:
        say("\nnext steps:")
    for line in steps:
        say(f"  {' '.join(line.split())}")


def _roots_line() -> str:
    roots = ", ".join(f"{root}{_trouble(root)}" for root in data_roots())
    value = os.environ.get(DATA_VARIABLE, "")
    if value:
        return f"{DATA_VARIABLE} is set: {roots}"
    return f"{DATA_VARIABLE} is not set: data is looked for in {roots}"


def _trouble(root: Path) -> str:
    """Why a data root cannot be listed, in parentheses; empty if it can."""
    try:
        os.scandir(root).close()
    except (FileNotFoundError, NotADirectoryError):
        return " (does not exist)"
    except OSError as error:
        return f" (cannot be read: {error.strerror})"
    return ""


def _steps(statuses: list[Status]) -> list[str]:
    """One line per data set that is not ready; two or more `plain` ones share one line."""
    plain = [status.name for status in statuses if status.plain]
    together = plain if len(plain) > 1 else []
    lines = [f"{s.name}: {s.step}" for s in statuses if s.step and s.name not in together]
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
        _verification(status),
        status.folder or UNKNOWN,
    )


def _classes(status: Status) -> str:
    count, expected = status.classes, status.expected_classes
    text = UNKNOWN if count is None else f"{count:,}"
    return text if expected in (None, count) else f"{text} of {expected:,}"


def _counts(status: Status) -> str:
    counts = join_counts(role_counts(status.counts)) if status.counts else UNKNOWN
    expected = (
        join_counts(role_counts(status.expected_counts)) if status.expected_counts else counts
    )
    return counts if counts == expected else f"{counts} of {expected}"


def _verification(status: Status) -> str:
    verified = status.verified
    if verified is None:
        return "no"
    if not status.current:
        return f"changed since {verified.day}"
    return f"{verified.day}, differs" if verified.differs else verified.day


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print aligned columns; on a terminal that is too narrow, the facts below each name."""
    numbers = [index for index, name in enumerate(COLUMNS) if name in NUMBERS]
    lines = list(aligned([COLUMNS, *rows], numbers))
    width = terminal_width()
    if width is None or max(map(len, lines)) <= width:
        for line in lines:
            say(line)
        return
    for name, *values in rows:
        facts = [f"{head} {value}" for head, value in zip(COLUMNS[1:], values, strict=True)]
        say(name)
        text = ", ".join(facts)
        for line in wrap(text, width - 2, break_long_words=False, break_on_hyphens=False):
            say(f"  {line}")


def _as_json(statuses: list[Status]) -> str:
    content: dict[str, Any] = {
        "variable": DATA_VARIABLE,
        "value": os.environ.get(DATA_VARIABLE) or None,
        "roots": [{"path": str(root), "exists": os.path.isdir(root)} for root in data_roots()],
        "datasets": msgspec.to_builtins(statuses),
    }
    return json.dumps(content, indent=2)
