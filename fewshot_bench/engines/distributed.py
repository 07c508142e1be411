"""Runs by workers on other machines, which need only the store.

A `Job` holds the cells; each worker computes open ones (`take_part`). `DistributedEngine` lets a
`System` start workers, and watches the store.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import secrets
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import hosting
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.asking import hook_environment
from fewshot_bench.engines.base import (
    HOOK_SECONDS,
    Engine,
    EngineError,
    EngineSetup,
    Progress,
    Settings,
    StoreSnapshot,
    by_fit,
)
from fewshot_bench.engines.local import LocalEngine
from fewshot_bench.engines.reporting import outcome
from fewshot_bench.store.leases import FOLDER as CLAIMS
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.store import JOBS, Store
from fewshot_bench.utils.errors import FsbenchError, StoreError
from fewshot_bench.utils.files import write_whole
from fewshot_bench.utils.processes import interrupt_on_signals, this_machine
from fewshot_bench.utils.text import printable

# Lease durations that a worker without cells of its own waits for cells claimed by others.
LINGER_LEASES = 2.0
STOPPED = 143
TROUBLE = "trouble-{}.txt"
POLL_SECONDS = 1.0
# Maximum share of time spent on polling a slow file system.
POLL_SHARE = 0.1
# Starts of workers in a row that finish no cell, after which the run fails.
VAIN_STARTS = 3
# After the last worker has ended, its last record may take a moment to become visible.
GRACE_SECONDS = 3.0


class _Saved(msgspec.Struct):
    """The content of a job's file."""

    cells: list[dict[str, Any]]
    settings: Settings
    # Stamps of the store before, by key.
    before: Mapping[str, bytes]


