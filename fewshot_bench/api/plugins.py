"""Hook specifications, the plug-in manager, and calls of hooks.

`load_plugins` imports, `call` asks one plug-in after the other; one that fails harms no other.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

from fewshot_bench.utils.errors import PluginError, unknown

if TYPE_CHECKING:
    import click

    from fewshot_bench.api.record import Record
    from fewshot_bench.api.spec import RunSpec

GROUP = "fewshot_bench"
# The distribution whose plug-ins are the built-in ones.
OWN = "fewshot-bench"
# Names of entry points, joined by commas, that are left out.
DISABLED = "FSBENCH_DISABLE_PLUGINS"
# Full names, joined by commas, of the only plug-ins that a process imports; unset for all of them.
ONLY = "FSBENCH_ONLY_PLUGINS"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

Register = Callable[..., None]


class CommandGroup(Protocol):
    """The group that a plug-in adds its commands to: a `click.Group` with one more function."""

    def add_lazy(self, name: str, target: str, short_help: str) -> None:
        """Add a command by "package.module:attribute", imported when it is used."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command that is imported already."""


class Hooks:
    """Every hook that a plug-in may implement."""

    @hookspec
    def register_methods(self, register: Register) -> None:
        """Call `register("name", "package.module:Class")` for each method; nothing is imported.

        `suites=("fast",)` adds the name to suites, which `--method` takes.
        """

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
    def register_metrics(self, register: Register) -> None:
        """Call `register("name", "package.module:METRIC")`; the target is a `Metric` of that name.

        It is computed from stored logits when a table asks for it, never where cells are fitted.
        """

    @hookspec
    def register_engines(self, register: Register) -> None:
        """Call `register("name", "package.module:build", options=(Option(...), ...))`.

        `build(setup: EngineSetup) -> Engine`. `elsewhere=True` for an engine whose workers run on
        other machines than the command.
        """

    @hookspec
    def register_options(self, register: Register) -> None:
        """Call `register(Option(...))` for each option of commands that run cells."""

    @hookspec
    def register_commands(self, cli: CommandGroup) -> None:
        """Add commands to `fsbench`: `cli.add_lazy("name", "package.module:command", "help")`.

        `command` is a click command, imported when it is used; `cli.add_command` takes one at once.
        """

    @hookspec
    def worker_environment(
        self, store: Path, options: Mapping[str, Any]
    ) -> Mapping[str, str] | None:
        """Environment variables for every worker, on whichever machine it runs.

        Called once, in the command, before anything is computed; UsageError ends it. options: the
        values of all options that plug-ins registered with `register_options`.
        """

    @hookspec
    def run_warnings(self, store: Path) -> Sequence[str] | None:
        """Sentences that a command that ran cells prints as warnings at its end."""

    @hookspec
    def run_started(self, spec: RunSpec) -> None:
        """A cell is about to be computed."""

    @hookspec
    def run_finished(self, record: Record) -> None:
        """A cell's record was written; failures included."""

    @hookspec
    def table_columns(self, records: Sequence[Record]) -> dict[str, object] | None:
        """Extra `compare` columns: {title: value} for the records of one table row.

        records: done and failed ones (`record.status`). Values: text, numbers, None for nothing.
        """


_PLAIN = (str, int, float)


def _variables(found: Any) -> bool:
    """True for the answer of `worker_environment`."""
    return isinstance(found, Mapping) and all(
        isinstance(text, str) for pair in found.items() for text in pair
    )


def _sentences(found: Any) -> bool:
    """True for the answer of `run_warnings`."""
    return isinstance(found, list | tuple) and all(isinstance(text, str) for text in found)


def _values(found: Any) -> bool:
    """True for the answer of `table_columns`; arrays without axes are numbers, too."""
    return isinstance(found, Mapping) and all(
        isinstance(title, str)
        and (value is None or isinstance(value, _PLAIN) or getattr(value, "shape", None) == ())
        for title, value in found.items()
    )


# The hooks that answer: a test of the answer, and what was expected.
_ANSWERS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "worker_environment": (_variables, "a mapping of texts to texts"),
    "run_warnings": (_sentences, "a list of texts"),
    "table_columns": (_values, "a mapping of titles to texts or numbers"),
}


