"""`fsbench paper`: all tables and figures of a paper from one recipe.

Each file is replaced only if its content changes, and then whole; what changed is said.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.cli import figure
from fewshot_bench.cli.filters import list_records, pick_filters, refuse_file, say_notes
from fewshot_bench.cli.needed import Needed
from fewshot_bench.cli.options import PATH
from fewshot_bench.cli.output import refuse_kept, say
from fewshot_bench.cli.panels import PanelCommand, option
from fewshot_bench.cli.recipe import WHOLE, Item, read_recipe
from fewshot_bench.cli.working import working
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.files import write_whole
from fewshot_bench.utils.locks import exclusive
from fewshot_bench.utils.text import counted, printable

if TYPE_CHECKING:
    from fewshot_bench.analysis.table.table import Table
    from fewshot_bench.api.record import Record

_EXAMPLES = Path(__file__).with_name("recipes")
EXAMPLES = ("clip-lora",)
# The folder of the numbers, and the file that includes everything.
DATA, ALL = "data", f"{WHOLE}.tex"
# Changes that are spelled out; floats after which a page begins, since LaTeX holds few.
_SHOWN, _HELD = 3, 10
# A package in the first lines of a table in LaTeX, which are comments.
_PACKAGE = re.compile(r"(?<=[ ,])\\usepackage(?:\[[^]]*\])?\{[^}]*\}")


@click.command(
    "paper", cls=PanelCommand, short_help="Write all tables and figures of a paper from a recipe."
)
@click.argument("store", type=PATH, required=False)
@option("--recipe", type=PATH, metavar="FILE", help="The tables and figures: a .toml file.")
@option(
    *("-O", "--output", "folder"),
    type=PATH,
    default="paper",
    show_default=True,
    metavar="DIR",
    help="Folder of the files.",
)
@option("--dry-run", is_flag=True, help="Say which cells are missing, and how to run them.")
@option("--strict", is_flag=True, help="Exit with 1 if any cell is missing.")
@option(
    "--example", type=click.Choice(EXAMPLES), help="Print a recipe to begin with, and do no more."
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    store: Path | None,
    recipe: Path | None,
    folder: Path,
    dry_run: bool,
    strict: bool,
    example: str | None,
) -> None:
    """Write all tables and figures of a paper from the records of STORE.

    \b
    fsbench paper --example clip-lora > recipe.toml
    fsbench paper STORE --recipe recipe.toml --dry-run    # cells that are needed, commands to run
    fsbench paper STORE --recipe recipe.toml -O paper     # again: writes only what has changed
    """
    if example is not None:
        path = _EXAMPLES / f"{example}.toml"
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    if store is None or recipe is None:
        raise UsageError(
            "expected a store and a recipe: fsbench paper STORE --recipe recipe.toml "
            "(fsbench paper --example clip-lora prints a recipe)"
        )
    items = read_recipe(recipe)
    needed = _needed(store, items)
    if dry_run:
        for what, count in needed.cells.items():
            say(f"{what}: {counted(count, 'cell')}")
        say_notes(needed.unknown)
        for line in needed.wrong:
            click.echo(f"error: {printable(line)}", err=True)
        left = _say_missing(needed, str(store), [])
        ctx.exit(1 if needed.wrong or (strict and left) else 0)
    refuse_kept(folder / ALL, "--output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder, "paper", lambda: say(f"waiting for another run in {folder}")):
            made = [_make(item, store, folder) for item in _fit(items, needed)]
            _write(folder / ALL, _whole(made), "")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(
            f"cannot write to '{folder}': {error.strerror}; choose another folder with --output"
        ) from error
    unplanned = [line for one in made if one.item.what not in needed.cells for line in one.commands]
    left = _say_missing(needed, str(store), unplanned)
    ctx.exit(1 if any(one.failure for one in made) or (strict and left) else 0)


def _needed(store: Path, items: Sequence[Item]) -> Needed:
    """The cells of all items."""
    refuse_file(store)
    needed = Needed(list_records(Store(store)) if store.exists() else [])
    with working("paper", "looking for cells"):
        for item in items:
            needed.add(item.what, item.parse(item.words_for(Path())).params)
    return needed


def _fit(items: Sequence[Item], needed: Needed) -> Iterator[Item]:
    """The items without new names, groups, `ours` and baselines of what they lack.

    So defaults are written once. Names that nothing has are refused: the store, an item, a plug-in.
    """
    from fewshot_bench.analysis.filters import split_list
    from fewshot_bench.analysis.lending import allow
    from fewshot_bench.api.registry import registry

    parsed = {item.name: item.parse(item.words_for(Path())).params for item in items}
    known = _names(needed.records) | {*registry().methods.names(), *registry().datasets.names()}
    for values in parsed.values():
        known |= {n for key in ("method", "dataset") for n in split_list(values[key] or "", ())}
    for item in items:
        try:
            own, _ = allow(needed.records, pick_filters(parsed[item.name]))
        except UsageError:
            own = []
        yield item.without(known - _names(own))


def _names(records: Sequence[Record]) -> set[str]:
    """The names of the methods and data sets of some records."""
    from fewshot_bench.analysis.filters import dataset_names, method_names

    specs = [record.spec for record in records]
    return {name for spec in specs for name in (*method_names(spec), *dataset_names(spec))}


def _say_missing(needed: Needed, store: str, others: Sequence[str]) -> bool:
    """Print the commands for missing cells; True if there are some. others: further commands."""
    lines = list(dict.fromkeys([*needed.commands(store), *others]))
    if lines:
        count = counted(needed.count, "cell") if needed.missing else "cells"
        say(f"{count} missing, which these commands run:")
    for line in lines:
        say(line)
    return bool(lines)


@dataclass(frozen=True)
class Made:
    """The outcome of an item. failure: the reason if it was not made; packages: of its LaTeX."""

    item: Item
    failure: str = ""
    commands: Sequence[str] = ()
    packages: Sequence[str] = ()


def _make(item: Item, store: Path, folder: Path) -> Made:
    """Make an item and write what has changed; an item that cannot be made keeps its old files."""
    try:
        return (_make_table if item.kind == "table" else _make_figure)(item, store, folder)
    except FsbenchError as error:
        say(f"{item.name}: not made: {error}")
        return Made(item, str(error))


def _make_table(item: Item, store: Path, folder: Path) -> Made:
    texts: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as place:
        for form in item.formats:
            path = item.path(Path(place), form)
            words = [*item.words_for(store, form), "--format", form, "-O", str(path)]
            made = _run(item, words)
            texts[form] = path.read_bytes()
    tables: list[Table] = [part.value[0] for part in made if part.value is not None]
    change = _write_numbers(item, folder, [row for table in tables for row in _rows(table)])
    for form, content in texts.items():
        _write(item.path(folder, form), content, change)
    commands = [line for table in tables for line in table.commands]
    packages = _PACKAGE.findall(texts.get("latex", b"").decode())
    return Made(item, commands=commands, packages=packages)


def _make_figure(item: Item, store: Path, folder: Path) -> Made:
    with item.parse(item.words_for(store)) as ctx:
        values = {
            name: value for name, value in ctx.params.items() if name not in ("output", "data")
        }
        with _prefix(item):
            drawing = figure.make(**values)
    change = _write_numbers(item, folder, drawing.rows)
    for form in item.formats:
        path = item.path(folder, form)
        if path.is_file() and drawing.digest.encode() in path.read_bytes():
            say(f"{path}: unchanged")
            continue
        with _prefix(item):
            content = figure.content_of(drawing, path)
        _write(path, content, change)
    return Made(item, commands=drawing.table.commands)


def _run(item: Item, words: list[str]) -> Any:
    """Run the command of an item; what it says goes to stderr behind its name."""
    with item.parse(words) as ctx, _prefix(item):
        return item.command.invoke(ctx)


@contextlib.contextmanager
def _prefix(item: Item) -> Iterator[None]:
    """Put lines that are said on stderr within behind the name of the item, each once."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    finally:
        for line in dict.fromkeys(said.getvalue().splitlines()):
            click.echo(f"{item.name}: {line}", err=True)


