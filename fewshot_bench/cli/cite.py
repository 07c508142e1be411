"""`fsbench cite`: BibTeX of what a table used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fewshot_bench.api import method_code
from fewshot_bench.cli.completion import backbones, datasets, methods, one_of
from fewshot_bench.cli.filters import choose_records, say_notes
from fewshot_bench.cli.options import filter_options, output_option, store_option
from fewshot_bench.cli.output import refuse_kept, write_text
from fewshot_bench.cli.panels import PanelCommand
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.text import option_name, printable_lines

if TYPE_CHECKING:
    from fewshot_bench.analysis.citations import Citations


@click.command("cite", cls=PanelCommand, short_help="Print BibTeX of the papers that a table used.")
@click.argument(
    "names",
    nargs=-1,
    metavar="[STORE | NAME...]",
    shell_complete=one_of(methods, datasets, backbones),
)
@store_option()
@output_option("Write the entries to this file.")
@filter_options
def command(
    names: tuple[str, ...], store: Path, output: Path | None, **filters: str | None
) -> None:
    """Print BibTeX of the methods, data sets, backbones and this tool that a table used.

    Without names: of the records that the filters choose. NAME is a method (also FILE.py:CLASS), a
    suite, a data set or a backbone. Names without a paper go to stderr.
    """
    from fewshot_bench.analysis.citations import of_records

    if output is not None:
        refuse_kept(output, "--output")
    folders = [name for name in names if not _look_up(name) and Path(name).is_dir()]
    if folders and len(names) > 1:
        raise UsageError(f"'{folders[0]}' is a folder: cite one store, or names")
    if names and not folders:
        given = [option_name(name) for name, value in filters.items() if value]
        if given:
            raise UsageError(f"{given[0]} chooses records of a store; leave it out beside names")
        citations = _cite(names)
    else:
        records, notes, _ = choose_records(Store(Path(folders[0]) if folders else store), filters)
        say_notes(notes)
        citations = of_records(records)
    say_notes(citations.notes)
    write_text(output, printable_lines(citations.text))


def _look_up(name: str) -> tuple[str, Sequence[str]] | None:
    """The kind and the members of a registered name or suite, or of a class in a file."""
    from fewshot_bench.api.registry import registry

    plugins = registry()
    if name in plugins.methods.entries or method_code.is_meant(name):
        return "method", [name]
    if plugins.dataset_entry(name) is not None:
        return "data set", [name]
    if name in plugins.backbones.entries:
        return "backbone", [name]
    for kind, catalog in (("method", plugins.methods), ("data set", plugins.datasets)):
        if name in (suites := catalog.suites()):
            return kind, suites[name]
    return None


def _cite(names: Sequence[str]) -> Citations:
    """The works to cite for names; UsageError for an unknown one."""
    from fewshot_bench.analysis.citations import of_names, papers_of_backbone
    from fewshot_bench.api.defaults import full_name
    from fewshot_bench.api.registry import registry

    names_by_kind: dict[str, list[str]] = {"method": [], "data set": [], "backbone": []}
    for name in names:
        if registered := _look_up(name):
            kind, members = registered
            names_by_kind[kind] += members
        elif papers_of_backbone(weights := full_name(name)):
            names_by_kind["backbone"].append(weights)
        else:
            catalogs = registry().catalogs[: len(names_by_kind)]
            for catalog in catalogs:
                catalog.refuse_conflict(name)
            every = [name for catalog in catalogs for name in catalog.entries]
            step = "fsbench list methods, datasets or backbones"
            raise unknown("method, data set, backbone or store", name, every, step)
    return of_names(*names_by_kind.values())
