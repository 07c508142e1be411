"""Help in panels: options of one purpose stand together, under a heading.

`Option` names its panel; `PanelCommand` prints them. Both take the place of click's.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
# Widest help: one line per option on most terminals.
WIDTH = 100
_COLUMN = 30
_FIRST = "options"
# Panels that are printed as running text.
COMPACT = ("advanced", "of these conditions", "as printed", "conditions")


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
    """A command whose options are printed in panels, in the order in which these first occur.

    Those of `COMPACT` are running text, since they have many options that few people need.
    """

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """As of the group, also in a context of its own: click keeps the first answer."""
        return ["-h", "--help"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the panels, all with columns of the same width."""
        panels: dict[str, list[tuple[str, str]]] = {_FIRST: []}
        for param in self.get_params(ctx):
            row, panel = param.get_help_record(ctx), getattr(param, "panel", _FIRST)
            if row is not None:
                row = (row[0], getattr(param, "help", "")) if panel in COMPACT else row
                panels.setdefault(panel, []).append(row)
        # Without other options in the first panel, `--help` stands in the last one.
        if len(panels[_FIRST]) == 1 and len(panels) > 1:
            (row,) = panels.pop(_FIRST)
            panels[list(panels)[-1]].append(row)
        lists = {panel: rows for panel, rows in panels.items() if panel not in COMPACT}
        width = min(max(len(name) for rows in lists.values() for name, _ in rows), _COLUMN)
        for panel, rows in panels.items():
            with formatter.section(panel.capitalize()):
                if panel in lists:
                    formatter.write_dl([(name.ljust(width), text) for name, text in rows], _COLUMN)
                else:
                    self._write_compact(formatter, rows)
                self.format_note(ctx, panel, formatter)

    def _write_compact(
        self, formatter: click.HelpFormatter, rows: Sequence[tuple[str, str]]
    ) -> None:
        text = "  ".join(f"{name}: {text}" for name, text in rows)
        indent = " " * formatter.current_indent
        style: dict[str, Any] = {"initial_indent": indent, "subsequent_indent": indent}
        lines = textwrap.wrap(text, formatter.width, break_on_hyphens=False, **style)
        formatter.write("\n".join([*lines, ""]))

    def format_note(self, ctx: click.Context, panel: str, formatter: click.HelpFormatter) -> None:
        """Write what follows the options of a panel."""
