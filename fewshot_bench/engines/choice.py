"""`EngineChoice`: engine, devices and options of a command; `Conditions`: the part in records.

Invalid options are detected before anything is planned.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.defaults import backbone_for, precision_for
from fewshot_bench.api.options import Option, is_given, values_of
from fewshot_bench.api.plugins import is_own
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import Entry, registry
from fewshot_bench.api.spec import AUTO, PRECISIONS, TOY, TOY_TEXT, RunSpec
from fewshot_bench.utils import determinism, offline
from fewshot_bench.utils.cache_dir import feature_budget
from fewshot_bench.utils.errors import FsbenchError, PluginError, UsageError, unknown
from fewshot_bench.utils.text import option_name, printable

if TYPE_CHECKING:
    from fewshot_bench.engines.base import Engine, EngineError, EngineSetup, Progress, Settings
    from fewshot_bench.store.store import Store

DEFAULT = "local"
# Variables of fewshot_bench itself; other plug-ins name theirs otherwise.
RESERVED = "FSBENCH_"


@dataclass(frozen=True)
class Conditions:
    """Backbone, devices and precision, as stored in records."""

    backbone: str
    devices: tuple[str, ...]
    precision: str

    @property
    def device(self) -> str:
        """The kind of device (cpu or cuda), as in cells."""
        return self.devices[0].partition(":")[0]

    def text(self) -> str:
        """The first line of a run."""
        devices = ", ".join(self.devices)
        toy = f" ({TOY_TEXT})" if self.backbone == TOY else ""
        return printable(
            f"backbone {self.backbone}{toy}, device {devices}, precision {self.precision}"
        )


@dataclass(frozen=True)
class EngineChoice:
    """An engine by name, its settings, and the values of options that plug-ins declared.

    options: of the engine; plugin_options: of `register_options`; both complete, by `Option.key`.
    """

    engine: str = DEFAULT
    device_names: tuple[str, ...] = ("auto",)
    jobs: int | None = None
    threads: int | None = None
    timeout: float | None = None
    hang_after: float | None = None
    lease: float | None = None
    deterministic: bool = False
    keep_logits: str | None = None
    keep_models: bool = False
    feature_budget: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    plugin_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, engine: str = DEFAULT, given: Mapping[str, Any] | None = None, **settings: Any
    ) -> EngineChoice:
        """A choice with checked options.

        given: values of declared options by `Option.key`; options not given are absent, None, an
        empty tuple or False. UsageError for an unknown engine, options of another engine, and
        unreadable values.
        """
        given = {key: value for key, value in (given or {}).items() if is_given(value)}
        known = registry()
        entry = known.engines.find(engine)
        plugin_options = run_options()
        _refuse_foreign(entry, given, {option.key for option in plugin_options})
        return cls(
            engine=engine,
            options=values_of(entry.options, given),
            plugin_options=values_of(plugin_options, given),
            **settings,
        )

    @property
    def entry(self) -> Entry:
        """The registry entry of the engine."""
        return registry().engines.find(self.engine)

    @property
    def here(self) -> bool:
        """True when cells are computed on this machine."""
        return not self.entry.elsewhere

    def devices(self) -> tuple[str, ...]:
        """The devices, `auto` resolved; UsageError for an invalid or absent device."""
        names = self._named()
        if names == ("auto",):
            return (self._automatic(),)
        if self.here:
            _check_present(names)
        return names

    @property
    def device_kind(self) -> str:
        """`cpu` or `cuda`, whether such a device is here or not; UsageError for an invalid one."""
        (first, *_) = self._named()
        return (self._automatic() if first == "auto" else first).partition(":")[0]

    def _named(self) -> tuple[str, ...]:
        """The names of the devices; UsageError unless `auto` or valid ones that go together."""
        names = self.device_names
        if names == ("auto",):
            return names
        for name in names:
            kind, colon, index = name.partition(":")
            if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not index.isdigit())):
                raise UsageError(f"device '{name}': expected auto, cpu, cuda or cuda:N")
        if len(set(names)) != len(names):
            raise UsageError(f"devices {','.join(names)}: one stands there twice")
        if len({name.partition(":")[0] for name in names}) > 1:
            raise UsageError(
                f"devices {','.join(names)}: results of one run come from one kind of device; "
                "give cpu and cuda in two runs"
            )
        if len(names) > 1 and "cuda" in names:
            raise UsageError(f"devices {','.join(names)}: name each one, such as cuda:0,cuda:1")
        return names

    def _automatic(self) -> str:
        if not self.here:
            # This machine may be a login node: decide by the GPUs requested for workers.
            asks = (
                option.asks_gpus is not None and option.asks_gpus(self.options[option.key])
                for option in self.entry.options
            )
            return "cuda" if any(asks) else "cpu"
        from fewshot_bench.api.defaults import cuda_is_there

        return "cuda" if cuda_is_there() else "cpu"

    def worker_environment(self, store: Path) -> dict[str, dict[str, str]]:
        """The variables that each plug-in gives to its hooks and its methods, by plug-in.

        Raises a plug-in's refusal; PluginError for a variable of fewshot_bench itself.
        """
        given: dict[str, Any] = {"store": store.absolute(), "options": self.plugin_options}
        found = dict(registry().call("worker_environment", _refuse, **given))
        for plugin, variables in found.items():
            for name in variables:
                if name.startswith(RESERVED) and not is_own(plugin):
                    raise PluginError(
                        f"worker_environment of plug-in {plugin} sets {name}: {RESERVED}* are "
                        "settings of fewshot_bench itself, by which cells of a run would differ; "
                        "expected another name"
                    )
        return found

    def settings(
        self,
        conditions: Conditions,
        force: bool = False,
        code: str = "",
        variables: Mapping[str, Mapping[str, str]] | None = None,
        *,
        cells: int,
    ) -> Settings:
        """The settings of the engine for this many cells under these conditions."""
        from fewshot_bench.engines.base import Settings
        from fewshot_bench.engines.local import slots

        backbone, devices = conditions.backbone, conditions.devices
        if self.here:
            count, threads = slots(backbone, conditions.device, self.jobs, len(devices))
            # Workers beyond the cells never start, and must not take a share of the memory.
            count = max(1, min(count, -(-cells // len(devices))))
        else:
            # As many threads as on this machine, unless given: they can change the last digits.
            count, threads = self.jobs or 1, slots(backbone, "cpu", 1)[1]
        budget = self.feature_budget
        given = {"timeout": self.timeout, "hang": self.hang_after, "lease": self.lease}
        return Settings(
            devices=devices,
            slots=count,
            threads=self.threads or threads,
            force=force,
            deterministic=self.deterministic or determinism.asked(),
            keep_logits=self.keep_logits or "",
            keep_models=self.keep_models,
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
            raise PluginError(
                f"engine '{self.engine}' ({self.entry.origin}): its builder gave {engine!r}, "
                "expected a fewshot_bench.engines.Engine"
            )
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
        """Yield the engine's records, at most one per cell; a plug-in's are re-read from the store.

        EngineError for anything else.
        """
        left = {cell.key() for cell in cells}
        with self.blaming():
            for record in engine.run(cells, progress):
                if not isinstance(record, Record):
                    raise self._error(f"run gave {record!r:.80}, expected records")
                if record.spec.key() not in left:
                    raise self._error(
                        f"run gave a record of {record.spec.describe()}, which was not asked for "
                        "or was given before; expected one of each cell"
                    )
                left.remove(record.spec.key())
                yield record if self.entry.is_built_in else self._stored(record, store)

    def refuse_less(self, cells: Sequence[RunSpec], records: Sequence[Record]) -> None:
        """EngineError unless there is a record of each cell."""
        given = {record.spec.key() for record in records}
        left = [cell for cell in cells if cell.key() not in given]
        if left:
            raise self._error(
                f"run gave no record of {len(left)} of {len(cells)} cells, the first of which is "
                f"{left[0].describe()}; what it gave is kept, and the same command again runs the "
                "others"
            )

    def _stored(self, record: Record, store: Store) -> Record:
        """The stored record of the same cell; EngineError if there is none."""
        found = store.get(record.spec.key())
        if found is None:
            raise self._error(
                f"run gave a record of {record.spec.describe()}, which is not in the store "
                f"'{store.path}': engines store what they compute"
            )
        return found

    def _error(self, what: str) -> EngineError:
        from fewshot_bench.engines.base import EngineError

        return EngineError(f"engine '{self.engine}' ({self.entry.origin}): {what}")

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """Turn errors of a plug-in's engine into an EngineError with the origin; records stay.

        FsbenchErrors pass unchanged, and so do all errors of built-in engines.
        """
        from fewshot_bench.engines.base import EngineError

        try:
            yield
        except (Exception, SystemExit) as error:
            if isinstance(error, FsbenchError) or self.entry.is_built_in:
                raise
            raise EngineError(
                f"engine '{self.engine}' ({self.entry.origin}) failed: "
                f"{error_text(error, self.entry.target)}"
            ) from error


# Fields of `EngineChoice` that apply to every engine.
SETTINGS = tuple(
    field.name
    for field in fields(EngineChoice)
    if field.name not in ("engine", "device_names", "options", "plugin_options")
)


def run_options() -> list[Option]:
    """The options that plug-ins registered for all engines."""
    return [option for entry in registry().options.entries.values() for option in entry.options]


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
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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
        names = [option_name(known) for known in own]
        raise unknown("option", name, names, f"fsbench show {entry.name}")


def _check_present(names: tuple[str, ...]) -> None:
    if names[0] == "cpu":
        return
    import torch

    count = torch.cuda.device_count()
    for name in names:
        if int(name.partition(":")[2] or 0) >= count:
            raise UsageError(
                f"device '{name}': this machine has {count} CUDA devices; use --devices cpu"
            )


def conditions_of(
    engines: EngineChoice,
    backbone: str,
    precision: str,
    datasets: Iterable[str],
    targets: Iterable[str] = (),
) -> Conditions:
    """Resolve `auto`; every command that plans cells calls this before planning."""
    if precision not in (AUTO, *PRECISIONS):
        raise unknown("precision", precision, (AUTO, *PRECISIONS), "fsbench run --help")
    chosen = backbone_for(backbone, datasets, targets)
    devices = engines.devices()
    here = engines.here
    return Conditions(chosen, devices, precision_for(precision, devices, here=here))


def take_conditions(engines: EngineChoice, values: dict[str, Any]) -> Conditions:
    """Pop backbone and precision from the options of `fsbench run`, and resolve them."""
    backbone, precision = values.pop("backbone"), values.pop("precision")
    return conditions_of(
        engines, backbone, precision, values["dataset"], values.get("transfer") or ()
    )


def conditions_of_paper(
    engines: EngineChoice, backbone: str, precision: str, paper: str
) -> Conditions:
    """Conditions with the paper's precision on CUDA, unless a precision is named."""
    on_cuda = precision == AUTO and not engines.devices()[0].startswith("cpu")
    return conditions_of(engines, backbone, paper if on_cuda else precision, ())


def precision_in(store: Path, backbone: str, precision: str) -> str:
    """`precision` itself; for `auto`, that of most of the backbone's records in a store."""
    if precision != AUTO:
        return precision
    from fewshot_bench.store.store import Store

    specs = [record.spec for record in Store(store).records()] if store.is_dir() else []
    counts = Counter(spec.precision for spec in specs if spec.backbone == backbone)
    return max(PRECISIONS, key=lambda name: counts[name])
