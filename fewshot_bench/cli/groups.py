"""Command groups whose subcommands are imported on first use.

`LazyGroup` lists them by name and short help; an unknown name gets a suggestion.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from fewshot_bench.utils.errors import suggestion

# Headings of `fsbench --help`, in order.
PANELS = ("run", "results", "data", "models", "plug-ins", "maintenance")


@dataclass(frozen=True)
class LazyCommand:
    """A command to import on use: its "package.module:attribute", and its short help.

    panel: the heading under which `fsbench --help` lists it; one of `PANELS`.
    """

    target: str
    short_help: str
    panel: str = "plug-ins"

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


class LazyGroup(click.Group):
    """A group of commands, some of which are imported on first use."""

    def __init__(
        self, *args: Any, subcommands: Mapping[str, LazyCommand] | None = None, **more: Any
    ) -> None:
        """subcommands: commands that are imported on first use."""
        super().__init__(*args, **more)
        self.lazy = dict(subcommands or {})

    def add_lazy(self, name: str, target: str, short_help: str, panel: str = "plug-ins") -> None:
        """Add a command by "package.module:attribute", which is imported when it is used.

        panel: its heading in `fsbench --help`, one of `PANELS`.
        """
        self.lazy[name] = LazyCommand(target, short_help, panel)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of lazy commands, then of the others."""
        return [*self.lazy, *(name for name in self.commands if name not in self.lazy)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported."""
        if cmd_name in self.lazy:
            return self.lazy[cmd_name].load()
        return self.commands.get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as click does; an unknown command gets a suggestion."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.UsageError(
                f"unknown command '{name}'{suggestion(name, self.list_commands(ctx))}", ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the short helps alone."""
        helps = {name: command.get_short_help_str() for name, command in self.commands.items()}
        helps |= {name: command.short_help for name, command in self.lazy.items()}
        with formatter.section("Commands"):
            formatter.write_dl([(name, helps[name]) for name in self.list_commands(ctx)])


def subcommands(
    target: str, short_helps: Mapping[str, str], panel: str = "plug-ins"
) -> dict[str, LazyCommand]:
    """Lazy commands of a group by name, which stands for `{}` in the target of each."""
    return {
        name: LazyCommand(target.format(name), text, panel) for name, text in short_helps.items()
    }
