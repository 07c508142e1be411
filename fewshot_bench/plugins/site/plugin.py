"""The commands `fsbench site`, `fsbench submit` and `fsbench verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench.api.plugins import hookimpl

if TYPE_CHECKING:
    from fewshot_bench.cli.groups import LazyGroup

# Name of a command, its module, and its help.
_COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("site", "site", "Write pages of printed numbers and of results."),
    ("submit", "submit", "Pack results into a bundle for others to verify."),
    ("verify", "verify", "Recompute every number of bundles from their logits."),
)


@hookimpl
def register_commands(cli: LazyGroup) -> None:
    """Add the commands by name; their modules are imported on first use."""
    for name, module, text in _COMMANDS:
        cli.add_lazy(name, f"fewshot_bench.plugins.site.{module}:command", text, "results")
