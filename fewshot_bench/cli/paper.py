"""Options of `fsbench compare` that make its tables and figures those of a paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fewshot_bench.analysis.table.figure import FORMATS
from fewshot_bench.cli.output import drawn, terminal_style, write_bytes
from fewshot_bench.cli.predictions import check_file
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.extras import require

if TYPE_CHECKING:
    from fewshot_bench.analysis.table.model import Table

Command = TypeVar("Command", bound=Callable[..., Any])
LAYOUTS = ("groups", "paper")
# What LaTeX takes as the name of a label without any escape.
_LABEL = re.compile(r"[A-Za-z0-9:._/+-]+")
_FILE: Any = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--layout",
        type=click.Choice(LAYOUTS),
        default="groups",
        show_default=True,
        help="groups: a table per data set. paper: methods x data sets, a table per shots.",
    ),
    click.option("--caption", metavar="TEXT", help="Caption of --layout paper."),
    click.option("--label", metavar="NAME", help="LaTeX label of --layout paper: tab:main."),
    click.option(
        "--rename",
        multiple=True,
        metavar="OLD=NEW",
        help="Show a method, row, data set or average under another name.",
    ),
    click.option(
        "--figure",
        type=_FILE,
        metavar="FILE",
        help="Also draw curves over shots, a panel per data set: .pdf, .svg, .png.",
    ),
    click.option(
        "--predictions",
        type=_FILE,
        metavar="FILE",
        help="Also write every method's prediction per test image: .csv, .parquet.",
    ),
)


def paper_options(command: Command) -> Command:
    """Add all of them to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Paper:
    """The layout of papers, if it was asked for."""

    asked: bool
    label: str
    caption: str

    def check(self, form: str, others: Mapping[str, object]) -> None:
        """UsageError for options that do not go together, before anything is read."""
        for name, text in (("label", self.label), ("caption", self.caption)):
            if text and not self.asked:
                raise UsageError(f"--{name} belongs to --layout paper: add it, or leave this out")
        if self.label and form != "latex":
            raise UsageError("--label is LaTeX's: add --format latex, or leave it out")
        if self.label and not _LABEL.fullmatch(self.label):
            raise UsageError(
                f"--label '{self.label}': expected letters, digits and :._/+- alone (tab:main)"
            )
        if self.caption and form in ("csv", "json"):
            raise UsageError(f"--caption: {form} has none; leave it out or choose another --format")
        if self.asked and form == "json":
            raise UsageError("--layout paper has no json, which holds all numbers; leave it out")
        for name, given in others.items():
            if self.asked and given:
                raise UsageError(f"--layout paper has no room for --{name}; leave one of them out")

    def render(self, table: Table, form: str, output: Path | None) -> str:
        """The table in this layout."""
        from fewshot_bench.analysis.formats import latex, render
        from fewshot_bench.analysis.table.paper import document

        shown = document(table, form, self.caption)
        if form == "latex":
            return latex.write_paper(shown, label=self.label, caption=self.caption)
        return render(shown, form, **terminal_style(output))


def check_figure(path: Path | None, per_class: bool) -> None:
    """UsageError for a file that cannot be drawn to, before anything is read."""
    if path is None:
        return
    check_file("--figure", path, FORMATS)
    require("matplotlib", "report", "--figure")
    if per_class:
        raise UsageError("--figure draws accuracy over shots; leave --per-class out")


def write_figure(path: Path, table: Table) -> None:
    """Draw the file, and say on stderr what is in it."""
    from fewshot_bench.analysis.table.figure import draw, panels

    count = len(panels(table))
    if not count:
        raise UsageError(f"--figure: no record here has the metric {table.metric} to draw")
    suffix = path.suffix.lower()
    write_bytes(path, drawn(lambda: draw(table, suffix[1:]), suffix))
    click.echo(f"{path}: {count} {'panel' if count == 1 else 'panels'}", err=True)
