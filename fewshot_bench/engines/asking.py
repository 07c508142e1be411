"""A run that is asked for: its `Request`, with `auto` resolved, and the engine that it names.

The command line and the library both use `ask`, so that one call means one run in both. Unknown and
unusable values are refused before anything is planned. `ChosenEngine` builds and runs the engine;
errors of a plug-in's engine tell where it comes from.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.catalog import Entry
from fewshot_bench.api.defaults import backbone_for, check_device, numbered, precision_for
from fewshot_bench.api.options import RUN_OPTIONS, Option, is_given, names_of, values_of
from fewshot_bench.api.plugins import is_own
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import AUTO, PRECISIONS, RunSpec
from fewshot_bench.runner.own_data import read_own_data
from fewshot_bench.runner.request import Request
from fewshot_bench.utils import determinism, offline
from fewshot_bench.utils import devices as known
from fewshot_bench.utils.cache_dir import feature_budget
from fewshot_bench.utils.environment import set_variables
from fewshot_bench.utils.errors import FsbenchError, PluginError, UsageError, unknown
from fewshot_bench.utils.text import option_name

if TYPE_CHECKING:
    from fewshot_bench.engines.base import Engine, EngineError, EngineSetup, Progress, Settings
    from fewshot_bench.store.store import Store

_FIELDS = frozenset(field.name for field in dataclasses.fields(Request))
# Prefix of variables of fewshot_bench itself; other plug-ins name theirs otherwise.
RESERVED = "FSBENCH_"


def ask(values: Mapping[str, Any], declared: Mapping[str, Any] | None = None) -> Request:
    """The request for the values of a call, ready to plan: `read_request`, then `settle`."""
    return settle(read_request(values, declared))


def read_request(values: Mapping[str, Any], declared: Mapping[str, Any] | None = None) -> Request:
    """The request for values of `RUN_OPTIONS` by name; those left out or None have their defaults.

    declared: values of options that engines and plug-ins declare, by `Option.key`. UsageError for
    an unknown engine, options of another engine, and values that cannot be read.
    """
    given = {key: value for key, value in (declared or {}).items() if is_given(value)}
    asked = {name: row.default for name, row in RUN_OPTIONS.items()}
    asked |= {name: value for name, value in values.items() if value is not None}
    entry, shared = registry().engines.find(asked["engine"]), options_of_all_engines()
    _refuse_foreign(entry, given, {option.key for option in shared})
    others = [name for name in names_of("condition") if name not in _FIELDS]
    return Request(
        **{name: value for name, value in asked.items() if name in _FIELDS},
        data=read_own_data(asked["classnames"], asked["templates"], asked["holdout"]),
        others={name: asked[name] for name in others},
        engine_options=values_of(entry.options, given),
        plugin_options=values_of(shared, given),
    )


def settle(request: Request) -> Request:
    """The request with `auto` resolved: backbone, devices, precision. Needed before planning.

    UsageError for an unknown precision or backbone, and an invalid or absent device.
    """
    if request.precision not in (AUTO, *PRECISIONS):
        raise unknown("precision", request.precision, (AUTO, *PRECISIONS), "fsbench run --help")
    backbone = backbone_for(request.backbone, request.datasets, request.transfer)
    here, devices = ChosenEngine(request).here, request.devices
    if devices == (AUTO,):
        devices = _choose_devices(request)
    else:
        _check_devices(devices, here)
    precision = precision_for(request.precision, devices, here=here)
    return dataclasses.replace(request, backbone=backbone, devices=devices, precision=precision)


def precision_in(store: Path, backbone: str, precision: str) -> str:
    """`precision` itself; for `auto`, that of most of the backbone's records in a store."""
    if precision != AUTO:
        return precision
    from fewshot_bench.store.store import Store

    specs = [record.spec for record in Store(store).records()] if store.is_dir() else []
    counts = Counter(spec.precision for spec in specs if spec.backbone == backbone)
    return max(PRECISIONS, key=lambda name: counts[name])


def options_of_all_engines() -> list[Option]:
    """The options that plug-ins registered for all engines."""
    return [option for entry in registry().options.entries.values() for option in entry.options]


