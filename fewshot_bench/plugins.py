"""Hook specifications and the plug-in manager."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from fewshot_bench.record import Record
    from fewshot_bench.spec import RunSpec

GROUP = "fewshot_bench"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

Register = Callable[..., None]


class Hooks:
    """Every hook that a plug-in may implement."""

    @hookspec
    def register_methods(self, register: Register) -> None:
        """Call `register("name", "package.module:Class")` for each method; nothing is imported."""

    @hookspec
    def register_datasets(self, register: Register) -> None:
        """Call `register("name", "package.module:factory")` for each data set.

        The factory takes no argument. With `register("prefix:", ...)` it takes the text after the
        colon (`folder:PATH`). `suites=("demo",)` adds the name to suites.
        """

    @hookspec
    def register_backbones(self, register: Register) -> None:
        """Call `register("name", "package.module:load")`; `load(device, precision)` -> backbone."""

    @hookspec
    def register_commands(self, cli: click.Group) -> None:
        """Add click commands to `fsbench`."""

    @hookspec
    def run_started(self, spec: RunSpec) -> None:
        """A cell is about to be computed."""

    @hookspec
    def run_finished(self, record: Record) -> None:
        """A cell's record was written; failures included."""

    @hookspec
    def table_columns(self, records: Sequence[Record]) -> dict[str, object] | None:
        """Extra `compare` columns: {title: value} for the records of one table row."""


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One entry point: where it comes from and, if it could not be imported, why."""

    name: str
    target: str
    distribution: str
    error: str | None

    @property
    def full_name(self) -> str:
        """Distribution and entry point: how the manager knows it."""
        return f"{self.distribution}:{self.name}"


def load_plugins() -> tuple[pluggy.PluginManager, tuple[PluginInfo, ...]]:
    """Import every entry point of the group; one that fails is reported and harms nothing else."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    infos = []
    for point in _entry_points():
        distribution = point.dist.name if point.dist else "unknown"
        name, error = f"{distribution}:{point.name}", None
        try:
            manager.register(point.load(), name=name)
            manager.check_pending()
        except (Exception, SystemExit) as failure:
            error = f"{type(failure).__name__}: {failure}"
            if manager.has_plugin(name):
                manager.unregister(name=name)
        infos.append(PluginInfo(point.name, point.value, distribution, error))
    return manager, tuple(infos)


def _entry_points() -> list[Any]:
    points = importlib.metadata.entry_points(group=GROUP)
    blocked = set(filter(None, os.environ.get("FSBENCH_DISABLE_PLUGINS", "").split(",")))
    unique = {(point.name, point.value): point for point in points if point.name not in blocked}
    return [unique[key] for key in sorted(unique)]
