"""`fsbench store migrate`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from fewshot_bench.cli.store_options import FOUND, opened, show, store_option, waiting


@click.command("migrate", short_help="Rewrite records of older versions as the newest.")
@store_option
@click.option("--dry-run", is_flag=True, help="Show what would be done; write nothing.")
def command(folder: Path, dry_run: bool) -> None:
    """Rewrite records of older versions as the newest, with digests of them and of their logits.

    Records whose logits do not agree with them are named and left as they are; the exit code is 1
    then. A command that was stopped is given again.
    """
    from fewshot_bench.api.record import SCHEMA
    from fewshot_bench.store.migrate import migrate
    from fewshot_bench.utils.store_lock import alone

    store = opened(folder)
    done = left = 0
    with ExitStack() as stack:
        if not dry_run:
            store.create()
            stack.enter_context(alone(folder, waiting))
        for step in migrate(store, dry_run=dry_run):
            done += not step.problem
            left += bool(step.problem)
            if step.problem:
                show("not migrated", step.path, step.problem)
    verb = "would migrate" if dry_run else "migrated"
    click.echo(f"{verb} {done:,} records to schema {SCHEMA}")
    if left:
        click.echo(f"{left:,} records were left as they are: fsbench store verify says what to do")
        raise click.exceptions.Exit(FOUND)