def call(
    hooks: pluggy.HookRelay,
    hook: str,
    failed: Callable[[str, PluginError], None],
    **arguments: Any,
) -> Iterator[tuple[str, Any]]:
    """The answers of all plug-ins to a hook that are not None, each with the plug-in's full name.

    One that fails, or answers something else than it should, is left out: `failed` gets its name
    and the error, which has what the plug-in raised as `__cause__`.
    """
    accepts, expected = _ANSWERS.get(hook, (lambda found: True, ""))
    for implementation in implementations(hooks, hook):
        name = implementation.plugin_name
        try:
            given = [arguments[argument] for argument in implementation.argnames]
            found = implementation.function(*given)
            accepted = found is None or accepts(found)
        except (Exception, SystemExit) as error:
            failure = PluginError(
                f"{hook} of plug-in {name} failed: {type(error).__name__}: {error}"
            )
            failure.__cause__ = error
            failed(name, failure)
            continue
        if not accepted:
            shown = " ".join(repr(found).split())
            failed(
                name, PluginError(f"{hook} of plug-in {name} gave {shown:.80}, expected {expected}")
            )
        elif found is not None:
            yield name, found


def implementations(hooks: pluggy.HookRelay, hook: str) -> list[pluggy.HookImpl]:
    """The functions of plug-ins for a hook; built-in ones first."""
    return sorted(getattr(hooks, hook).get_hookimpls(), key=_builtin_first)


def _builtin_first(implementation: pluggy.HookImpl) -> tuple[bool, str]:
    name = implementation.plugin_name
    return (not name.startswith("fewshot"), name)


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One entry point: where it comes from and, if it could not be imported, why."""

    name: str
    target: str
    distribution: str
    error: str | None
    version: str = ""

    @property
    def full_name(self) -> str:
        """Distribution and entry point: how the manager knows it."""
        return f"{self.distribution}:{self.name}"

    @property
    def problem(self) -> str:
        """One sentence on why it could not be loaded."""
        return f"plug-in {self.full_name} ({self.target}) was not loaded: {self.error}"


def load_plugins() -> tuple[pluggy.PluginManager, tuple[PluginInfo, ...]]:
    """Import every entry point of the group; one that fails is reported and harms nothing else."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    points, infos = _entry_points()
    only = os.environ.get(ONLY)
    for point in points:
        distribution = _distribution(point.dist)
        name, error = f"{distribution}:{point.name}", None
        if only is not None and name not in only.split(","):
            continue
        try:
            plugin = point.load()
            manager.register(plugin, name=name)
            _check_hooks(manager, plugin)
            manager.check_pending()
        except (Exception, SystemExit) as failure:
            error = f"{type(failure).__name__}: {failure}"
            if manager.has_plugin(name):
                manager.unregister(name=name)
        version = _version(point.dist)
        infos.append(PluginInfo(point.name, point.value, distribution, error, version))
    return manager, tuple(infos)


def _check_hooks(manager: pluggy.PluginManager, plugin: Any) -> None:
    """UsageError for a hook whose name is mistyped."""
    known = [name for name in vars(Hooks) if not name.startswith("_")]
    for caller in manager.get_hookcallers(plugin) or ():
        if not caller.has_spec():
            raise unknown("hook", caller.name, known, "docs/plugins.md")


def has_third_party() -> bool:
    """True when a plug-in of another distribution is installed: only these add columns to tables.

    It is known without importing any.
    """
    points, _ = _entry_points()
    return any(_distribution(point.dist) != OWN for point in points)


def _entry_points() -> tuple[list[Any], list[PluginInfo]]:
    """The entry points of the group, and the distributions whose own could not be read."""
    broken: list[PluginInfo] = []
    points, blocked = _every_point(broken), _blocked()
    unique = {(point.name, point.value): point for point in points if point.name not in blocked}
    return [unique[key] for key in sorted(unique)], broken


def disabled_without_plugin() -> list[str]:
    """Names in FSBENCH_DISABLE_PLUGINS that no entry point has, so that they disable nothing."""
    return sorted(_blocked() - {point.name for point in _every_point([])})


def _blocked() -> set[str]:
    return set(filter(None, os.environ.get(DISABLED, "").split(",")))


def _every_point(broken: list[PluginInfo]) -> list[Any]:
    """The entry points of the group; broken: gets the distributions whose own cannot be read."""
    try:
        return list(importlib.metadata.entry_points(group=GROUP))
    except Exception:
        return _each_alone(broken)


def _each_alone(broken: list[PluginInfo]) -> list[Any]:
    """As `entry_points` does, without those distributions that it fails at."""
    points: list[Any] = []
    for distribution in importlib.metadata.distributions():
        try:
            points += distribution.entry_points.select(group=GROUP)
        except Exception as error:
            reason = f"entry points cannot be read: {type(error).__name__}: {error}"
            broken.append(PluginInfo("?", "?", _distribution(distribution), reason))
    return points


def _distribution(distribution: Any) -> str:
    """The name of a distribution; where its metadata are damaged, the folder that they lie in."""
    try:
        return str(distribution.name)
    except Exception:
        return str(getattr(distribution, "_path", "unknown"))


def _version(distribution: Any) -> str:
    """The version of a distribution; empty where its metadata are damaged."""
    try:
        return str(distribution.version)
    except Exception:
        return ""
