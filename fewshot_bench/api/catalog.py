"""Catalogs of registered names: an `Entry` per name, with its origin, and the conflicts.

A `Catalog` holds all names of one kind; `fewshot_bench.api.registry` fills them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fewshot_bench.api import method_code
from fewshot_bench.api.column_names import taken
from fewshot_bench.api.metrics import BUILT_IN
from fewshot_bench.api.options import Option
from fewshot_bench.api.paper import Paper, as_papers
from fewshot_bench.api.plugins import OWN
from fewshot_bench.utils.errors import ContractError, PluginError, UsageError, suggestion, unknown
from fewshot_bench.utils.plugin_code import plugin_code


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered name: target "module:attribute" (or object), origin (plug-in, file:line).

    papers: what to cite; those of a method may stand on its card alone, which imports it.
    """

    name: str
    target: Any
    origin: str
    suites: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    elsewhere: bool = False
    papers: tuple[Paper, ...] = ()

    @property
    def plugin(self) -> str:
        """The full name of the plug-in that registered it."""
        return self.origin.partition(",")[0]

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
            with plugin_code():
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

    claims: all entries, as they were registered. entries: the usable names. conflicts: error
    messages by name, for names that are registered more than once. failed: problems of failed
    plug-ins, which register nothing. built_in_first: a built-in entry wins over others of its name,
    since commands use it by default.
    """

    kind: str
    listing: str
    built_in_first: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)
    conflicts: dict[str, str] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    claims: list[Entry] = field(default_factory=list)
    _plugin: str = ""

    def register(
        self,
        name: str,
        target: Any,
        *,
        suites: Iterable[str] = (),
        options: Iterable[Option] = (),
        elsewhere: bool = False,
        paper: Paper | Iterable[Paper] = (),
    ) -> None:
        """Add a name; if several plug-ins add it, it is a conflict. PluginError if invalid."""
        origin = _origin(self._plugin)
        where = f"{self.kind} '{name}' ({origin})"
        self._check_name(name, origin)
        if not isinstance(target, str) and not callable(target):
            raise PluginError(
                f"{where}: target {target!r} is neither 'module:attribute' nor a callable"
            )
        if isinstance(suites, str):
            raise PluginError(f"{where}: suites={suites!r} is text, expected suites=({suites!r},)")
        _check_options(where, options := tuple(options))
        try:
            papers = as_papers("paper", paper)
        except ContractError as error:
            raise PluginError(f"{where}: {error}") from None
        if papers and self.kind not in ("method", "data set", "backbone"):
            raise PluginError(
                f"{where}: only methods, data sets and backbones are registered with a paper"
            )
        self.claims.append(Entry(name, target, origin, tuple(suites), options, elsewhere, papers))
        self._settle()

    def _check_name(self, name: object, origin: str) -> None:
        if not isinstance(name, str) or not name.strip():
            raise PluginError(f"{self.kind} {name!r} ({origin}): expected a name first")
        if self.kind == "method" and method_code.is_meant(name):
            raise PluginError(
                f"method '{name}' ({origin}): this names a class in a file, whose code it is; "
                "expected another name"
            )
        if self.kind == "metric" and taken(name, BUILT_IN):
            raise PluginError(
                f"metric '{name}' ({origin}): the name is taken by a column of tables or data "
                "frames; choose another"
            )

    @property
    def registering(self) -> Callable[..., None]:
        """The function that plug-ins call to add a name of this kind."""
        return self.register_option if self.kind == "option" else self.register

    def add(self, entries: Iterable[Entry]) -> None:
        """Add entries that another process registered; PluginError for an invalid one."""
        for entry in entries:
            self._check_name(entry.name, entry.origin)
            _check_options(f"{self.kind} '{entry.name}' ({entry.origin})", entry.options)
            self.claims.append(entry)
        self._settle()

    def suites(self) -> dict[str, list[str]]:
        """The names in each suite, in registration order."""
        members: dict[str, list[str]] = {}
        for entry in self.entries.values():
            for suite in entry.suites:
                members.setdefault(suite, []).append(entry.name)
        return members

    def register_option(self, option: Option) -> None:
        """Add an option for commands that run cells."""
        _check_options(f"{self.kind} ({_origin(self._plugin)})", (option,))
        self.register(option.name, option.value, options=(option,))

    def _settle(self) -> None:
        """Recompute entries and conflicts from all claims."""
        claims: dict[str, list[Entry]] = {}
        for entry in self.claims:
            claims.setdefault(entry.name, []).append(entry)
        self.entries, self.conflicts = {}, {}
        for name, entries in claims.items():
            own = [entry for entry in entries if entry.is_built_in and self.built_in_first]
            others = [entry for entry in entries if entry not in own]
            if len(entries) == 1:
                (self.entries[name],) = entries
            elif len(own) == 1:
                (self.entries[name],) = own
                self.conflicts[name] = tell_built_in_wins(self.kind, name, others)
            else:
                origins = " and ".join(entry.origin for entry in entries)
                self.conflicts[name] = (
                    f"two plug-ins register the {self.kind} '{name}': {origins}; uninstall one, or "
                    "disable its entry point with FSBENCH_DISABLE_PLUGINS"
                )

    def forget(self, plugin: str) -> None:
        """Remove everything that a plug-in registered before it failed."""
        self.claims = [e for e in self.claims if not e.origin.startswith(f"{plugin},")]
        self._settle()

    def names(self) -> list[str]:
        """All usable names, sorted, families (`folder:`) included."""
        return sorted(self.entries)

    def find(self, name: str) -> Entry:
        """The entry of a name; UsageError suggests the closest one."""
        self.refuse_conflict(name)
        if name not in self.entries:
            names = [*self.entries, *self.suites()]
            step = f"fsbench list {self.listing}"
            if not suggestion(name, names):
                step += "; if a plug-in has it, install its package"
            raise self.unknown(name, names, step)
        return self.entries[name]

    def refuse_conflict(self, name: str) -> None:
        """PluginError if several plug-ins claim a name, which makes it ambiguous."""
        if name in self.conflicts and name not in self.entries:
            raise PluginError(self.conflicts[name])

    def unknown(self, name: str, names: Iterable[str], step: str) -> UsageError:
        """The error for an unknown name; lists failed plug-ins, which may have defined it."""
        return unknown(self.kind, name, names, "; ".join([step, *self.failed]))


def tell_built_in_wins(kind: str, name: str, others: Iterable[Entry]) -> str:
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
