"""The command `fsbench report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench.api.plugins import hookimpl

if TYPE_CHECKING:
    from fewshot_bench.cli.groups import LazyGroup


@hookimpl
def register_commands(cli: LazyGroup) -> None:
    """Add the command by name; its module is imported on first use."""
    cli.add_lazy(
        "report",
        "fewshot_bench.plugins.report.command:command",
        "Write a report about a store as one HTML file.",
        "results",
    )
