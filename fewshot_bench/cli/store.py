"""`fsbench store`: check, merge, prune and clean stores of results."""

from __future__ import annotations

import click

from fewshot_bench.cli.groups import LazyGroup, subcommands

COMMANDS = {
    "verify": "Check every record and its logits in full.",
    "merge": "Bring results of other stores, from other machines, together.",
    "rm": "Remove chosen records.",
    "gc": "Remove what no result needs.",
}


@click.group(
    "store",
    cls=LazyGroup,
    subcommands=subcommands("fewshot_bench.cli", "store_", COMMANDS),
    short_help="Verify, merge and clean stores of results.",
)
def command() -> None:
    """Verify, merge and clean stores of results.

    A store is the folder that fsbench run writes: one record and its logits per cell.
    """
