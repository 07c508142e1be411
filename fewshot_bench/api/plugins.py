"""Hook specifications, the plug-in manager, and calls of hooks.

`load_plugins` imports plug-ins, `call` runs a hook of one plug-in after the other; a failing
plug-in does not affect the others.
"""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import pluggy
from msgspec import Meta

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.spec import kind_problem
from fewshot_bench.utils.errors import PluginError, unknown
from fewshot_bench.utils.plugin_code import plugin_code

if TYPE_CHECKING:
    import click

    from fewshot_bench.api.record import Record
    from fewshot_bench.api.spec import RunSpec

GROUP = "fewshot_bench"
# The distribution of the built-in plug-ins.
OWN = "fewshot-bench"
# Environment variable: comma-separated names of entry points to skip.
DISABLED = "FSBENCH_DISABLE_PLUGINS"
# Environment variable: comma-separated full names of the only plug-ins to import; unset for all.
ONLY = "FSBENCH_ONLY_PLUGINS"
# What a distribution can be called: full names of plug-ins have a colon after it.
_NAME = re.compile(r"[\w.-]+")
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

Register = Callable[..., None]


class CommandGroup(Protocol):
    """The group that plug-ins add commands to: a `click.Group` with the method `add_lazy`."""

    def add_lazy(self, name: str, target: str, short_help: str, panel: str = "plug-ins") -> None:
        """Add the command at "package.module:attribute", imported on use."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command that is already imported."""


class Hooks:
    """All hooks that a plug-in may implement."""

    @hookspec
    def register_methods(self, register: Register) -> None:
        """Call `register("name", "package.module:Class")` for each method; nothing is imported.

        `suites=("fast",)` adds the method to suites, whose names `--method` accepts.
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

        Metrics are computed from stored logits when a table needs them, never while cells run.
        """

    @hookspec
    def register_engines(self, register: Register) -> None:
        """Call `register("name", "package.module:build", options=(Option(...), ...))`.

        `build(setup: EngineSetup) -> Engine`. `elsewhere=True`: the engine's workers run on other
        machines than the command.
        """

    @hookspec
    def register_options(self, register: Register) -> None:
        """Call `register(Option(...))` for each option of commands that run cells."""

    @hookspec
    def register_commands(self, cli: CommandGroup) -> None:
        """Add commands to `fsbench`: `cli.add_lazy("name", "package.module:command", "help")`.

        `command` is a click command, imported on use; `cli.add_command` adds an imported one.
        """

    @hookspec
    def worker_environment(
        self, store: Path, options: Mapping[str, Any]
    ) -> Mapping[str, str] | None:
        """Environment variables for the hooks and methods of this plug-in, on any machine.

        Called once, in the command, before anything is computed; a UsageError ends the command.
        options: the values of all options that plug-ins registered with `register_options`.
        """

    @hookspec
    def run_warnings(self, store: Path) -> Sequence[str] | None:
        """Sentences that are printed as warnings at the end of a command that ran cells."""

    @hookspec
    def run_started(self, spec: RunSpec) -> None:
        """Called before a cell is computed."""

    @hookspec
    def points_logged(
        self, spec: RunSpec, points: Sequence[tuple[int, Mapping[str, float]]]
    ) -> None:
        """Called while a cell is fitted, about once a second: (step, {series: value}) since then.

        They are points of the record's `curves` and some that it later leaves out. Steps begin anew
        if the fit does. Some are left out if hooks are slow: the record has the whole curve.
        """

    @hookspec
    def run_finished(self, record: Record) -> None:
        """Called after a cell's record was written, also if the cell failed."""

    @hookspec
    def table_columns(self, records: Sequence[Record]) -> dict[str, object] | None:
        """Extra `compare` columns: {title: value} for the records of one table row.

        records: done and failed ones (`record.status`). Values: text, numbers, None for no value.
        """


# Arguments that a plug-in gets a copy of: what it changes reaches no table and no other plug-in.
_COPIED = ("spec", "points", "record", "records")
# A name and a value that an environment can hold.
_Variable = Annotated[str, Meta(pattern=r"\A[^=\x00]+\Z")]
_Value = Annotated[str, Meta(pattern=r"\A[^\x00]*\Z")]
# Hooks with a return value: its type, and the expectation for error messages.
_ANSWERS: Mapping[str, tuple[Any, str]] = {
    "worker_environment": (
        dict[_Variable, _Value],
        "a mapping of texts to texts that an environment can hold: no \\0, no = in a name",
    ),
    "run_warnings": (list[str], "a list of texts"),
    "table_columns": (
        dict[str, str | float | bool | None],
        "a mapping of titles to texts or numbers",
    ),
}


def _is_valid(hook: str, answer: Any) -> bool:
    """True for a value that a hook may return; zero-dimensional arrays are numbers."""
    if answer is None or hook not in _ANSWERS:
        return True
    if isinstance(answer, Mapping):
        answer = {
            title: value.item() if getattr(value, "shape", None) == () else value
            for title, value in answer.items()
        }
    return not kind_problem(answer, _ANSWERS[hook][0])


