"""`ChosenEngine`: builds and runs the engine that a request names, and names it in its errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.catalog import Entry
from fewshot_bench.api.plugins import is_own
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.runner.request import Request
from fewshot_bench.utils import determinism, offline
from fewshot_bench.utils.cache_dir import feature_budget
from fewshot_bench.utils.errors import FsbenchError, PluginError

if TYPE_CHECKING:
    from fewshot_bench.engines.base import Engine, EngineError, EngineSetup, Progress, Settings
    from fewshot_bench.store.store import Store

# Variables of fewshot_bench itself; other plug-ins name theirs otherwise.
RESERVED = "FSBENCH_"


@dataclass(frozen=True)
class ChosenEngine:
    """The engine that a request names; errors of a plug-in's engine tell where it comes from."""

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
            deterministic=asked.deterministic or determinism.asked(),
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
            raise PluginError(
                f"engine '{self.entry.name}' ({self.entry.origin}): its builder gave {engine!r}, "
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
                yield record if self.entry.is_built_in else self._read_back(record, store)

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

    def _read_back(self, record: Record, store: Store) -> Record:
        """The stored record of the same cell; EngineError if there is none."""
        stored = store.get(record.spec.key())
        if stored is None:
            raise self._error(
                f"run gave a record of {record.spec.describe()}, which is not in the store "
                f"'{store.path}': engines store what they compute"
            )
        return stored

    def _error(self, what: str) -> EngineError:
        from fewshot_bench.engines.base import EngineError

        return EngineError(f"engine '{self.entry.name}' ({self.entry.origin}): {what}")

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
                f"engine '{self.entry.name}' ({self.entry.origin}) failed: "
                f"{error_text(error, self.entry.target)}"
            ) from error


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
