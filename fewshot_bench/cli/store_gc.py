"""`fsbench store gc`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from fewshot_bench.cli.store_options import FOUND, counted, opened, show, store_option


@click.command("gc", short_help="Remove what no result needs.")
@store_option
@click.option("--damaged", is_flag=True, help="Remove files that were set aside as damaged, too.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
def command(folder: Path, damaged: bool, dry_run: bool) -> None:
    """Remove what killed processes left, logits without a record, the index and cached outcomes.

    Claims of processes that are gone and folders of finished Slurm and Ray jobs go, too. Runs may
    go on meanwhile: only what is stale is taken. The index and outcomes are made again when needed.
    """
    from fewshot_bench.engines.job import Job
    from fewshot_bench.store.clean import KINDS, collect
    from fewshot_bench.utils.text import size_text

    found: Counter[str] = Counter()
    size = problems = 0
    store = opened(folder)
    for removal in collect(store, damaged=damaged, dry_run=dry_run, jobs=Job.finished(store)):
        show(removal.kind, removal.path, removal.problem or size_text(removal.size))
        problems += bool(removal.problem)
        found[removal.kind] += not removal.problem
        size += removal.size
    verb = "would remove" if dry_run else "removed"
    kinds = f": {counted(found, KINDS, '')}" if found.total() else ""
    click.echo(f"{verb} {found.total():,} files, {size_text(size)}{kinds}")
    if problems:
        text = f"{problems:,} files cannot be removed: check who may write there"
        click.echo(f"error: {text}", err=True)
        raise click.exceptions.Exit(FOUND)
