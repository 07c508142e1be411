"""Command groups whose subcommands are imported on first use.

`LazyGroup` lists them by name and short help; an unknown name gets a suggestion.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import click

from fewshot_bench.utils.errors import suggestion

# Headings of `fsbench --help`, in order.
PANELS = ("run", "results", "data", "models", "plug-ins", "maintenance")


class LazyCommand(NamedTuple):
    """A command to import on use: its "package.module:attribute", and its short help.

    panel: the heading under which `fsbench --help` lists it; one of `PANELS`.
    """

    target: str
    short_help: str
    panel: str = "plug-ins"


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
        return list(dict.fromkeys((*self.lazy, *self.commands)))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported."""
        if cmd_name not in self.lazy:
            return self.commands.get(cmd_name)
        module, _, attribute = self.lazy[cmd_name].target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

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

    def list_helps(self) -> Iterator[tuple[str, str, str]]:
        """Panel, name and short help of every command."""
        for name, lazy in self.lazy.items():
            yield lazy.panel, name, lazy.short_help
        for name, command in self.commands.items():
            yield "plug-ins", name, command.get_short_help_str()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the short helps alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for _, name, text in self.list_helps()])


def subcommands(
    target: str, short_helps: Mapping[str, str], panel: str = "plug-ins"
) -> dict[str, LazyCommand]:
    """Lazy commands of a group by name, which stands for `{}` in the target of each."""
    return {
        name: LazyCommand(target.format(name), text, panel) for name, text in short_helps.items()
    }
