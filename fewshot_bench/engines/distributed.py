"""`DistributedEngine`: a `System` starts workers that claim cells; this process watches the store.

The workers need only the store, so they may run on any machine that can access it.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import (
    HOOK_SECONDS,
    Engine,
    EngineError,
    EngineSetup,
    Progress,
    StoreSnapshot,
    by_fit,
)
from fewshot_bench.engines.job import Job

POLL_SECONDS = 1.0
# Maximum share of time spent on polling a slow file system.
POLL_SHARE = 0.1
# Starts of workers in a row that finish no cell, after which the run fails.
VAIN_STARTS = 3
# After the last worker has ended, its last record may take a moment to become visible.
GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class State:
    """The state of a job's workers.

    alive: workers that run or wait to run. text: for the user, shown when it changes. trouble:
    reasons why workers have ended.
    """

    alive: int
    text: str = ""
    trouble: tuple[str, ...] = ()


class System(ABC):
    """Starts workers somewhere: a scheduler, a cluster, a launcher of processes."""

    name: str

    @abstractmethod
    def start(self, job: Job, workers: int) -> Job:
        """Start this many workers, each `job.command`; EngineError if the system refuses.

        Returns the job that they work for: this one, or a running one for the same cells.
        """

    @abstractmethod
    def state(self) -> State:
        """The state of all workers that were started."""

    @abstractmethod
    def cancel(self) -> None:
        """End the workers that this process started."""

    def preview(self, workers: int) -> str:
        """The output of `--dry-run` for this many workers."""
        return ""


@dataclass
class DistributedEngine(Engine):
    """Runs cells through at most `most` workers of a `System`."""

    setup: EngineSetup
    system: System
    most: int = 1
    _starts: int = 0
    # Starts in a row without a new result, and the number of open cells at the last one.
    _vain: int = 0
    _left_at_start: int = -1
    _running: bool = False
    _reported: str = ""
    _job: Job | None = None

    @property
    def workers(self) -> int:
        """The number of cells that can run at once."""
        return self.most * self.setup.settings.workers

    def preview(self, cells: int) -> str:
        """The system's preview of the workers for this many cells."""
        return self.system.preview(min(self.most, cells))

    def close(self) -> None:
        """Cancel running workers, and release the claim on the job."""
        try:
            if self._running:
                self.system.cancel()
        finally:
            if self._job is not None:
                self._job.leave()

    def run(self, cells: Sequence[RunSpec], progress: Progress) -> Iterator[Record]:
        """Start workers and watch the store; yields each record once it is stored.

        Workers that end early (time limits, lost machines) are restarted as long as cells get
        done; otherwise EngineError with the known reasons.
        """
        if not cells:
            return
        before = self.setup.before or StoreSnapshot.of(self.setup.store, cells)
        job = self._job = Job.create(before, cells, self.setup.settings)
        self._running = True
        open_cells, gone_since = list(cells), math.inf
        while True:
            looked = time.monotonic()
            left = []
            for cell in open_cells:
                record = before.new_record(cell)
                if record is None:
                    left.append(cell)
                else:
                    yield record
            open_cells = left
            if not open_cells:
                break
            state = self._ask_state(job) if self._starts else State(0)
            # Without the time of a start: connecting to a cluster may take half a minute.
            spent = time.monotonic() - looked
            if state.alive:
                gone_since = math.inf
            elif not self._starts or time.monotonic() - gone_since > GRACE_SECONDS:
                self._check_progress(job, len(open_cells), state)
                job = self._start(job, min(self.most, len(by_fit(open_cells))))
                gone_since = math.inf
            else:
                gone_since = min(gone_since, time.monotonic())
            time.sleep(max(POLL_SECONDS, spent * (1 / POLL_SHARE - 1)))
        self._running = False
        if self._starts and not job.open_cells():
            with suppress(EngineError):
                self._end_workers()

    def _ask_state(self, job: Job) -> State:
        try:
            state = self.system.state()
        except EngineError:
            # The state is unknown: leave workers running.
            self._running = False
            raise
        if state.text and state.text != self._reported:
            self._reported = state.text
            self.setup.say(f"{self.system.name}: {state.text} (output in {job.folder})")
        return state

    def _check_progress(self, job: Job, left: int, state: State) -> None:
        """EngineError if the workers ended without results, too often or for a reason."""
        self._vain = self._vain + 1 if left == self._left_at_start else 0
        self._left_at_start = left
        trouble = job.trouble()
        if self._vain >= VAIN_STARTS or (trouble and self._vain):
            self._running = False
            reasons = "; ".join([*trouble, *state.trouble]) or "they said no reason"
            raise EngineError(
                f"the workers of job {job.name} on {self.system.name} have ended with "
                f"{left} cells left ({reasons}); their output is in {job.folder}; "
                "the same command again continues"
            )

    def _start(self, job: Job, workers: int) -> Job:
        """Start workers; the job that they work for."""
        job.forget_trouble()
        try:
            self._job = self.system.start(job, workers)
        except BaseException:
            if not self._starts:
                job.remove()
            raise
        self._starts += 1
        return self._job

    def _end_workers(self) -> None:
        """Cancel workers, once their `run_finished` hooks of the last records have ended."""
        end = time.monotonic() + HOOK_SECONDS if self.setup.settings.variables else 0.0
        while self.system.state().alive:
            if time.monotonic() >= end:
                self.system.cancel()
                return
            time.sleep(1.0)