def _rows(table: Table) -> Iterator[dict[str, Any]]:
    """The numbers of a table as rows, as figures have them."""
    from fewshot_bench.analysis.figures.drawing import row_of

    for group in table.groups:
        for row in table.rows:
            for cell in table.line(group, row):
                if cell.expected:
                    yield row_of(table, cell, "interval")


def _write_numbers(item: Item, folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the numbers of an item; returns which have changed in words, empty if none has."""
    from fewshot_bench.analysis.formats.tidy import write_csv

    path, text = folder / DATA / f"{item.name}.csv", write_csv(rows, ())
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    _write(path, text.encode(), "", quiet=True)
    if before is None:
        return ""
    old, new = _numbers(before), _numbers(text)
    changes = [
        f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}"
        for name in dict.fromkeys((*new, *old))
        if old.get(name) != new.get(name)
    ]
    if not changes:
        return "no number, other text or style"
    more = f", and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return f"{counted(len(changes), 'number')}: {'; '.join(changes[:_SHOWN])}{more}"


def _numbers(text: str) -> dict[str, str]:
    """The means in the data of an item, by what they are of."""
    numbers = {}
    for row in csv.DictReader(io.StringIO(text)):
        head = f"{row['method']} on {row['dataset']}, {row['shots']}-shot"
        others = [f"{k[7:]} {v}" for k, v in row.items() if k.startswith("option_")]
        name = ", ".join([head, *others])
        numbers[name] = row["mean"]
    return {name: mean for name, mean in numbers.items() if mean}


def _write(path: Path, content: bytes, change: str, *, quiet: bool = False) -> None:
    """Replace a file if its content is another, and say so. change: what has changed, in words."""
    if path.is_file() and path.read_bytes() == content:
        state = "unchanged"
    else:
        state = f"changed: {change or 'text'}" if path.exists() else "written"
        write_whole(path, content)
    if not quiet:
        say(f"{path}: {state}")


def _whole(made: Sequence[Made]) -> bytes:
    """A document with all tables and figures that have a file which LaTeX can include."""
    from fewshot_bench.analysis.formats.latex import escape

    packages = dict.fromkeys(package for one in made for package in one.packages)
    lines = [
        "% All tables and figures of the recipe, to look at: pdflatex paper.tex",
        r"\documentclass{article}",
        r"\usepackage[a4paper,margin=14mm]{geometry}",
        r"\usepackage{graphicx}",
        *packages,
        r"\begin{document}",
    ]
    for number, item in enumerate(one.item for one in made if not one.failure):
        lines += [r"\clearpage"] if number and number % _HELD == 0 else []
        if item.kind == "table" and "latex" in item.formats:
            lines.append(rf"\input{{{item.name}.tex}}")
        form = next((form for form in ("pdf", "png") if form in item.formats), "")
        if item.kind == "figure" and form:
            caption = escape(str(item.keys.get("caption", item.name)))
            label = str(item.keys.get("label", f"fig:{item.name}"))
            lines += [
                r"\begin{figure}[htbp]",
                r"\centering",
                rf"\includegraphics{{{item.name}.{form}}}",
                rf"\caption{{{caption}}}",
                rf"\label{{{label}}}",
                r"\end{figure}",
            ]
    return "\n".join([*lines, r"\end{document}", ""]).encode()
