"""Names to lazily imported targets, with their origins."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pluggy

from fewshot_bench import method_code, method_files, method_references
from fewshot_bench.customized import customized
from fewshot_bench.damaged import SKIPPED, Without
from fewshot_bench.errors import PluginError, UsageError, unknown
from fewshot_bench.plugins import PluginInfo, load_plugins

# Below a store: the splits that data sets make of a person's own images.
KEPT_SPLITS = Path("splits", "made")


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
    conflicts: list[str] = field(default_factory=list)
    _plugin: str = ""

    def register(self, name: str, target: Any, *, suites: Iterable[str] = ()) -> None:
        """Add a name; a name that is taken is a conflict, told when the catalog is used."""
        origin = _origin(self._plugin)
        if name in self.entries:
            self.conflicts.append(
                f"two plug-ins register the {self.kind} '{name}': {self.entries[name].origin} and "
                f"{origin}; uninstall one, or disable its entry point with FSBENCH_DISABLE_PLUGINS"
            )
            return
        if not isinstance(target, str) and not callable(target):
            raise PluginError(
                f"{self.kind} '{name}' ({origin}): target {target!r} is neither "
                "'module:attribute' nor a callable"
            )
        self.entries[name] = Entry(name, target, origin, tuple(suites))

    def check(self) -> None:
        """PluginError when two plug-ins claim one name: which one is meant cannot be known."""
        if self.conflicts:
            raise PluginError(self.conflicts[0])

    def forget(self, plugin: str) -> None:
        """Take out what a plug-in registered before it failed."""
        mine = [name for name, e in self.entries.items() if e.origin.startswith(f"{plugin},")]
        for name in mine:
            del self.entries[name]

    def names(self) -> list[str]:
        """Registered names, sorted, families (`folder:`) included."""
        self.check()
        return sorted(self.entries)

    def find(self, name: str) -> Entry:
        """The entry of a name, or UsageError with the closest one."""
        self.check()
        if name not in self.entries:
            raise unknown(self.kind, name, self.entries, f"fsbench list {self.listing}")
        return self.entries[name]


def _origin(plugin: str) -> str:
    # Not inspect.stack(), which reads source files and takes longer than all else here.
    frame = inspect.currentframe()
    while frame is not None:
        filename = frame.f_code.co_filename
        if filename != __file__ and "pluggy" not in filename:
            return f"{plugin}, {filename}:{frame.f_lineno}"
        frame = frame.f_back
    return plugin


@dataclass(frozen=True)
class Registry:
    """Everything that plug-ins registered."""

    methods: Catalog
    datasets: Catalog
    backbones: Catalog
    plugins: tuple[PluginInfo, ...]
    hooks: pluggy.HookRelay

    def method(self, name: str) -> Entry:
        """The entry of a registered method, or of one in a file (`path/to/file.py:ClassName`)."""
        if name in self.methods.entries or not method_references.is_meant(name):
            return self.methods.find(name)
        own = method_references.canonical(name)
        return Entry(own, method_files.load(name), own)

    def method_class(self, name: str) -> type:
        """The class of a method."""
        target = self.method(name).load()
        if not isinstance(target, type):
            raise PluginError(f"method '{name}' is {target!r}, expected a dataclass")
        method_code.note_import(target.__module__)
        return target

    def code(self, name: str) -> dict[str, str]:
        """What identifies the code of a method that this process runs; it stands in a record.

        `distribution` and `version` of the plug-in that registered it, `digest` of its source.
        """
        plugin = self.method(name).origin.partition(",")[0]
        info = next((info for info in self.plugins if info.full_name == plugin), None)
        try:
            digest = method_code.running_digest(self.method_class(name))
        except PluginError:
            digest = ""
        return {
            "distribution": info.distribution if info else "",
            "version": info.version if info else "",
            "digest": digest,
        }

    def dataset(
        self, name: str, data: Mapping[str, Any] | None = None, store: Path | None = None
    ) -> Any:
        """A data set instance for a name or `family:argument`.

        data: what a person says about it: `classnames`, `templates`, `holdout` (`RunSpec.data`),
        and which images are `skipped`. store: the folder of results, with kept splits (`Keeping`).
        """
        data = data or {}
        family, colon, argument = name.partition(":")
        entry = self.datasets.entries.get(f"{family}:") if colon else None
        if entry is not None and not argument:
            raise UsageError(f"'{name}' lacks what comes after the colon (fsbench list datasets)")
        opener = (entry or self.datasets.find(name)).load()
        known = inspect.signature(opener).parameters
        options: dict[str, Any] = {"holdout": data["holdout"]} if "holdout" in data else {}
        if options and "holdout" not in known:
            raise UsageError(f"'{name}' comes with its own test images; leave --holdout out")
        if store is not None and "splits" in known:
            options["splits"] = store / KEPT_SPLITS
        skipped = data.get(SKIPPED, {}).get(name)
        if skipped is not None and "lenient" in known:
            options["lenient"] = True
        dataset = opener(argument, **options) if entry is not None else opener(**options)
        dataset = customized(dataset, data.get("classnames"), data.get("templates"))
        return Without(dataset, tuple(skipped)) if skipped else dataset

    def expand_datasets(self, names: Iterable[str]) -> list[str]:
        """Replace suites by their members; unknown names raise UsageError."""
        self.datasets.check()
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
                if Path(name).exists():
                    raise _place_without_family(name)
                step = "fsbench list datasets; names are separated by commas"
                raise unknown("data set", name, known, step)
        return list(dict.fromkeys(found))

    def suites(self) -> dict[str, list[str]]:
        """Suite name to data set names, in order of registration."""
        found: dict[str, list[str]] = {}
        for entry in self.datasets.entries.values():
            for suite in entry.suites:
                found.setdefault(suite, []).append(entry.name)
        return found


def _place_without_family(name: str) -> UsageError:
    """The error for a folder or file that is there, under no name of a data set."""
    family = "folder" if Path(name).is_dir() else "manifest"
    return UsageError(
        f"unknown data set '{name}': did you mean '{family}:{name}'? ({name} is a "
        f"{'folder' if family == 'folder' else 'file'} here; docs/own-data.md)"
    )


@functools.cache
def registry() -> Registry:
    """The registry of this process, built from the installed entry points on first use."""
    manager, infos = load_plugins()
    methods = Catalog("method", "methods")
    datasets = Catalog("data set", "datasets")
    backbones = Catalog("backbone", "backbones")
    failed = _fill(manager, "register_methods", methods)
    failed |= _fill(manager, "register_datasets", datasets)
    failed |= _fill(manager, "register_backbones", backbones)
    for entry in methods.entries.values():
        if isinstance(entry.target, str):
            # Plug-ins may have imported a part of their package; the rest follows when it is used.
            method_code.note_import(entry.target.partition(":")[0])
    infos = tuple(replace(i, error=i.error or failed.get(i.full_name)) for i in infos)
    return Registry(methods, datasets, backbones, infos, manager.hook)


def _fill(manager: pluggy.PluginManager, hook: str, catalog: Catalog) -> dict[str, str]:
    """Call one plug-in's hook at a time, so that each name knows where it came from.

    Returns the plug-ins whose hook failed, with the reason; they register nothing.
    """
    failed = {}
    implementations = getattr(manager.hook, hook).get_hookimpls()
    for implementation in sorted(implementations, key=_builtin_first):
        catalog._plugin = implementation.plugin_name
        try:
            implementation.function(register=catalog.register)
        except (Exception, SystemExit) as error:
            failed[implementation.plugin_name] = f"{hook}: {type(error).__name__}: {error}"
            catalog.forget(implementation.plugin_name)
    return failed


def _builtin_first(implementation: pluggy.HookImpl) -> tuple[bool, str]:
    name = implementation.plugin_name
    return (not name.startswith("fewshot"), name)
