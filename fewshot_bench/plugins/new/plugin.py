"""The command `fsbench new`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench.api.plugins import hookimpl

if TYPE_CHECKING:
    from fewshot_bench.cli.groups import LazyGroup


@hookimpl
def register_commands(cli: LazyGroup) -> None:
    """Add the command by name; its module is imported on first use."""
    cli.add_lazy(
        "new",
        "fewshot_bench.plugins.new.command:command",
        "Write a package for your own method, data set, metric or engine.",
    )
