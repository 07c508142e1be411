"""The registry of this process: methods, data sets and backbones by name, with their plug-ins.

`registry()` is the entry point. Targets are imported on first use; a failing plug-in does not
affect the others.

    registry().method_class("clip-lora")
    registry().dataset("folder:photos")
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pluggy

from fewshot_bench.api import method_code, method_files
from fewshot_bench.api import method_files as method_references
from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.dataset_overrides import SKIPPED, Without, customized
from fewshot_bench.api.method_rules import refuse_broken
from fewshot_bench.api.metrics import METRICS, Metric
from fewshot_bench.api.options import Option
from fewshot_bench.api.plugins import OWN, PluginInfo, call, implementations, load_plugins
from fewshot_bench.utils.errors import FsbenchError, PluginError, UsageError, unknown

# The suite of all methods.
EVERY = "all"
# Folder in a store for the splits that data sets draw from a user's own images.
KEPT_SPLITS = Path("splits", "made")


def options_of(
    name: str, opener: Callable[..., Any], data: Mapping[str, Any], store: Path | None
) -> dict[str, Any]:
    """Keyword arguments for a data set's factory; UsageError for an unsupported `holdout`."""
    known = inspect.signature(opener).parameters
    options: dict[str, Any] = {"holdout": data["holdout"]} if "holdout" in data else {}
    if options and "holdout" not in known:
        raise UsageError(f"'{name}' comes with its own test images; leave --holdout out")
    if store is not None and "splits" in known:
        options["splits"] = store / KEPT_SPLITS
    if name in data.get(SKIPPED, {}) and "lenient" in known:
        options["lenient"] = True
    return options


def place_without_family(name: str) -> UsageError:
    """The error for the path of an existing folder or file in place of a data set name."""
    family = "folder" if Path(name).is_dir() else "manifest"
    return UsageError(
        f"unknown data set '{name}': did you mean '{family}:{name}'? ({name} is a "
        f"{'folder' if family == 'folder' else 'file'} here; docs/own-data.md)"
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered name: target "module:attribute" (or object), origin (plug-in, file:line)."""

    name: str
    target: Any
    origin: str
    suites: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    elsewhere: bool = False

    @property
    def is_built_in(self) -> bool:
        """True if this distribution registered the name."""
        return self.origin.startswith(f"{OWN}:")

    def load(self) -> Any:
        """Import the target; PluginError with the origin if that fails."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            value: Any = importlib.import_module(module)
            for part in attribute.split("."):
                value = getattr(value, part)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"'{self.name}' cannot be loaded from '{self.target}' ({self.origin}): "
                f"{type(error).__name__}: {error}"
            ) from error
        return value


