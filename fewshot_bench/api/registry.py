"""The registry of this process: methods, data sets and backbones by name, with their plug-ins.

`registry()` is the entry point. Targets are imported on first use; a failing plug-in does not
affect the others.

    registry().method_class("clip-lora")
    registry().dataset("folder:photos")
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from fewshot_bench.api import code_closure, method_code, own_methods
from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.catalog import Catalog, Entry, tell_built_in_wins
from fewshot_bench.api.column_names import taken
from fewshot_bench.api.dataset import SKIPPED, CheckedItems, Without, customize
from fewshot_bench.api.method_rules import EVERY, refuse_broken
from fewshot_bench.api.metrics import BUILT_IN, Metric
from fewshot_bench.api.own_methods import OwnMethod
from fewshot_bench.api.plugin_host import PluginHost, PluginHosts
from fewshot_bench.api.plugins import (
    PluginInfo,
    call,
    foreign_plugins,
    implementations,
    load_plugins,
)
from fewshot_bench.utils.errors import ContractError, FsbenchError, PluginError, UsageError
from fewshot_bench.utils.plugin_code import plugin_code, same_state
from fewshot_bench.utils.start import remember_environment
from fewshot_bench.utils.withheld import refuse

if TYPE_CHECKING:
    from fewshot_bench.api.spec import RunSpec

# Folder in a store for the splits that data sets draw from a user's own images.
KEPT_SPLITS = Path("splits", "made")


def options_of(
    name: str, opener: Callable[..., Any], data: Mapping[str, Any], store: Path | None
) -> dict[str, Any]:
    """Keyword arguments for a data set's factory; UsageError for an unsupported `holdout`."""
    parameters = inspect.signature(opener).parameters
    options: dict[str, Any] = {"holdout": data["holdout"]} if "holdout" in data else {}
    if options and "holdout" not in parameters:
        raise UsageError(f"'{name}' comes with its own test images; leave --holdout out")
    if store is not None and "splits" in parameters:
        options["splits"] = store / KEPT_SPLITS
    if name in data.get(SKIPPED, {}) and "lenient" in parameters:
        options["lenient"] = True
    return options


def is_place(name: str) -> bool:
    """True for the path of a folder or file: of one that exists, or that no name looks like."""
    return name.startswith((".", "~", os.sep)) or os.path.exists(name)


def place_without_family(name: str) -> UsageError:
    """The error for a path in place of a data set name."""
    is_file = os.path.isfile(os.path.expanduser(name))
    what = "is a file" if is_file else "is a folder" if os.path.exists(name) else "does not exist"
    return UsageError(
        f"unknown data set '{name}': did you mean '{'manifest' if is_file else 'folder'}:{name}'? "
        f"({name} {what} here; docs/how-to/own-data.md)"
    )


