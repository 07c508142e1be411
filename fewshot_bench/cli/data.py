"""`fsbench data`: fetch data sets, see what is there, and check it."""

from __future__ import annotations

import importlib

import click

from fewshot_bench.errors import suggestion

COMMANDS = {
    "prepare": "Fetch and unpack public data sets, or say how to get them.",
    "status": "Show which data sets are there, and where.",
    "verify": "Check every image, the counts and the split of a data set.",
}


class DataCommands(click.Group):
    """Subcommands by name, imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one subcommand."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"fewshot_bench.cli.data_{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a command that does not exist."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            raise click.UsageError(f"unknown command '{name}'{suggestion(name, COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group("data", cls=DataCommands, short_help="Fetch, list and verify data sets.")
def command() -> None:
    """Fetch data sets, see what is there, and check it."""