def _choose_devices(request: Request) -> tuple[str, ...]:
    engine = ChosenEngine(request)
    if engine.here:
        return numbered(known.accelerator_kind() or known.CPU)
    # This machine may be a login node: decide by the GPUs requested for workers.
    asks = (
        option.asks_gpus is not None and option.asks_gpus(request.engine_options[option.key])
        for option in engine.entry.options
    )
    return (known.usual_kind() if any(asks) else known.CPU,)


def _check_devices(names: tuple[str, ...], here: bool) -> None:
    """UsageError unless the devices go together, and this machine has them if cells run `here`."""
    for name in names:
        check_device(name, here=False)
    if len(set(names)) != len(names):
        raise UsageError(f"devices {','.join(names)}: one stands there twice")
    if len({name.partition(":")[0] for name in names}) > 1:
        raise UsageError(
            f"devices {','.join(names)}: results of one run come from one kind of device; "
            "give each kind in a run of its own"
        )
    kind = names[0].partition(":")[0]
    if len(names) > 1 and kind in names:
        raise UsageError(f"devices {','.join(names)}: name each one, such as {kind}:0,{kind}:1")
    for name in names:
        check_device(name, here=here)


def _refuse_foreign(entry: Entry, given: Iterable[str], shared: set[str]) -> None:
    """UsageError for an option of another engine, or an unknown one."""
    own = {option.key for option in entry.options} | shared
    for key in given:
        if key in own:
            continue
        registry().options.refuse_conflict(key.replace("_", "-"))
        engines = registry().engines.entries.values()
        owners = [e.name for e in engines if any(option.key == key for option in e.options)]
        name = option_name(key)
        if owners:
            raise UsageError(
                f"{name} is an option of --engine {' or '.join(owners)}, and the engine is "
                f"{entry.name}"
            )
        raise unknown("option", name, map(option_name, own), f"fsbench show {entry.name}")