@dataclass(frozen=True)
class Job:
    """Cells, settings and a snapshot of the store before, saved in the store's `jobs/<name>/`."""

    store: Store
    name: str
    cells: tuple[RunSpec, ...]
    settings: Settings
    before: StoreSnapshot
    # Holds a claim as long as the command that waits for the results runs.
    _wanted: Leases | None = None

    @classmethod
    def create(cls, before: StoreSnapshot, cells: Sequence[RunSpec], settings: Settings) -> Job:
        """Create and claim a new job; StoreError if it cannot be written."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        store = before.store
        wanted = Leases(store, name, settings.lease)
        job = cls(store, name, tuple(cells), settings, before.only(cells), wanted)
        saved = _Saved([cell.to_dict() for cell in cells], settings, job.before.stamps)
        try:
            # Names of files may hold what UTF-8 cannot.
            text = json.dumps(msgspec.to_builtins(saved))
            write_whole(job.folder / "job.json", text.encode())
        except OSError as error:
            raise store.cannot_write(job.folder, error) from error
        wanted.claim(job._claim)
        return job

    @classmethod
    def read(cls, store: Store, name: str) -> Job:
        """The job of this name; StoreError if it does not exist or is damaged."""
        if not name.replace("-", "").isalnum():
            raise StoreError(f"'{name}' is no name of a job (folders in {store.path / JOBS})")
        path = store.path / JOBS / name / "job.json"
        try:
            saved = msgspec.convert(json.loads(path.read_bytes()), _Saved)
            cells = tuple(map(RunSpec.from_dict, saved.cells))
            return cls(store, name, cells, saved.settings, StoreSnapshot(store, saved.before))
        except FileNotFoundError:
            raise StoreError(f"no job '{name}' in '{store.path}'; give fsbench run again") from None
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise StoreError(f"job file '{path}' cannot be used ({error}); run again") from None

    @classmethod
    def list_finished(cls, store: Store) -> list[Path]:
        """Folders of jobs without open cells that no command waits for."""
        folders = []
        leases = Leases(store, "")
        for path in sorted((store.path / JOBS).glob("*/job.json")):
            with suppress(StoreError):
                job = cls.read(store, path.parent.name)
                if leases.is_free(job._claim) and not job.open_cells():
                    folders.append(job.folder)
        return folders

    @property
    def folder(self) -> Path:
        """The folder of the job's files, including logs of its workers."""
        return self.store.path / JOBS / self.name

    @property
    def command(self) -> list[str]:
        """The command of one worker: it claims open cells until none is left."""
        worker = ["worker", "--store", str(self.store.path), "--job", self.name]
        return [sys.executable, "-m", "fewshot_bench", *worker]

    @property
    def _claim(self) -> str:
        return f"job-{self.name}"

    def take_over(self, mine: Job) -> Job | None:
        """This job, claimed by this command in place of `mine`, which is removed.

        None if another command waits for this job.
        """
        wanted = Leases(self.store, mine.name, self.settings.lease)
        if wanted.claim(self._claim) is None:
            return None
        mine.remove()
        return dataclasses.replace(self, _wanted=wanted)

    def leave(self) -> None:
        """Release this command's claim on the job."""
        if self._wanted is not None:
            self._wanted.close()

    def remove(self) -> None:
        """Remove a job for which no worker was started."""
        self.leave()
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.folder.parent, self.store.path / CLAIMS):
            with suppress(OSError):
                # Fails, as intended, if the folder holds files of others.
                folder.rmdir()

    def open_cells(self) -> list[RunSpec]:
        """Cells without a new record."""
        return [cell for cell in self.cells if self.before.new_record(cell) is None]

    def trouble(self) -> list[str]:
        """The reasons why workers have given up."""
        reasons = []
        for path in sorted(self.folder.glob(TROUBLE.format("*"))):
            with suppress(OSError):
                reasons.append(path.read_text(encoding="utf-8", errors="replace").strip())
        return list(dict.fromkeys(reasons))

    def note_trouble(self, text: str) -> None:
        """Write down why this worker gives up."""
        name = TROUBLE.format(f"{this_machine()}-{os.getpid()}")
        with suppress(OSError):
            write_whole(self.folder / name, f"{text}\n".encode())

    def forget_trouble(self) -> None:
        """Remove recorded reasons before workers are restarted."""
        for path in self.folder.glob(TROUBLE.format("*")):
            path.unlink(missing_ok=True)

    def compute(self) -> None:
        """Compute the open cells, concurrently with other workers; FsbenchErrors are noted, too.

        Ends when all cells are settled, or when live workers hold the remaining ones.
        """
        linger = LINGER_LEASES * self.settings.lease
        try:
            with (
                hosting(),
                hook_environment(self.store.path, self.settings.variables),
                LocalEngine(
                    *(self.store, self.settings, self.before, self.name, linger),
                    say=_print,
                    show=_print,
                ) as engine,
            ):
                for record in engine.run(self.open_cells(), lambda *_: None):
                    print(outcome(record), flush=True)
                    if record.transient and self.before.new_record(record.spec) is None:
                        # The earlier result is kept: the store says nothing of this failure.
                        error = record.error or {}
                        self.note_trouble(f"{record.spec.describe()}: {error['message']}")
        except FsbenchError as error:
            self.note_trouble(str(error))
            raise


def _print(text: str) -> None:
    print(printable(text), flush=True)


def take_part(job: Job) -> int:
    """`Job.compute` as a command; returns an exit code.

    SIGTERM (a time limit is near, the job is preempted) releases claimed cells.
    """
    interrupt_on_signals()
    try:
        job.compute()
    except KeyboardInterrupt:
        print("stopped; what was claimed is free again", flush=True)
        return STOPPED
    except FsbenchError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    return 0


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
    """Runs cells through at most `most` workers of a `System`, each with `cores`."""

    setup: EngineSetup
    system: System
    most: int = 1
    cores: int = 1
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
            # First, the hooks that workers call after their last records may end.
            end = time.monotonic() + HOOK_SECONDS if self.setup.settings.variables else 0.0
            with suppress(EngineError):
                while (alive := self.system.state().alive) and time.monotonic() < end:
                    time.sleep(1.0)
                if alive:
                    self.system.cancel()

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
