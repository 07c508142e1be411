"""`DistributedEngine`: a `System` starts workers that claim cells; this process watches the store.

The workers need only the store, so they may run on any machine that can access it.
"""

from __future__ import annotations

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
    _vain: int = 0
    _running: bool = False
    _reported: str = ""
    _done_at_start: int = -1
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
        before = self.setup.before or StoreSnapshot.of(self.setup.store, cells)
        open_cells, done = list(cells), 0
        if open_cells:
            self._job = Job.create(before, cells, self.setup.settings)
            self._running = True
        gone_since: float | None = None
        while open_cells:
            looked = time.monotonic()
            left = []
            for cell in open_cells:
                record = before.new_record(cell)
                if record is None:
                    left.append(cell)
                else:
                    done += 1
                    yield record
            open_cells = left
            if not open_cells:
                break
            state = self._state()
            # Without the time of a start: connecting to a cluster may take half a minute.
            spent = time.monotonic() - looked
            if state.alive:
                gone_since = None
            elif not self._starts or has_passed(gone_since, GRACE_SECONDS):
                self._start(open_cells, done, state)
                gone_since = None
            elif gone_since is None:
                gone_since = time.monotonic()
            time.sleep(max(POLL_SECONDS, spent * (1 / POLL_SHARE - 1)))
        self._finish()

    def _state(self) -> State:
        if not self._starts:
            return State(0, "")
        try:
            state = self.system.state()
        except EngineError:
            # The state is unknown: leave workers running.
            self._running = False
            raise
        if state.text and state.text != self._reported:
            self._reported = state.text
            self.setup.say(
                f"{self.system.name}: {state.text} (output in {self._started_job.folder})"
            )
        return state

    @property
    def _started_job(self) -> Job:
        assert self._job is not None
        return self._job

    def _start(self, open_cells: Sequence[RunSpec], done: int, state: State) -> None:
        job = self._started_job
        self._vain = self._vain + 1 if done == self._done_at_start else 0
        trouble = [*job.trouble(), *state.trouble]
        if self._vain >= VAIN_STARTS or (job.trouble() and self._vain):
            self._running = False
            raise EngineError(
                f"the workers of job {job.name} on {self.system.name} have ended with "
                f"{len(open_cells)} cells left ({'; '.join(trouble) or 'they said no reason'}); "
                f"their output is in {job.folder}; the same command again continues"
            )
        job.forget_trouble()
        self._done_at_start = done
        try:
            self._job = self.system.start(job, min(self.most, len(by_fit(open_cells))))
        except BaseException:
            if not self._starts:
                job.remove()
            raise
        self._starts += 1

    def _finish(self) -> None:
        """Cancel workers that are still alive, once the job has no open cells."""
        self._running = False
        if self._starts and not self._started_job.open_cells():
            with suppress(EngineError):
                self._let_hooks_end()
                if self.system.state().alive:
                    self.system.cancel()

    def _let_hooks_end(self) -> None:
        """Wait for `run_finished` hooks, which workers call after storing their last record."""
        end = time.monotonic() + HOOK_SECONDS if self.setup.settings.variables else 0.0
        while time.monotonic() < end and self.system.state().alive:
            time.sleep(1.0)


def has_passed(since: float | None, seconds: float) -> bool:
    return since is not None and time.monotonic() - since > seconds