@dataclass
class Catalog:
    """All names of one kind (method, data set, backbone, metric, engine, option).

    entries: the usable names. conflicts: error messages by name, for names that are registered more
    than once. failed: problems of failed plug-ins, which register nothing. built_in_first: a
    built-in entry wins over others of its name, since commands use it by default.
    """

    kind: str
    listing: str
    built_in_first: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)
    conflicts: dict[str, str] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    _plugin: str = ""
    _claims: list[Entry] = field(default_factory=list)

    def register(
        self,
        name: str,
        target: Any,
        *,
        suites: Iterable[str] = (),
        options: Iterable[Option] = (),
        elsewhere: bool = False,
    ) -> None:
        """Add a name; if several plug-ins add it, it is a conflict. PluginError if invalid."""
        origin = _origin(self._plugin)
        if not isinstance(name, str) or not name.strip():
            raise PluginError(f"{self.kind} {name!r} ({origin}): expected a name first")
        if not isinstance(target, str) and not callable(target):
            raise PluginError(
                f"{self.kind} '{name}' ({origin}): target {target!r} is neither "
                "'module:attribute' nor a callable"
            )
        if isinstance(suites, str):
            raise PluginError(
                f"{self.kind} '{name}' ({origin}): suites={suites!r} is text, expected "
                f"suites=({suites!r},)"
            )
        _check_options(f"{self.kind} '{name}' ({origin})", options := tuple(options))
        self._claims.append(Entry(name, target, origin, tuple(suites), options, elsewhere))
        self._settle()

    def suites(self) -> dict[str, list[str]]:
        """The names in each suite, in registration order."""
        found: dict[str, list[str]] = {}
        for entry in self.entries.values():
            for suite in entry.suites:
                found.setdefault(suite, []).append(entry.name)
        return found

    def register_option(self, option: Option) -> None:
        """Add an option for commands that run cells."""
        _check_options(f"{self.kind} ({_origin(self._plugin)})", (option,))
        self.register(option.name, option.value, options=(option,))

    def _settle(self) -> None:
        """Recompute entries and conflicts from all claims."""
        claims: dict[str, list[Entry]] = {}
        for entry in self._claims:
            claims.setdefault(entry.name, []).append(entry)
        first = self._built_in(claims) if self.built_in_first else {}
        alone = {name: found[0] for name, found in claims.items() if len(found) == 1}
        self.entries = {name: (first | alone)[name] for name in claims if name in first | alone}
        self.conflicts = {
            name: _is_built_in(self.kind, name, [e for e in claims[name] if e is not entry])
            for name, entry in first.items()
        }
        self.conflicts |= {
            name: f"two plug-ins register the {self.kind} '{name}': "
            f"{' and '.join(entry.origin for entry in found)}; uninstall one, or disable its "
            "entry point with FSBENCH_DISABLE_PLUGINS"
            for name, found in claims.items()
            if len(found) > 1 and name not in first
        }

    @staticmethod
    def _built_in(claims: Mapping[str, list[Entry]]) -> dict[str, Entry]:
        """The built-in entries of names that other plug-ins claim as well."""
        own = {name: [e for e in found if e.is_built_in] for name, found in claims.items()}
        return {name: own[name][0] for name, e in claims.items() if len(e) > len(own[name]) == 1}

    def forget(self, plugin: str) -> None:
        """Remove everything that a plug-in registered before it failed."""
        self._claims = [e for e in self._claims if not e.origin.startswith(f"{plugin},")]
        self._settle()

    def names(self) -> list[str]:
        """All usable names, sorted, families (`folder:`) included."""
        return sorted(self.entries)

    def find(self, name: str) -> Entry:
        """The entry of a name; UsageError suggests the closest one."""
        self.refuse_conflict(name)
        if name not in self.entries:
            known = [*self.entries, *self.suites()]
            raise self.unknown(name, known, f"fsbench list {self.listing}")
        return self.entries[name]

    def refuse_conflict(self, name: str) -> None:
        """PluginError if several plug-ins claim a name, which makes it ambiguous."""
        if name in self.conflicts and name not in self.entries:
            raise PluginError(self.conflicts[name])

    def unknown(self, name: str, known: Iterable[str], step: str) -> UsageError:
        """The error for an unknown name; lists failed plug-ins, which may have defined it."""
        return unknown(self.kind, name, known, "; ".join([step, *self.failed]))


def _is_built_in(kind: str, name: str, others: Iterable[Entry]) -> str:
    origins = " and ".join(entry.origin for entry in others)
    return f"{kind} '{name}' is built in; the one of {origins} is left out"


def _check_options(where: str, options: tuple[Option, ...]) -> None:
    """PluginError for an invalid or duplicate option declaration."""
    keys = [getattr(option, "key", None) for option in options]
    for option in options:
        problem = option.problem() if isinstance(option, Option) else f"{option!r} is no Option"
        if not problem and keys.count(option.key) > 1:
            problem = f"option --{option.name} stands there twice"
        if problem:
            raise PluginError(f"{where}: {problem}")


def _origin(plugin: str) -> str:
    # Not inspect.stack(): it reads source files and would dominate the runtime.
    frame = inspect.currentframe()
    while frame is not None:
        filename = frame.f_code.co_filename
        if filename != __file__ and "pluggy" not in filename:
            return f"{plugin}, {filename}:{frame.f_lineno}"
        frame = frame.f_back
    return plugin


