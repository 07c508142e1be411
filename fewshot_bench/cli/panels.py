"""Help in panels: options of one purpose stand together, under a heading.

`Option` names its panel; `PanelCommand` prints them. Both take the place of click's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
# Widest help: one line per option on most terminals.
WIDTH = 100
_COLUMN = 30
_FIRST, _LAST = "options", "advanced"


class Option(click.Option):
    """An option of one panel of its command's help; without one it stands in the first."""

    def __init__(self, *args: Any, panel: str = _FIRST, **more: Any) -> None:
        """panel: the heading that the option stands under."""
        super().__init__(*args, **more)
        self.panel = panel


class ListOption(Option):
    """An option with a list of names, which may be repeated: `-m a -m b` is `-m a,b`."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Make the parser collect all values, not only the last."""
        self.multiple = True
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.multiple = False

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Convert all values, joined by commas."""
        return super().type_cast_value(ctx, ",".join(value) if isinstance(value, list) else value)


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """`click.option` for an `Option`."""
    return click.option(*names, **{"cls": Option} | settings)


def list_option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """`click.option` for a `ListOption`."""
    return click.option(*names, cls=ListOption, **settings)


def add_options(command: Command, options: list[click.Option]) -> Command:
    """Add options to a command that is being declared, in this order, before those it has."""
    params = command.__dict__.setdefault("__click_params__", [])
    # Click reverses what decorators have collected.
    params.extend(reversed(options))
    return command


class PanelCommand(click.Command):
    """A command whose options are printed in panels, in the order in which these first occur."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the panels, all with columns of the same width."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx)
            if row is not None:
                panel = "" if "--help" in param.opts else getattr(param, "panel", _FIRST)
                panels.setdefault(panel, []).append(row)
        help_rows = panels.pop("", [])
        last = panels.setdefault(_LAST if _LAST in panels else [*panels, _FIRST][-1], [])
        last += help_rows
        names = [row[0] for rows in panels.values() for row in rows]
        width = min(max(map(len, names)), _COLUMN)
        for panel, rows in panels.items():
            with formatter.section(panel.capitalize()):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows], _COLUMN)
                self.format_note(ctx, panel, formatter)

    def format_note(self, ctx: click.Context, panel: str, formatter: click.HelpFormatter) -> None:
        """Write what follows the options of a panel."""
