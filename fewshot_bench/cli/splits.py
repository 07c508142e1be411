"""`fsbench splits`: splits as files that can be shown, shared, used and checked."""

from __future__ import annotations

import importlib

import click

from fewshot_bench.errors import suggestion

COMMANDS = {
    "show": "Show the lists and few-shot picks of a data set, or a split file.",
    "export": "Write the lists or few-shot picks of a data set to files.",
    "import": "Take over the lists or few-shot picks of a file.",
    "verify": "Check a data set's lists and picks, or a split file.",
}


class SplitsCommands(click.Group):
    """Subcommands by name, imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one subcommand."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"fewshot_bench.cli.splits_{cmd_name}")
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


@click.group("splits", cls=SplitsCommands, short_help="Show, export, import and verify splits.")
def command() -> None:
    """Show, export, import and verify splits.

    A split is the lists of a whole data set (train, val, test), or few-shot picks from them.
    """