@dataclass(frozen=True, eq=False)
class Registry:
    """Everything that plug-ins registered."""

    methods: Catalog
    datasets: Catalog
    backbones: Catalog
    metrics: Catalog
    engines: Catalog
    options: Catalog
    plugins: tuple[PluginInfo, ...]
    hooks: pluggy.HookRelay

    def implementations(self, hook: str) -> list[tuple[str, Callable[..., Any]]]:
        """(plug-in name, function) of every implementation of a hook, built-in ones first."""
        return [(found.plugin_name, found.function) for found in implementations(self.hooks, hook)]

    def call(
        self, hook: str, failed: Callable[[str, PluginError], None], **arguments: Any
    ) -> list[tuple[str, Any]]:
        """(plug-in name, return value) per plug-in, as `plugins.call`; `failed` gets failures."""
        return list(call(self.hooks, hook, failed, **arguments))

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        """All catalogs."""
        return (
            self.methods,
            self.datasets,
            self.backbones,
            self.metrics,
            self.engines,
            self.options,
        )

    def method(self, name: str) -> Entry:
        """The entry of a registered method, or of one in a file (`path/to/file.py:ClassName`)."""
        if name in self.methods.entries or not method_references.is_meant(name):
            return self.methods.find(name)
        own = method_references.canonical(name)
        return Entry(own, method_files.load(name), own)

    def name_of(self, cls: type) -> str:
        """The name of a method's class: its registered name, or `file.py:Class` of its module.

        Empty for a class of a notebook or script, or inside a function.
        """
        for entry in self.methods.entries.values():
            place, _, attribute = str(entry.target).partition(":")
            found = getattr(sys.modules.get(place), attribute, None)
            if entry.target in (cls, f"{cls.__module__}:{cls.__qualname__}") or found is cls:
                return entry.name
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if not file or cls.__module__ == "__main__" or "." in cls.__qualname__:
            return ""
        return f"{os.path.realpath(file)}:{cls.__name__}"

    def method_class(self, name: str) -> type:
        """The class of a method."""
        entry = self.method(name)
        target = entry.load()
        if not isinstance(target, type):
            raise PluginError(f"method '{name}' ({entry.origin}) is {target!r}, expected a class")
        try:
            method_code.note_import(target.__module__)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"method '{name}' ({entry.origin}): {error_text(error, name)}"
            ) from error
        return target

    def code(self, name: str) -> dict[str, str | bool]:
        """Identity of a method's code in this process, as stored in records.

        `registered`: True if a plug-in registered it, with the plug-in's `distribution` and
        `version`. `digest`: of its source; empty if the class cannot be loaded.
        """
        plugin = self.method(name).origin.partition(",")[0]
        info = next((info for info in self.plugins if info.full_name == plugin), None)
        try:
            digest = method_code.running_digest(self.method_class(name))
        except PluginError:
            digest = ""
        return {
            "registered": name in self.methods.entries,
            "distribution": info.distribution if info else "",
            "version": info.version if info else "",
            "digest": digest,
        }

    def metric(self, name: str) -> Metric:
        """A built-in or plug-in metric; PluginError if the target is no `Metric` of that name."""
        if name in METRICS:
            return METRICS[name]
        self.metrics.refuse_conflict(name)
        if name not in self.metrics.entries:
            known = [*METRICS, *self.metrics.entries]
            raise self.metrics.unknown(name, known, "fsbench list metrics")
        entry = self.metrics.entries[name]
        found = entry.load()
        if not isinstance(found, Metric) or found.name != name:
            raise PluginError(
                f"metric '{name}' ({entry.origin}) is {found!r:.80}, expected a Metric of that name"
            )
        module = entry.target.partition(":")[0] if isinstance(entry.target, str) else ""
        source = method_code.note_import(module or found.compute.__module__)
        return replace(found, source=source or entry.origin, origin=entry.origin)

    def suite_of_methods(self, suite: str) -> tuple[list[str], dict[str, str]] | None:
        """The methods of a suite or `all`, and the reasons by name for the broken, left-out ones.

        None if `suite` is no suite; a method's own name never is.
        """
        suites = self.methods.suites()
        if suite == EVERY:
            left_out = dict(zip(self.methods.failed, self.methods.failed, strict=True))
            left_out |= self.methods.conflicts
            names = self.methods.names()
        elif suite in suites and suite not in self.methods.entries:
            left_out, names = {}, suites[suite]
        else:
            return None
        for name in names:
            try:
                refuse_broken(name, self.method_class(name), self.methods.find(name).origin)
            except PluginError as error:
                left_out[name] = str(error)
        return [name for name in names if name not in left_out], left_out

    def dataset(
        self, name: str, data: Mapping[str, Any] | None = None, store: Path | None = None
    ) -> Any:
        """A data set instance for a name or `family:argument`.

        data: the user's settings `classnames`, `templates`, `holdout` and `skipped` images, as in
        `RunSpec.data`. store: the results folder, which holds kept splits (`Keeping`).
        """
        data = data or {}
        family, colon, argument = name.partition(":")
        self.datasets.refuse_conflict(f"{family}:" if colon else name)
        entry = self.dataset_entry(name) or self.datasets.find(name)
        of_family = entry.name.endswith(":")
        if of_family and not argument:
            raise UsageError(f"'{name}' lacks what comes after the colon (fsbench list datasets)")
        opener = entry.load()
        options = options_of(name, opener, data, store)
        with self.blaming(name):
            dataset = opener(argument, **options) if of_family else opener(**options)
        dataset = customized(dataset, data.get("classnames"), data.get("templates"))
        skipped = data.get(SKIPPED, {}).get(name)
        return Without(dataset, tuple(skipped)) if skipped else dataset

    def dataset_entry(self, name: str) -> Entry | None:
        """The entry of a data set's name or family (`folder:`); None if there is none."""
        family, colon, _ = name.partition(":")
        entries = self.datasets.entries
        return (entries.get(f"{family}:") if colon else None) or entries.get(name)

    @contextmanager
    def blaming(self, name: str) -> Iterator[None]:
        """Turn errors of a data set's code inside the context into PluginError with their place.

        FsbenchError, which already has a remedy, and OSError (no permission) pass unchanged.
        """
        try:
            yield
        except (FsbenchError, OSError):
            raise
        except (Exception, SystemExit) as error:
            family, colon, _ = name.partition(":")
            entry = self.datasets.find(f"{family}:" if colon else name)
            reason = error_text(error, entry.target)
            raise PluginError(f"data set '{name}' ({entry.origin}) failed: {reason}") from error

    def expand_datasets(self, names: Iterable[str]) -> list[str]:
        """Replace suites by their members; unknown names raise UsageError."""
        suites = self.datasets.suites()
        found: list[str] = []
        for name in names:
            family, colon, _ = name.partition(":")
            if name in suites:
                found += suites[name]
            elif name in self.datasets.entries or (colon and f"{family}:" in self.datasets.entries):
                found.append(name)
            else:
                self.datasets.refuse_conflict(f"{family}:" if colon else name)
                known = [*self.datasets.entries, *suites]
                if Path(name).exists():
                    raise place_without_family(name)
                step = "fsbench list datasets; names are separated by commas"
                raise self.datasets.unknown(name, known, step)
        return list(dict.fromkeys(found))