@dataclass(frozen=True)
class ChosenEngine:
    """The engine that a request names."""

    request: Request

    @property
    def entry(self) -> Entry:
        """The registry entry of the engine."""
        return registry().engines.find(self.request.engine)

    @property
    def here(self) -> bool:
        """True when cells are computed on this machine."""
        return not self.entry.elsewhere

    def worker_environment(self, store: Path) -> dict[str, dict[str, str]]:
        """The variables that each plug-in gives to its hooks and its methods, by plug-in.

        Raises a plug-in's refusal; PluginError for a variable of fewshot_bench itself.
        """
        given: dict[str, Any] = {"store": store.absolute(), "options": self.request.plugin_options}
        variables_by_plugin = dict(registry().call("worker_environment", _refuse, **given))
        for plugin, variables in variables_by_plugin.items():
            for name in variables:
                if name.startswith(RESERVED) and not is_own(plugin):
                    raise PluginError(
                        f"worker_environment of plug-in {plugin} sets {name}: {RESERVED}* are "
                        "settings of fewshot_bench itself, by which cells of a run would differ; "
                        "expected another name"
                    )
        return variables_by_plugin

    def settings(
        self,
        force: bool = False,
        code: str = "",
        variables: Mapping[str, Mapping[str, str]] | None = None,
        *,
        cells: int,
    ) -> Settings:
        """The settings of the engine for this many cells."""
        from fewshot_bench.engines.base import Settings
        from fewshot_bench.engines.local import slots

        asked = self.request
        devices = len(asked.devices)
        if self.here:
            count, threads = slots(asked.backbone, asked.device, asked.jobs, devices)
            # Workers beyond the cells never start, and must not take a share of the memory.
            count = max(1, min(count, -(-cells // devices)))
        else:
            # As many threads as on this machine, unless given: they can change the last digits.
            count, threads = asked.jobs or 1, slots(asked.backbone, "cpu", 1)[1]
        budget = asked.feature_budget
        given = {"timeout": asked.timeout, "hang": asked.hang_after, "lease": asked.lease}
        return Settings(
            devices=asked.devices,
            slots=count,
            threads=asked.threads or threads,
            force=force,
            step=asked.step,
            verbose=asked.verbose,
            deterministic=asked.deterministic or determinism.is_asked(),
            keep_logits=asked.keep_logits or "",
            keep_models=asked.keep_models,
            offline=offline.is_on(),
            feature_budget=feature_budget() if budget is None else budget,
            variables=variables or {},
            code=code,
            **{name: value for name, value in given.items() if value is not None},
        )

    def build(self, setup: EngineSetup) -> Engine:
        """Build the engine; PluginError if its plug-in returns something else."""
        from fewshot_bench.engines.base import Engine

        with self.blaming():
            engine = self.entry.load()(setup)
        if not isinstance(engine, Engine):
            said = f"its builder gave {engine!r}, expected a fewshot_bench.engines.Engine"
            raise PluginError(f"engine '{self.entry.name}' ({self.entry.origin}): {said}")
        return engine

    @contextmanager
    def running(self, setup: EngineSetup) -> Iterator[Engine]:
        """Build and enter the engine; leave it afterwards."""
        engine = self.build(setup)
        with self.blaming():
            engine.__enter__()
        try:
            yield engine
        finally:
            with self.blaming():
                engine.__exit__(*sys.exc_info())

    def records(
        self, engine: Engine, cells: Sequence[RunSpec], progress: Progress, store: Store
    ) -> Iterator[Record]:
        """Yield a record of each cell, those of a plug-in's engine as they stand in the store.

        EngineError if the engine gives anything else.
        """
        left = {cell.key(): cell for cell in cells}
        with self.blaming():
            for record in engine.run(cells, progress):
                if not isinstance(record, Record):
                    raise self._error(f"run gave {record!r:.80}, expected records")
                key, said = record.spec.key(), f"run gave a record of {record.spec.describe()}"
                if left.pop(key, None) is None:
                    raise self._error(
                        f"{said}, which was not asked for or was given before; expected one of "
                        "each cell"
                    )
                stored = record if self.entry.is_built_in else store.get(key)
                if stored is None:
                    raise self._error(
                        f"{said}, which is not in the store '{store.path}': engines store what "
                        "they compute"
                    )
                yield stored
            if left:
                raise self._error(
                    f"run gave no record of {len(left)} of {len(cells)} cells, the first of which "
                    f"is {next(iter(left.values())).describe()}; what it gave is kept, and the "
                    "same command again runs the others"
                )

    def _error(self, what: str) -> EngineError:
        from fewshot_bench.engines.base import EngineError

        return EngineError(f"engine '{self.entry.name}' ({self.entry.origin}): {what}")

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """Turn errors of a plug-in's engine into an EngineError with the origin; records stay.

        FsbenchErrors pass unchanged, and so do all errors of built-in engines.
        """
        try:
            yield
        except (Exception, SystemExit) as error:
            if isinstance(error, FsbenchError) or self.entry.is_built_in:
                raise
            raise self._error(f"failed: {error_text(error, self.entry.target)}") from error


def _refuse(plugin: str, failure: PluginError) -> None:
    """Raise the plug-in's own FsbenchError, else its failure.

    An option that it misses may conflict with another plug-in's, which is then the reason.
    """
    cause = failure.__cause__
    if isinstance(cause, FsbenchError):
        raise cause
    missing = str(cause.args[0]) if isinstance(cause, KeyError) and cause.args else ""
    conflict = registry().options.conflicts.get(missing.replace("_", "-"))
    if not conflict:
        raise failure
    raise PluginError(f"{failure}; {conflict}") from cause


@contextmanager
def hook_environment(store: Path, variables: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Set the variables of plug-ins where their hooks run: here, or in processes of their own."""
    from fewshot_bench.engines.base import STORE

    wanted = {STORE: str(store)}
    for plugin, given in variables.items():
        if plugin not in registry().hosts:
            wanted |= given
    for plugin, host in registry().hosts.items():
        host.set_variables({**variables.get(plugin, {}), STORE: str(store)})
    with set_variables(wanted):
        yield
