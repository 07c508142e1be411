"""Names to lazily imported targets, with their origins."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pluggy

from fewshot_bench.errors import PluginError, UsageError, unknown
from fewshot_bench.plugins import PluginInfo, load_plugins


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered name: its target "module:attribute" (or object) and who registered it."""

    name: str
    target: Any
    origin: str
    suites: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import the target; PluginError names the origin when that fails."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            value: Any = importlib.import_module(module)
            for part in attribute.split("."):
                value = getattr(value, part)
        except Exception as error:
            raise PluginError(
                f"'{self.name}' cannot be loaded from '{self.target}' ({self.origin}): "
                f"{type(error).__name__}: {error}"
            ) from error
        return value


@dataclass
class Catalog:
    """All names of one kind (method, data set, backbone)."""

    kind: str
    listing: str
    entries: dict[str, Entry] = field(default_factory=dict)
    _plugin: str = ""

    def register(self, name: str, target: Any, *, suites: Iterable[str] = ()) -> None:
        """Add a name; PluginError with both origins when it is taken."""
        origin = _origin(self._plugin)
        if name in self.entries:
            raise PluginError(
                f"two plug-ins register the {self.kind} '{name}': {self.entries[name].origin} and "
                f"{origin}; uninstall one, or disable its entry point with FSBENCH_DISABLE_PLUGINS"
            )
        if not isinstance(target, str) and not callable(target):
            raise PluginError(
                f"{self.kind} '{name}' ({origin}): target {target!r} is neither "
                "'module:attribute' nor a callable"
            )
        self.entries[name] = Entry(name, target, origin, tuple(suites))

    def names(self) -> list[str]:
        """Registered names, sorted, families (`folder:`) included."""
        return sorted(self.entries)

    def find(self, name: str) -> Entry:
        """The entry of a name, or UsageError with the closest one."""
        if name not in self.entries:
            raise unknown(self.kind, name, self.entries, f"fsbench list {self.listing}")
        return self.entries[name]


def _origin(plugin: str) -> str:
    here = __file__
    for frame in inspect.stack()[2:]:
        if frame.filename != here and "pluggy" not in frame.filename:
            return f"{plugin}, {frame.filename}:{frame.lineno}"
    return plugin


@dataclass(frozen=True)
class Registry:
    """Everything that plug-ins registered."""

    methods: Catalog
    datasets: Catalog
    backbones: Catalog
    plugins: tuple[PluginInfo, ...]
    hooks: pluggy.HookRelay
    manager: pluggy.PluginManager

    def method_class(self, name: str) -> type:
        """The class of a registered method."""
        target = self.methods.find(name).load()
        if not isinstance(target, type):
            raise PluginError(f"method '{name}' is {target!r}, expected a dataclass")
        return target

    def dataset(self, name: str) -> Any:
        """A data set instance for a name or `family:argument`."""
        family, colon, argument = name.partition(":")
        if colon and f"{family}:" in self.datasets.entries:
            if not argument:
                raise UsageError(
                    f"'{name}' lacks what comes after the colon (fsbench list datasets)"
                )
            return self.datasets.entries[f"{family}:"].load()(argument)
        return self.datasets.find(name).load()()

    def expand_datasets(self, names: Iterable[str]) -> list[str]:
        """Replace suites by their members; unknown names raise UsageError."""
        suites = self.suites()
        found: list[str] = []
        for name in names:
            family, colon, _ = name.partition(":")
            if name in suites:
                found += suites[name]
            elif name in self.datasets.entries or (colon and f"{family}:" in self.datasets.entries):
                found.append(name)
            else:
                known = [*self.datasets.entries, *suites]
                raise unknown("data set", name, known, "fsbench list datasets")
        return list(dict.fromkeys(found))

    def suites(self) -> dict[str, list[str]]:
        """Suite name to data set names, in order of registration."""
        found: dict[str, list[str]] = {}
        for entry in self.datasets.entries.values():
            for suite in entry.suites:
                found.setdefault(suite, []).append(entry.name)
        return found


@functools.cache
def registry() -> Registry:
    """The registry of this process, built from the installed entry points on first use."""
    manager, infos = load_plugins()
    methods = Catalog("method", "methods")
    datasets = Catalog("data set", "datasets")
    backbones = Catalog("backbone", "backbones")
    _fill(manager, "register_methods", methods)
    _fill(manager, "register_datasets", datasets)
    _fill(manager, "register_backbones", backbones)
    return Registry(methods, datasets, backbones, infos, manager.hook, manager)


def _fill(manager: pluggy.PluginManager, hook: str, catalog: Catalog) -> None:
    """Call one plug-in's hook at a time, so that each name knows where it came from."""
    implementations = getattr(manager.hook, hook).get_hookimpls()
    for implementation in sorted(implementations, key=_builtin_first):
        catalog._plugin = implementation.plugin_name
        implementation.function(register=catalog.register)


def _builtin_first(implementation: pluggy.HookImpl) -> tuple[bool, str]:
    name = implementation.plugin_name
    return (not name.startswith("fewshot"), name)
