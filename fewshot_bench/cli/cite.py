"""`fsbench cite`: BibTeX of what a table used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fewshot_bench.api import method_files
from fewshot_bench.cli.completion import backbones, datasets, methods, one_of
from fewshot_bench.cli.filters import chosen_of, filter_options
from fewshot_bench.cli.options import output_option, store_option
from fewshot_bench.cli.output import refuse_kept, write_text
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.text import option_name, printable, printable_lines

if TYPE_CHECKING:
    from fewshot_bench.analysis.citations import Citations


@click.command("cite", short_help="Print BibTeX of the papers that a table used.")
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
    folder = _folder_among(names)
    if names and folder is None:
        given = [option_name(name) for name, value in filters.items() if value]
        if given:
            raise UsageError(f"{given[0]} chooses records of a store; leave it out beside names")
        found = _of_names(names)
    else:
        records, notes, _ = chosen_of(Store(folder or store), filters)
        for text in notes:
            click.echo(f"note: {printable(text)}", err=True)
        found = of_records(records)
    for text in found.notes:
        click.echo(f"note: {printable(text)}", err=True)
    write_text(output, printable_lines(found.text))


def _folder_among(names: Sequence[str]) -> Path | None:
    """The store that is named; UsageError if it is not the only name."""
    folders = [name for name in names if not _kind(name) and Path(name).is_dir()]
    if folders and len(names) > 1:
        raise UsageError(f"'{folders[0]}' is a folder: cite one store, or names")
    return Path(folders[0]) if folders else None


def _kind(name: str) -> str:
    """What a name stands for; empty if it is not known."""
    from fewshot_bench.api.registry import registry
    from fewshot_bench.backbones.papers import papers_of_weights

    known = registry()
    if name in known.methods.entries or method_files.is_meant(name):
        return "method"
    if name in known.methods.suites():
        return "suite of methods"
    if known.dataset_entry(name) is not None:
        return "data set"
    if name in known.datasets.suites():
        return "suite of data sets"
    if name in known.backbones.entries or papers_of_weights(name):
        return "backbone"
    return ""


def _of_names(names: Sequence[str]) -> Citations:
    """What to cite for names; UsageError for an unknown one."""
    from fewshot_bench.analysis.citations import of_names
    from fewshot_bench.api.registry import registry

    known = registry()
    found: dict[str, list[str]] = {"method": [], "data set": [], "backbone": []}
    for name in names:
        kind = _kind(name)
        if not kind:
            for catalog in known.catalogs:
                catalog.refuse_conflict(name)
            every = [name for catalog in known.catalogs[:3] for name in catalog.entries]
            step = "fsbench list methods, datasets or backbones"
            raise unknown("method, data set, backbone or store", name, every, step)
        suites = known.methods.suites() | known.datasets.suites()
        listed = suites[name] if kind.startswith("suite") else [name]
        found[kind.removeprefix("suite of ").removesuffix("s")] += listed
    return of_names(found["method"], found["data set"], found["backbone"])
