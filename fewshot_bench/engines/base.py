"""The contract of engines: an `Engine` runs cells and yields each record once it is stored.

A plug-in registers a function from `EngineSetup` to an `Engine` (`register_engines`). Records never
depend on the engine that ran a cell.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.runner import cell_log
from fewshot_bench.store.leases import LEASE_SECONDS
from fewshot_bench.store.record_files import pack_stamp
from fewshot_bench.store.store import Store
from fewshot_bench.utils import determinism, offline, step_kind
from fewshot_bench.utils.cache_dir import BUDGET_VARIABLE
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.memory import SHARING_VARIABLE, WORKERS_VARIABLE

Progress = Callable[[RunSpec, int, int], None]
# Maximum tries of a cell whose worker is lost.
TRIES = 2
# Seconds without any sign of life after which a worker counts as hanging.
HANG_SECONDS = 600.0
# Seconds granted to hooks after the last record; all results are stored by then.
HOOK_SECONDS = 60.0
# The folder of results, for hooks: in workers, and in a command while it runs cells.
STORE = "FSBENCH_STORE"
# Cells that share a fit go to one worker, which fits once.
Group = list[RunSpec]


@dataclass(frozen=True)
class Settings:
    """Settings of a run that every engine gets.

    devices: one worker per slot of each; slots: workers per device; threads: CPU threads of each
    worker, None to leave them to torch. timeout: seconds that a cell may take. hang: seconds
    without a sign of life after which a worker is ended. lease: seconds after which a claim of a
    dead machine ends. step: the kind of training steps (`utils.step_kind`). verbose: how much
    of what cells print is shown live (`runner.cell_log`). keep_logits: which logits are kept
    (`store.keeping`). keep_models: True to keep the models of cells
    (`store.kept_models`). feature_budget: bytes of kept features, None for a share of the disk.
    variables: the variables of each plug-in (`worker_environment`), which its hooks and its
    methods get.
    code: identity of the methods' code, so that workers of an earlier command, which imported
    other code, are not mistaken for this one's.
    """

    devices: tuple[str, ...] = ("cpu",)
    slots: int = 1
    threads: int | None = None
    force: bool = False
    timeout: float | None = None
    hang: float = HANG_SECONDS
    lease: float = LEASE_SECONDS
    step: str = "auto"
    verbose: int = 0
    deterministic: bool = False
    keep_logits: str = ""
    keep_models: bool = False
    offline: bool = False
    feature_budget: int | None = None
    variables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    code: str = ""

    @property
    def workers(self) -> int:
        """The number of workers on one machine."""
        return self.slots * len(self.devices)

    def environment(self) -> dict[str, str]:
        """Environment variables of worker processes."""
        variables = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        variables |= {SHARING_VARIABLE: str(self.slots), WORKERS_VARIABLE: str(self.workers)}
        if self.step != "auto":
            variables[step_kind.VARIABLE] = self.step
        if self.verbose:
            variables[cell_log.VARIABLE] = str(self.verbose)
        if self.deterministic:
            # cuBLAS reads its variable when CUDA starts.
            variables[determinism.VARIABLE] = "1"
            variables[determinism.WORKSPACE] = determinism.WORKSPACE_VALUE
        if self.offline:
            variables[offline.VARIABLE] = "1"
        if self.feature_budget is not None:
            variables[BUDGET_VARIABLE] = str(self.feature_budget)
        return variables


class Engine(ABC):
    """Runs cells somewhere: on this machine, on Slurm, on Ray.

    A context manager; leaving it calls `close`, also after Ctrl-C.
    """

    # CPU cores of each of its machines; 0 for those of this machine.
    cores: int = 0

    @property
    def workers(self) -> int:
        """The number of cells that can run at once."""
        return 1

    def warm(self, cells: int) -> None:
        """Get ready for this many cells while the caller still checks its data."""

    @abstractmethod
    def run(self, cells: Sequence[RunSpec], progress: Progress) -> Iterator[Record]:
        """Compute the cells; yields each record once it is stored, also those of other writers.

        `progress(cell, done, total)` reports the steps of a cell, where they are known, and 0 of 0
        while it runs.
        EngineError if the run cannot continue; stored records stay.
        """

    def preview(self, cells: int) -> str:
        """The output of `--dry-run` for this many cells."""
        return ""

    def close(self) -> None:
        """Stop or cancel running workers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class EngineError(FsbenchError):
    """Workers could not continue, for a reason that is not a cell's fault."""


@dataclass
class StoreSnapshot:
    """Packed file stamps of the cells' records when a run was planned, to detect newer records.

    Cells without a record have none.
    """

    store: Store
    stamps: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store, cells: Sequence[RunSpec]) -> StoreSnapshot:
        """Snapshot the store now."""
        stamps = ((key, store.stamp(key)) for key in (cell.key() for cell in cells))
        return cls(store, {key: pack_stamp(stamp) for key, stamp in stamps if stamp is not None})

    def only(self, cells: Sequence[RunSpec]) -> StoreSnapshot:
        """The part of some cells."""
        keys = (cell.key() for cell in cells)
        return StoreSnapshot(
            self.store, {key: self.stamps[key] for key in keys if key in self.stamps}
        )

    def new_record(self, cell: RunSpec) -> Record | None:
        """The record stored since the snapshot; None if there is none, or a broken one."""
        key = cell.key()
        stamp = self.store.stamp(key)
        if stamp is None or pack_stamp(stamp) == self.stamps.get(key):
            return None
        return self.store.get(key)


def by_fit(cells: Sequence[RunSpec]) -> list[Group]:
    """Cells in groups that share a fit, in the order of each group's first cell.

    What other cells are on top of comes first. A group has code of one owner.
    """
    groups: dict[tuple[str, str], Group] = {}
    for cell in sorted(cells, key=lambda cell: bool(cell.inner)):
        key = cell.lowest.fit_key(), registry().owner_of(cell)
        groups.setdefault(key, []).append(cell)
    return list(groups.values())


@dataclass(frozen=True)
class EngineSetup:
    """The arguments of an engine's builder.

    store: where records go. settings: how cells are run. before: snapshot of the store when the
    cells were planned. options: values of the engine's own options by `Option.key`. say: prints a
    line for the user. show: prints a line of what a cell prints (`Settings.verbose`). cores: CPU
    cores that another machine needs for its workers, by unit costs.
    """

    store: Store
    settings: Settings = field(default_factory=Settings)
    before: StoreSnapshot | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda text: None
    show: Callable[[str], None] = lambda text: None
    cores: int = 1


def store_failure(store: Store, record: Record, log: str = "") -> Record:
    """Store a failed cell and return what to report; a failure of the machine keeps a result.

    log: what its code printed.
    """
    before, error = store.get(record.spec.key()), record.error or {}
    if before is not None and before.status == "done" and record.transient:
        message = f"{error['message']}; the earlier result is kept"
        return replace(record, error={**error, "message": message})
    return store.write(record, log=log)


def lost(cell: RunSpec, how: str, traceback: str = "", *, kind: str = "WorkerLost") -> Record:
    """A failed record for a cell whose worker returned none.

    `WorkerLost` is the machine's failure: the next run tries the cell again. Other kinds, such as
    `TimeLimit`, are the cell's own.
    """
    return Record(
        spec=cell,
        status="failed",
        environment={"code": registry().code_of(cell)},
        error={
            "type": kind,
            "message": how,
            "traceback": traceback,
            "expected": True,
            "transient": kind == "WorkerLost",
        },
    )