def call(
    hooks: pluggy.HookRelay,
    hook: str,
    failed: Callable[[str, PluginError], None],
    **arguments: Any,
) -> Iterator[tuple[str, Any]]:
    """Full name and return value of every plug-in whose hook does not return None.

    A plug-in that fails or returns an invalid value is skipped: `failed` is called with its full
    name and the error, whose `__cause__` is the exception that the plug-in raised.
    """
    for implementation in implementations(hooks, hook):
        name = implementation.plugin_name
        try:
            with plugin_code():
                given = {word: arguments[word] for word in implementation.argnames}
                given |= {word: copy.deepcopy(given[word]) for word in _COPIED if word in given}
                answer = implementation.function(*given.values())
                valid = _is_valid(hook, answer)
        except (Exception, SystemExit) as error:
            failure = PluginError(
                f"{hook} of plug-in {name} failed: {error_text(error, implementation.function)}"
            )
            failure.__cause__ = error
            failed(name, failure)
            continue
        if not valid:
            shown, expected = " ".join(repr(answer).split()), _ANSWERS[hook][1]
            failed(
                name, PluginError(f"{hook} of plug-in {name} gave {shown:.80}, expected {expected}")
            )
        elif answer is not None:
            yield name, answer


def implementations(hooks: pluggy.HookRelay, hook: str) -> list[pluggy.HookImpl]:
    """All implementations of a hook, built-in ones first."""
    every = getattr(hooks, hook).get_hookimpls()
    return sorted(every, key=lambda one: (not is_own(one.plugin_name), one.plugin_name))


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One entry point: its origin, and the import error if there was one."""

    name: str
    target: str
    distribution: str
    error: str | None
    version: str = ""

    @property
    def full_name(self) -> str:
        """`distribution:entry point`, its name in the plug-in manager."""
        return f"{self.distribution}:{self.name}"

    @property
    def problem(self) -> str:
        """One sentence on why it could not be loaded."""
        return f"plug-in {self.full_name} ({self.target}) was not loaded: {self.error}"


def load_plugins(foreign: bool = True) -> tuple[pluggy.PluginManager, list[PluginInfo]]:
    """Import every entry point of the group; failures are reported in `PluginInfo.error`.

    foreign: False to import only those of this distribution.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    infos = [
        info if point is None else _load(manager, point, info)
        for point, info in _list_plugins()
        if foreign or info.distribution == OWN
    ]
    return manager, infos


def is_own(plugin: str) -> bool:
    """True for the full name of a built-in plug-in."""
    return plugin.partition(":")[0] == OWN


def foreign_plugins() -> list[PluginInfo]:
    """The plug-ins of other distributions; none is imported."""
    return [info for _, info in _list_plugins() if info.distribution != OWN]


def has_third_party() -> bool:
    """True if a plug-in of another distribution is installed: only these add columns to tables.

    Imports no plug-in.
    """
    return any(not info.error for info in foreign_plugins())


def list_useless_disabling() -> list[str]:
    """Names in FSBENCH_DISABLE_PLUGINS that match no entry point and so disable nothing."""
    return sorted(_read_disabled() - {info.name for _, info in _read_entry_points()})


def _list_plugins() -> list[tuple[Any, PluginInfo]]:
    """The enabled ones of `_read_entry_points`, sorted by name."""
    disabled, only = _read_disabled(), os.environ.get(ONLY)
    enabled: dict[tuple[str, str], tuple[Any, PluginInfo]] = {}
    for point, info in _read_entry_points():
        if info.name not in disabled and (only is None or info.full_name in only.split(",")):
            enabled.setdefault((info.name, info.target), (point, info))
    return [enabled[key] for key in sorted(enabled)]


def _read_disabled() -> set[str]:
    return set(filter(None, os.environ.get(DISABLED, "").split(",")))


def _read_entry_points() -> Iterator[tuple[Any, PluginInfo]]:
    """(entry point, its facts) of every plug-in; None and the reason for unreadable ones.

    As `importlib.metadata.entry_points`, which fails as a whole if one distribution is damaged.
    """
    projects = set()
    for distribution in importlib.metadata.distributions():
        folder = _place(distribution)
        project = Path(folder).stem.partition("-")[0]
        if project in projects:
            # Another version, in a later folder of the path.
            continue
        projects.add(project)
        try:
            points = distribution.entry_points.select(group=GROUP)
        except Exception as error:
            reason = f"entry points cannot be read: {type(error).__name__}: {error}"
            yield None, PluginInfo("?", folder, _read_name(distribution)[0], reason)
            continue
        name, version = _read_name(distribution) if points else ("", "")
        for point in points:
            yield point, PluginInfo(point.name, point.value, name, None, version)


def _read_name(distribution: Any) -> tuple[str, str]:
    """Name and version of a distribution.

    If its metadata are damaged or state our name, the name is their folder.
    """
    folder = _place(distribution)
    try:
        name, version = (str(distribution.metadata[key]) for key in ("Name", "Version"))
    except Exception:
        return folder, ""
    is_name = _NAME.fullmatch(name) and (name != OWN or folder == _own_place())
    return name if is_name else folder, version


def _place(distribution: Any) -> str:
    return os.path.abspath(str(getattr(distribution, "_path", "unknown")))


@functools.cache
def _own_place() -> str:
    """The folder of this distribution's metadata, which is found by the folder's name."""
    return _place(importlib.metadata.distribution(OWN))


def _load(manager: pluggy.PluginManager, point: Any, info: PluginInfo) -> PluginInfo:
    name = info.full_name
    try:
        with plugin_code():
            plugin = point.load()
            manager.register(plugin, name=name)
            _check_hooks(manager, plugin)
            manager.check_pending()
    except (Exception, SystemExit) as failure:
        if manager.has_plugin(name):
            manager.unregister(name=name)
        return replace(info, error=f"{type(failure).__name__}: {failure}")
    return info


def _check_hooks(manager: pluggy.PluginManager, plugin: Any) -> None:
    """UsageError for an implemented hook that has no specification (a mistyped name)."""
    names = [name for name in vars(Hooks) if not name.startswith("_")]
    for caller in manager.get_hookcallers(plugin) or ():
        if not caller.has_spec():
            raise unknown("hook", caller.name, names, "docs/reference/hooks.md")
