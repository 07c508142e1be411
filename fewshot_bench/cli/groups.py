"""Command groups whose subcommands are modules of their own, imported when they are used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from fewshot_bench.utils.errors import suggestion


class Suggesting(click.Group):
    """A group that suggests the closest command for a name that does not exist."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.UsageError(
                f"unknown command '{name}'{suggestion(name, self.list_commands(ctx))}", ctx
            )
        return super().resolve_command(ctx, args)


class Subcommands(Suggesting):
    """`fsbench NAME SUB` lives in the module `NAME_SUB` of this package, as `command`."""

    def __init__(self, *args: Any, subcommands: Mapping[str, str], **more: Any) -> None:
        """`subcommands` maps names to short helps, in the order of use."""
        super().__init__(*args, **more)
        self.subcommands = subcommands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use."""
        return list(self.subcommands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one subcommand."""
        if cmd_name not in self.subcommands:
            return None
        module = importlib.import_module(f"fewshot_bench.cli.{self.name}_{cmd_name}")
        command: click.Command = module.command
        return command