@functools.cache
def registry() -> Registry:
    """The registry of this process, built from the installed entry points on first use."""
    manager, infos = load_plugins()
    methods = Catalog("method", "methods")
    datasets = Catalog("data set", "datasets")
    backbones = Catalog("backbone", "backbones")
    metrics = Catalog("metric", "metrics")
    engines = Catalog("engine", "engines", built_in_first=True)
    options = Catalog("option", "options", built_in_first=True)
    catalogs = (methods, datasets, backbones, metrics, engines, options)
    failed = _fill(manager, "register_methods", methods)
    failed |= _fill(manager, "register_datasets", datasets)
    failed |= _fill(manager, "register_backbones", backbones)
    failed |= _fill(manager, "register_metrics", metrics)
    failed |= _fill(manager, "register_engines", engines)
    failed |= _fill(manager, "register_options", options, options.register_option)
    for plugin in failed:
        # In all catalogs, so that a failed plug-in causes no name conflicts.
        for catalog in catalogs:
            catalog.forget(plugin)
    for name in METRICS.keys() & metrics.entries.keys():
        metrics.conflicts[name] = _is_built_in("metric", name, [metrics.entries.pop(name)])
    for entry in methods.entries.values():
        if isinstance(entry.target, str):
            # Plug-ins may have imported a part of their package; the rest is noted on use.
            method_code.note_import(entry.target.partition(":")[0])
    infos = tuple(replace(i, error=i.error or failed.get(i.full_name)) for i in infos)
    for catalog in catalogs:
        catalog.failed = tuple(info.problem for info in infos if info.error)
    return Registry(methods, datasets, backbones, metrics, engines, options, infos, manager.hook)


def _fill(
    manager: pluggy.PluginManager,
    hook: str,
    catalog: Catalog,
    register: Callable[..., None] | None = None,
) -> dict[str, str]:
    """Call one plug-in's hook at a time, so that each entry records its origin.

    Returns the reason per plug-in whose hook failed.
    """
    failed = {}
    for implementation in implementations(manager.hook, hook):
        catalog._plugin = implementation.plugin_name
        try:
            implementation.function(register=register or catalog.register)
        except (Exception, SystemExit) as error:
            failed[implementation.plugin_name] = f"{hook}: {type(error).__name__}: {error}"
    return failed
