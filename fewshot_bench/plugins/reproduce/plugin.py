"""The commands `fsbench reproduce`, `fsbench printed` and `fsbench rerun`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench.api.plugins import hookimpl

if TYPE_CHECKING:
    from fewshot_bench.cli.groups import LazyGroup

# Name of a command, its module, its help and its group.
_COMMANDS = (
    ("reproduce", "command", "Repeat a published table: paper, ours, noise, verdict.", "run"),
    ("rerun", "rerun", "Repeat the cell of a record and show what differs.", "run"),
    ("printed", "printed", "List numbers that papers print, and where they disagree.", "results"),
)


@hookimpl
def register_commands(cli: LazyGroup) -> None:
    """Add the commands by name; their modules are imported on first use."""
    for name, module, text, group in _COMMANDS:
        cli.add_lazy(name, f"fewshot_bench.plugins.reproduce.{module}:command", text, group)
