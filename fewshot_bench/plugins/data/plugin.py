"""The command `fsbench data`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench.api.plugins import hookimpl

if TYPE_CHECKING:
    from fewshot_bench.cli.groups import LazyGroup


@hookimpl
def register_commands(cli: LazyGroup) -> None:
    """Add the `data` group by name; its module is imported on first use."""
    cli.add_lazy(
        "data",
        "fewshot_bench.plugins.data.commands:data",
        "Fetch, list and verify data sets.",
        "data",
    )
