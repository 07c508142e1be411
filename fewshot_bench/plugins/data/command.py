"""`fsbench data`: fetch data sets, see what is there, and check it."""

from __future__ import annotations

import click

from fewshot_bench.cli.groups import LazyCommand, LazyGroup

_PACKAGE = "fewshot_bench.plugins.data"
COMMANDS = {
    "prepare": LazyCommand(
        f"{_PACKAGE}.prepare_command:command",
        "Fetch and unpack public data sets, or say how to get them.",
    ),
    "status": LazyCommand(
        f"{_PACKAGE}.status_command:command", "Show which data sets are there, and where."
    ),
    "verify": LazyCommand(
        f"{_PACKAGE}.verify_command:command",
        "Check every image, the counts and the split of a data set.",
    ),
}


@click.group(
    "data", cls=LazyGroup, subcommands=COMMANDS, short_help="Fetch, list and verify data sets."
)
def command() -> None:
    """Fetch data sets, see what is there, and check it."""
