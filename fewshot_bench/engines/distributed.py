"""Engines whose workers run on other machines: they claim cells, this process watches the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import Before, EngineError, Progress, Settings
from fewshot_bench.engines.closing import HOOK_SECONDS
from fewshot_bench.engines.job import Job
from fewshot_bench.engines.scheduling import by_fit
from fewshot_bench.store.store import Store

POLL_SECONDS = 1.0
# Looking at a slow file system takes at most this share of the time.
POLL_SHARE = 0.1
# How often workers are started again although the last ones finished nothing.
VAIN_STARTS = 3
# After the last worker is gone, its last record may take a moment to be seen.
GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class State:
    """What the workers of a job do. alive: how many run or wait to run; text: for people."""

    alive: int
    text: str
    trouble: tuple[str, ...] = ()


class System(Protocol):
    """What starts workers somewhere: Slurm, Ray."""

    name: str

    def start(self, job: Job, workers: int) -> Job:
        """Start this many workers (`job.take_part`); EngineError where that is refused.

        Returns the job that they work for: this one, or one for the same cells that is under way.
        """
        ...

    def state(self) -> State:
        """What they do now."""
        ...

    def cancel(self) -> None:
        """End those that this process started."""
        ...


@dataclass
class ClusterEngine:
    """Runs cells through the workers of a `System`; `say` is told when their number changes."""

    store: Store
    settings: Settings
    system: System
    most: int
    before: Before | None = None
    say: Callable[[str], None] = lambda text: None
    _starts: int = 0
    _vain: int = 0
    _running: bool = False
    _told: str = ""
    _done_at_start: int = -1
    _job: Job | None = None

    @property
    def workers(self) -> int:
        """How many cells can run at once."""
        return self.most * self.settings.workers

    def __enter__(self) -> ClusterEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        try:
            if self._running:
                self.system.cancel()
        finally:
            if self._job is not None:
                self._job.leave()

    def warm(self, cells: int) -> None:
        """Nothing is started before the cells are known to be sound."""

    def run(self, cells: Sequence[RunSpec], progress: Progress) -> Iterator[Record]:
        """Start workers and watch the store; yields each record once it is there.

        Workers that end early (time limits, lost machines) are started again as long as cells get
        done; EngineError with what is known when they do not.
        """
        before = self.before or Before.of(self.store, cells)
        open_cells, done = list(cells), 0
        if open_cells:
            self._job = Job.create(before, cells, self.settings)
            self._running = True
        gone_since: float | None = None
        while open_cells:
            looked = time.monotonic()
            left = []
            for cell in open_cells:
                record = before.settled(cell)
                if record is None:
                    left.append(cell)
                else:
                    done += 1
                    yield record
            open_cells = left
            if not open_cells:
                break
            state = self._state()
            if state.alive:
                gone_since = None
            elif not self._starts or _passed(gone_since, GRACE_SECONDS):
                self._start(open_cells, done, state)
                gone_since = None
            elif gone_since is None:
                gone_since = time.monotonic()
            time.sleep(max(POLL_SECONDS, (time.monotonic() - looked) * (1 / POLL_SHARE - 1)))
        self._finish()

    def _state(self) -> State:
        if not self._starts:
            return State(0, "")
        try:
            state = self.system.state()
        except EngineError:
            # What cannot be seen is left to go on.
            self._running = False
            raise
        if state.text and state.text != self._told:
            self._told = state.text
            self.say(f"{self.system.name}: {state.text} (output in {self._started_job.folder})")
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
        """Workers that still wait for something are of no more use, unless others asked for it."""
        self._running = False
        if self._starts and not self._started_job.open_cells():
            with suppress(EngineError):
                self._let_trackers_end()
                if self.system.state().alive:
                    self.system.cancel()

    def _let_trackers_end(self) -> None:
        """Trackers are told after a record is stored: of the last ones, workers still may."""
        end = time.monotonic() + HOOK_SECONDS
        while self.settings.track and self.system.state().alive and time.monotonic() < end:
            time.sleep(1.0)


def _passed(since: float | None, seconds: float) -> bool:
    return since is not None and time.monotonic() - since > seconds
