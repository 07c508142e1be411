"""`fsbench data`: fetch data sets, see what is there, and check it."""

from __future__ import annotations

import click

from fewshot_bench.cli.groups import LazyGroup, subcommands

COMMANDS = subcommands(
    "fewshot_bench.plugins.data.{}_command:command",
    {
        "prepare": "Fetch and unpack public data sets, or say how to get them.",
        "status": "Show which data sets are there, and where.",
        "verify": "Check every image, the counts and the split of a data set.",
    },
)


@click.group(
    "data", cls=LazyGroup, subcommands=COMMANDS, short_help="Fetch, list and verify data sets."
)
def command() -> None:
    """Fetch data sets, see what is there, and check it."""
