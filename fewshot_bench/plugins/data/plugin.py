"""The commands `fsbench data` and `fsbench look`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench.api.plugins import hookimpl

if TYPE_CHECKING:
    from fewshot_bench.cli.groups import LazyGroup


@hookimpl
def register_commands(cli: LazyGroup) -> None:
    """Add the commands by name; their modules are imported on first use."""
    cli.add_lazy(
        "data",
        "fewshot_bench.plugins.data.commands:data",
        "Fetch, list and verify data sets.",
        "data",
    )
    cli.add_lazy(
        "look",
        "fewshot_bench.plugins.data.look:look",
        "Show copies, contradictions and counts of a folder of images.",
        "data",
    )
