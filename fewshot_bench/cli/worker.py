"""`fsbench worker`: take part in a job, as the scripts of --engine slurm or ray do."""

from __future__ import annotations

from pathlib import Path

import click

from fewshot_bench.cli.options import store_option


@click.command("worker", short_help="Take part in a job: claim its cells and compute them.")
@store_option()
@click.option("--job", required=True, help="Name of a folder in STORE/jobs.")
@click.pass_context
def command(ctx: click.Context, store: Path, job: str) -> None:
    """Take part in a job that `fsbench run --engine slurm` has written to a store.

    Any number of workers may do so at once, on any machine that sees the store; each cell is
    computed by one of them. Ends when all cells are settled or held by others who live.
    """
    from fewshot_bench.engines.distributed import Job, take_part
    from fewshot_bench.store.store import Store

    ctx.exit(take_part(Job.read(Store(store.absolute()), job)))