@dataclass(frozen=True, eq=False)
class Registry:
    """Everything that plug-ins registered."""

    methods: Catalog
    datasets: Catalog
    backbones: Catalog
    metrics: Catalog
    engines: Catalog
    options: Catalog
    plugins: Sequence[PluginInfo]
    hooks: pluggy.HookRelay
    hosts: Mapping[str, PluginHost] = field(default_factory=dict)

    def implementations(self, hook: str) -> list[tuple[str, Callable[..., Any]]]:
        """(plug-in name, function) of every implementation of a hook, built-in ones first.

        Of this process alone: not of plug-ins that run in another one.
        """
        return [(one.plugin_name, one.function) for one in implementations(self.hooks, hook)]

    def has_hook(self, hook: str) -> bool:
        """True if a plug-in of this or another process implements a hook."""
        others = any(hook in host.hooks for host in self.hosts.values())
        return others or bool(self.implementations(hook))

    def call(
        self, hook: str, failed: Callable[[str, PluginError], None], **arguments: Any
    ) -> list[tuple[str, Any]]:
        """(plug-in name, return value) per plug-in; failed: as in `plugins.call`."""
        answers = list(call(self.hooks, hook, failed, **arguments))
        for name, host in self.hosts.items():
            if hook not in host.hooks:
                continue
            try:
                answers += [(name, value) for value in host.call(hook, arguments)]
            except FsbenchError as error:
                failed(name, error if isinstance(error, PluginError) else PluginError(str(error)))
        return answers

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        """All catalogs."""
        first = (self.methods, self.datasets, self.backbones)
        return (*first, self.metrics, self.engines, self.options)

    def forget(self, plugin: str) -> None:
        """Remove everything that a plug-in registered, in all catalogs."""
        for catalog in self.catalogs:
            catalog.forget(plugin)

    def method(self, name: str) -> Entry:
        """The entry of a registered method, of a known one of a file, or of a reference to one."""
        own = None if name in self.methods.entries else own_methods.find(name)
        if name in self.methods.entries or not (own or method_code.is_meant(name)):
            return self.methods.find(name)
        where = own.reference if own else method_code.canonical(name)
        host = None if _hosts is None else _hosts.of_file(where)
        cls = method_code.load(where) if host is None else host.method_class(where)
        return Entry(own.name if own else where, cls, where)

    def own_method(self, reference: str) -> OwnMethod:
        """The method of a class in a file (`path/to/file.py:Class`) as it is now; adopts it.

        UsageError if there is none, or if a plug-in registers its name, PluginError if it breaks a
        rule or is edited meanwhile.
        """
        where = method_code.canonical(reference)
        own = own_methods.read_kept(where)
        if own is None:
            file = Path((method_code.parts(where) or ("",))[0])
            before = own_methods.read_files(file) if file.is_file() else {}
            cls = self.method(where).load()
            refuse_broken(where, cls, where)
            own = own_methods.of_file(cls, where, before, code_closure.source_digest(cls))
            if own_methods.read_files(file) != before:
                raise PluginError(f"'{file}' was changed while it was imported; run again")
        self._refuse_taken(own)
        own_methods.adopt(own)
        return own

    def _refuse_taken(self, own: OwnMethod) -> None:
        """UsageError for a name that means something else already."""
        name, methods = own.name, self.methods
        entry = methods.entries.get(name)
        taken_by = entry.origin if entry else methods.conflicts.get(name, "")
        if not taken_by and name in (EVERY, *methods.suites()):
            taken_by = "a suite of methods"
        if taken_by:
            raise UsageError(
                f"'{own.reference}' has the name '{name}', which is taken ({taken_by}): rows of "
                f"both would be one; give the class another, such as name: ClassVar[str] = "
                f"'my-{name}'"
            )

    def owner(self, method: str) -> str:
        """The foreign plug-in, or the file, that the code of a method belongs to; else empty."""
        entry = self.methods.entries.get(method)
        if entry is not None:
            return "" if entry.is_built_in else entry.plugin
        own = own_methods.find(method)
        return own.reference if own else ""

    def name_of(self, cls: type) -> str:
        """The name of a method's class: its registered name, or `file.py:Class` of its module.

        Empty for a class of a notebook or script, or inside a function.
        """
        for entry in self.methods.entries.values():
            module_name, _, attribute = str(entry.target).partition(":")
            value = getattr(sys.modules.get(module_name), attribute, None)
            if entry.target in (cls, f"{cls.__module__}:{cls.__qualname__}") or value is cls:
                return entry.name
        module = sys.modules.get(cls.__module__)
        file = getattr(module, "__file__", None)
        if not file or cls.__module__ == "__main__" or "." in cls.__qualname__:
            return ""
        if getattr(module, cls.__name__, None) is None:
            # Made by a function of that module, such as `dataclasses.make_dataclass`.
            return ""
        return f"{os.path.realpath(file)}:{cls.__name__}"

    def method_class(self, name: str) -> type:
        """The class of a method; its description if its plug-in runs in another process."""
        entry = self.method(name)
        host = self.hosts.get(entry.plugin)
        if host is not None:
            return host.method_class(name)
        target = entry.load()
        if not isinstance(target, type):
            raise PluginError(f"method '{name}' ({entry.origin}) is {target!r}, expected a class")
        try:
            code_closure.note_import(target.__module__)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"method '{name}' ({entry.origin}): {error_text(error, name)}"
            ) from error
        return target

    def code(self, name: str, cls: type | None = None) -> dict[str, str | bool]:
        """Identity of a method's code in this process, as stored in records.

        cls: the class that runs under this name; by default the one that the name stands for.
        `registered`: True if a plug-in registered it, with the plug-in's `distribution` and
        `version`. `digest`: of its source; empty if the class cannot be loaded.
        """
        registered = name in self.methods.entries
        own = None if registered else own_methods.find(name)
        if own is not None and (cls is None or self.method_class(name) is cls):
            digest = own.facts.digest
            return {"registered": False, "distribution": "", "version": "", "digest": digest}
        if cls is not None and not (registered and self.method_class(name) is cls):
            digest = code_closure.running_digest(cls)
            return {"registered": False, "distribution": "", "version": "", "digest": digest}
        plugin = self.method(name).plugin
        info = next((info for info in self.plugins if info.full_name == plugin), None)
        try:
            digest = code_closure.running_digest(self.method_class(name))
        except PluginError:
            digest = ""
        return {
            "registered": registered,
            "distribution": info.distribution if info else "",
            "version": info.version if info else "",
            "digest": digest,
        }

    def code_of(self, spec: RunSpec) -> dict[str, str | bool]:
        """As `code`, of a cell: the digest is that of all its methods."""
        digests = [str(self.code(method)["digest"]) for method in spec.methods]
        return {**self.code(spec.method), "digest": code_closure.join_digests(digests)}

    def owner_of(self, spec: RunSpec) -> str:
        """As `owner`, of a cell: the owner of the first of its methods that has one."""
        return next(filter(None, map(self.owner, spec.methods)), "")

    def metric(self, name: str) -> Metric:
        """A built-in or plug-in metric; PluginError if the target is no `Metric` of that name."""
        if name in BUILT_IN:
            return BUILT_IN[name]
        self.metrics.refuse_conflict(name)
        if name not in self.metrics.entries:
            names = [*BUILT_IN, *self.metrics.entries]
            raise self.metrics.unknown(name, names, "fsbench list metrics")
        entry = self.metrics.entries[name]
        metric = entry.load()
        if not isinstance(metric, Metric) or metric.name != name:
            # An error that the plug-in caught when it built the metric is shown whole.
            shown = f"{metric!r}" if isinstance(metric, BaseException) else f"{metric!r:.80}"
            raise PluginError(
                f"metric '{name}' ({entry.origin}) is {shown}, expected a Metric of that name"
            )
        module = entry.target.partition(":")[0] if isinstance(entry.target, str) else ""
        source = code_closure.running_digest_of_module(module or metric.compute.__module__)
        return replace(metric, source=source or entry.origin, origin=entry.origin)

    def suite_of_methods(self, suite: str) -> tuple[list[str], dict[str, str]] | None:
        """The methods of a suite or `all`, and the reasons by name for the broken, left-out ones.

        None if `suite` is no suite; a method's own name never is.
        """
        suites = self.methods.suites()
        if suite == EVERY:
            left_out = {reason: reason for reason in self.methods.failed} | self.methods.conflicts
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
        refuse(f"data set '{name}'")
        data = data or {}
        family, colon, argument = name.partition(":")
        self.datasets.refuse_conflict(f"{family}:" if colon else name)
        entry = self.dataset_entry(name) or self.datasets.find(name)
        of_family = entry.name.endswith(":")
        if of_family and not argument:
            raise UsageError(f"'{name}' lacks what comes after the colon (fsbench list datasets)")
        opener = entry.load()
        options = options_of(name, opener, data, store)
        with self.blaming(name), same_state():
            dataset = opener(argument, **options) if of_family else opener(**options)
        if hasattr(dataset, "items"):
            dataset = CheckedItems(dataset, name, f"data set '{name}' ({entry.origin}) failed")
        dataset = customize(dataset, data.get("classnames"), data.get("templates"))
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

        FsbenchError, which already has a remedy, and OSError (no permission) pass unchanged, but
        not a ContractError of a plug-in, whose author built a card or an item wrongly.
        """
        family, colon, _ = name.partition(":")
        try:
            yield
        except (FsbenchError, OSError) as error:
            entry = self.dataset_entry(name)
            if not isinstance(error, ContractError) or entry is None or entry.is_built_in:
                raise
            raise PluginError(f"data set '{name}' ({entry.origin}) failed: {error}") from error
        except (Exception, SystemExit) as error:
            entry = self.datasets.find(f"{family}:" if colon else name)
            reason = error_text(error, entry.target)
            raise PluginError(f"data set '{name}' ({entry.origin}) failed: {reason}") from error

    def expand_datasets(self, names: Iterable[str]) -> list[str]:
        """Replace suites by their members; unknown names raise UsageError."""
        suites = self.datasets.suites()
        datasets: list[str] = []
        for name in names:
            if name in suites:
                datasets += suites[name]
            elif self.dataset_entry(name) is not None:
                datasets.append(name)
            else:
                family, colon, _ = name.partition(":")
                self.datasets.refuse_conflict(f"{family}:" if colon else name)
                names = [*self.datasets.entries, *suites]
                if is_place(name):
                    raise place_without_family(name)
                step = "fsbench list datasets; names are separated by commas"
                raise self.datasets.unknown(name, names, step)
        return list(dict.fromkeys(datasets))


def collect_plugins(foreign: bool = True) -> Registry:
    """Import the plug-ins and have them register; `foreign`: those of other distributions, too."""
    manager, infos = load_plugins(foreign)
    plugins = Registry(
        Catalog("method", "methods"),
        Catalog("data set", "datasets"),
        Catalog("backbone", "backbones"),
        Catalog("metric", "metrics"),
        Catalog("engine", "engines", built_in_first=True),
        Catalog("option", "options", built_in_first=True),
        infos,
        manager.hook,
    )
    failed: dict[str, str] = {}
    for catalog in plugins.catalogs:
        failed |= _fill(manager, catalog)
    for plugin in failed:
        # A failed plug-in causes no name conflicts in other catalogs.
        plugins.forget(plugin)
        # Its other hooks are not called either: they may count on what it did not register.
        manager.unregister(name=plugin)
    infos[:] = [replace(info, error=info.error or failed.get(info.full_name)) for info in infos]
    return plugins


# The processes of foreign plug-ins while cells are planned and run; None elsewhere.
_hosts: PluginHosts | None = None


@contextmanager
def hosting() -> Iterator[None]:
    """Inside, foreign plug-ins and files with methods run in processes of their own.

    Their methods are described in this process, which imports no module of theirs. What the
    environment is now is what processes get that are started inside.
    """
    global _hosts
    if _hosts is not None:
        yield
        return
    with remember_environment():
        _hosts, foreign = PluginHosts(), foreign_plugins()
        if foreign:
            registry.cache_clear()
        try:
            yield
        finally:
            hosts, _hosts = _hosts, None
            hosts.close()
            if foreign:
                registry.cache_clear()


@contextmanager
def importing() -> Iterator[None]:
    """Inside, this process imports foreign plug-ins and files with methods, also in `hosting`."""
    global _hosts
    hosts, _hosts = _hosts, None
    if hosts is not None:
        registry.cache_clear()
    try:
        yield
    finally:
        _hosts = hosts
        if hosts is not None:
            registry.cache_clear()


def _add_foreign(plugins: Registry, hosts: PluginHosts) -> Registry:
    """The registry with the foreign plug-ins, which their processes describe."""
    infos, started = list(plugins.plugins), {}
    for info in foreign_plugins():
        error = info.error
        if not error:
            host = started[info.full_name] = hosts.of_plugin(info.full_name)
            entries, error = host.describe()
            try:
                for catalog in plugins.catalogs:
                    catalog.add(() if error else entries.get(catalog.kind, ()))
            except PluginError as failure:
                error = str(failure)
                plugins.forget(info.full_name)
        infos.append(replace(info, error=error))
    infos.sort(key=lambda info: (info.name, info.target))
    return replace(plugins, plugins=infos, hosts=started)


@functools.cache
def registry() -> Registry:
    """The registry of this process, built from the installed entry points on first use."""
    plugins = collect_plugins(foreign=_hosts is None)
    if _hosts is not None:
        plugins = _add_foreign(plugins, _hosts)
    metrics = plugins.metrics
    for name in BUILT_IN.keys() & metrics.entries.keys():
        metrics.conflicts[name] = tell_built_in_wins("metric", name, [metrics.entries.pop(name)])
    for name in [name for name in metrics.entries if taken(name, {*metrics.entries} - {name})]:
        origin = metrics.entries.pop(name).origin
        metrics.conflicts[name] = (
            f"metric '{name}' ({origin}): the name is a column of another plug-in's metric; "
            "choose another"
        )
    targets = [entry.target for entry in plugins.methods.entries.values()]
    # Plug-ins may have imported a part of their package; the rest is noted on use.
    code_closure.note_imports(t.partition(":")[0] for t in targets if isinstance(t, str))
    for catalog in plugins.catalogs:
        catalog.failed = tuple(info.problem for info in plugins.plugins if info.error)
    return plugins


def _fill(manager: pluggy.PluginManager, catalog: Catalog) -> dict[str, str]:
    """Call one plug-in's hook at a time, so that each entry records its origin.

    Returns the reason per plug-in whose hook failed.
    """
    failed, hook = {}, f"register_{catalog.listing}"
    for implementation in implementations(manager.hook, hook):
        catalog._plugin = implementation.plugin_name
        try:
            with plugin_code():
                implementation.function(register=catalog.registering)
        except (Exception, SystemExit) as error:
            failed[implementation.plugin_name] = f"{hook}: {type(error).__name__}: {error}"
    return failed
