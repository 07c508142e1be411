"""What an engine is: it runs cells somewhere and hands back each record once it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.plugins.trackers import switch as trackers
from fewshot_bench.store.leases import LEASE_SECONDS
from fewshot_bench.store.record_files import Stamp
from fewshot_bench.store.store import Store
from fewshot_bench.utils import determinism, offline
from fewshot_bench.utils.errors import FsbenchError

Progress = Callable[[RunSpec, int, int], None]
# How often a cell is tried whose worker was lost.
TRIES = 2
# Seconds without any sign of life after which a worker counts as hanging.
HANG_SECONDS = 600.0


@dataclass(frozen=True)
class Settings:
    """How cells are run, whatever runs them.

    devices: one worker per slot of each; slots: workers per device; threads: CPU threads of each
    worker, None to leave them to torch. timeout: seconds that a cell may take. hang: seconds
    without a sign of life after which a worker is ended. lease: seconds after which a claim of a
    dead machine ends. together: how many seeds are fitted in one pass. track: trackers,
    joined by commas. code: what identifies the methods' code, so that workers of an earlier command
    that have imported other code are not taken for this one's.
    """

    devices: tuple[str, ...] = ("cpu",)
    slots: int = 1
    threads: int | None = None
    force: bool = False
    together: int = 1
    timeout: float | None = None
    hang: float = HANG_SECONDS
    lease: float = LEASE_SECONDS
    deterministic: bool = False
    offline: bool = False
    track: str = ""
    code: str = ""

    @property
    def workers(self) -> int:
        """How many workers there are on one machine."""
        return self.slots * len(self.devices)

    def environment(self) -> dict[str, str]:
        """Variables that tell worker processes."""
        told = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        if self.deterministic:
            # cuBLAS reads its variable when CUDA starts.
            told |= {determinism.VARIABLE: "1", determinism.WORKSPACE: determinism.WORKSPACE_VALUE}
        told |= {trackers.VARIABLE: self.track} if self.track else {}
        return told | ({offline.VARIABLE: "1"} if self.offline else {})


class Engine(Protocol):
    """Runs cells: locally, on Slurm, on Ray. The records are the same from each.

    Used as a context; leaving it ends or cancels what still runs.
    """

    @property
    def workers(self) -> int:
        """How many cells can run at once."""
        ...

    def warm(self, cells: int) -> None:
        """Get ready for this many cells while the caller still checks."""
        ...

    def run(self, cells: Sequence[RunSpec], progress: Progress) -> Iterator[Record]:
        """Compute the cells; yields each record once it is stored, also those of other writers.

        FsbenchError where nothing can go on; what is stored stays.
        """
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class EngineError(FsbenchError):
    """Workers could not go on for a reason that is no cell's fault."""


@dataclass
class Before:
    """What the store held of some cells when a run was planned, to see what others add."""

    store: Store
    stamps: dict[str, Stamp | None] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store, cells: Sequence[RunSpec]) -> Before:
        """As it is now."""
        return cls(store, {key: store.stamp(key) for key in (cell.key() for cell in cells)})

    def settled(self, cell: RunSpec) -> Record | None:
        """The record that somebody has stored since; None where there is none, or a broken one."""
        key = cell.key()
        stamp = self.store.stamp(key)
        if stamp is None or stamp == self.stamps.get(key):
            return None
        return self.store.get(key)

    def to_dict(self) -> Mapping[str, Stamp | None]:
        """Plain JSON-able values."""
        return dict(self.stamps)


def lost(cell: RunSpec, how: str, traceback: str = "", *, kind: str = "WorkerLost") -> Record:
    """The record of a cell whose worker gave none.

    A lost worker is the machine's failure: the next run tries the cell again. A cell that took too
    long is its own.
    """
    return Record(
        spec=cell,
        status="failed",
        environment={"code": registry().code(cell.method)},
        error={
            "type": kind,
            "message": how,
            "traceback": traceback,
            "expected": True,
            "transient": kind == "WorkerLost",
        },
    )
