"""The commands `fsbench reproduce`, `fsbench printed` and `fsbench rerun`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench.api.plugins import hookimpl

if TYPE_CHECKING:
    from fewshot_bench.cli.groups import LazyGroup


@hookimpl
def register_commands(cli: LazyGroup) -> None:
    """Add the commands by name; their modules are imported on first use."""
    cli.add_lazy(
        "reproduce",
        "fewshot_bench.plugins.reproduce.command:command",
        "Repeat a published table: paper, ours, noise, verdict.",
        "run",
    )
    cli.add_lazy(
        "rerun",
        "fewshot_bench.plugins.reproduce.rerun:command",
        "Repeat the cell of a record and show what differs.",
        "run",
    )
    cli.add_lazy(
        "printed",
        "fewshot_bench.plugins.reproduce.printed:command",
        "List numbers that papers print, and where they disagree.",
        "results",
    )
