"""`fsbench store merge`."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.cli.store_options import FOUND, changing, counted, show, store_option

if TYPE_CHECKING:
    from fewshot_bench.store.store import Store

_PATH: Any = click.Path(path_type=Path)


@click.command("merge", short_help="Bring results of other stores, from other machines, together.")
@click.argument("sources", metavar="SOURCE...", type=_PATH, nargs=-1, required=True)
@store_option
@click.option("--dry-run", is_flag=True, help="Show what would be done; write nothing.")
def command(sources: tuple[Path, ...], folder: Path, dry_run: bool) -> None:
    """Bring the results of other stores into the one of --store, which is made if needed.

    What is absent is copied, and a finished cell takes the place of a failed or damaged one. Two
    different results of one cell are shown and left as they are. The exit code is 1 when there was
    such a conflict, or a file that cannot be used.
    """
    from fewshot_bench.store.merge import CONFLICT, UNUSABLE, check_sources
    from fewshot_bench.store.store import Store

    check_sources(sources, folder)
    store = Store(folder)
    with ExitStack() as stack:
        if not dry_run:
            store.create()
            stack.enter_context(changing(folder))
        found = sum((_merged(source, store, dry_run) for source in sources), Counter[str]())
    if found[CONFLICT]:
        click.echo(
            "conflicts were left as they are: to take the other result, rename the .json and .npz "
            "of the cell here and merge again"
        )
    if found[CONFLICT] or found[UNUSABLE]:
        raise click.exceptions.Exit(FOUND)


def _merged(source: Path, store: Store, dry_run: bool) -> Counter[str]:
    from fewshot_bench.store.merge import OUTCOMES, merge

    found: Counter[str] = Counter()
    for step in merge(source, store, dry_run=dry_run):
        found[step.outcome] += 1
        if step.lines:
            show(step.outcome, step.path, "; ".join(step.lines))
    said = "would be, as nothing is written: " if dry_run else ""
    click.echo(f"{source}: {said}{counted(found, OUTCOMES, 'nothing there')}")
    return found
