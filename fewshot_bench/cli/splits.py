"""`fsbench splits`: splits as files that can be shown, shared, used and checked."""

from __future__ import annotations

import click

from fewshot_bench.cli.groups import LazyGroup, subcommands

COMMANDS = {
    "show": "Show the lists and few-shot picks of a data set, or a split file.",
    "export": "Write the lists or few-shot picks of a data set to files.",
    "import": "Take over the lists or few-shot picks of a file.",
    "verify": "Check a data set's lists and picks, or a split file.",
}


@click.group(
    "splits",
    cls=LazyGroup,
    subcommands=subcommands("fewshot_bench.cli", "splits_", COMMANDS),
    short_help="Show, export, import and verify splits.",
)
def command() -> None:
    """Show, export, import and verify splits.

    A split is the lists of a whole data set (train, val, test), or few-shot picks from them.
    """
