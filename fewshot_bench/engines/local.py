"""The local engine: long-lived worker processes, each with its own backbone, on this machine.

A worker that is killed costs the cell that it held: the cell is tried once more by a new worker,
then recorded as failed. Each record is in the store before anyone hears of it.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from fewshot_bench.engines.worker import tell
from fewshot_bench.errors import FsbenchError, StoreError
from fewshot_bench.record import Record
from fewshot_bench.registry import registry
from fewshot_bench.spec import RunSpec
from fewshot_bench.store import Store

Progress = Callable[[RunSpec, int, int], None]
TRIES = 2
# Cells of one fit go to one worker, which fits once.
Group = list[RunSpec]


def slots(backbone: str, device: str, jobs: int | None) -> tuple[int, int | None]:
    """How many workers, and how many CPU threads each; None leaves threads to torch.

    A backbone whose loader says `threads = 1` is too small to gain from a second thread: then
    there is one worker per core unless `jobs` says otherwise.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    entry = registry().backbones.entries.get(backbone)
    small = entry is not None and getattr(entry.load(), "threads", None) == 1
    if device != "cpu":
        return jobs or 1, None
    if small:
        return jobs or cores, 1
    return jobs or 1, max(1, cores // (jobs or 1))


@dataclass(eq=False)
class _Worker:
    """One worker process, and the cells that it still has to finish; the first one is running."""

    process: subprocess.Popen[str]
    cells: list[RunSpec] = field(default_factory=list)
    fatal: dict[str, Any] | None = None

    def send(self, cells: Group, force: bool) -> None:
        """Hand over cells; a worker that is gone is noticed by its reader."""
        self.cells = list(cells)
        stream: IO[str] | None = self.process.stdin
        assert stream is not None
        try:
            specs = [cell.to_dict() for cell in cells]
            stream.write(json.dumps({"specs": specs, "force": force}) + "\n")
            stream.flush()
        except OSError:
            return

    def stop(self) -> None:
        """End the process now."""
        self.process.kill()
        self.process.wait()


@dataclass
class LocalEngine:
    """Runs cells in `jobs` worker processes; start it early, workers load while others check."""

    store: Store
    device: str = "cpu"
    jobs: int = 1
    threads: int | None = None
    force: bool = False
    together: int = 1
    _events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = field(default_factory=queue.Queue)
    _workers: list[_Worker] = field(default_factory=list)
    _fitted: set[str] = field(default_factory=set)

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()

    def _start(self) -> _Worker:
        threads = os.environ.get("OMP_NUM_THREADS") if self.threads is None else str(self.threads)
        environment = dict(os.environ) | ({"OMP_NUM_THREADS": threads} if threads else {})
        command = [sys.executable, "-m", "fewshot_bench.engines.worker"]
        process = subprocess.Popen(
            [*command, str(self.store.path), self.device, str(self.threads or 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,
        )
        worker = _Worker(process)
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()
        self._workers.append(worker)
        return worker

    def _read(self, worker: _Worker) -> None:
        stream = worker.process.stdout
        assert stream is not None
        for line in stream:
            self._events.put((worker, json.loads(line)))
        worker.process.wait()
        self._events.put((worker, None))

    def warm(self, cells: int) -> None:
        """Start as many workers as `cells` can use."""
        while len(self._workers) < min(self.jobs, cells):
            self._start()

    def run(self, cells: Sequence[RunSpec], progress: Progress) -> Iterator[Record]:
        """Compute the cells; yields each record once it is stored.

        With several workers, cells with more shots go first, so that no worker ends up alone with
        a long one. StoreError or missing weights end the run; what is written stays.
        """
        order = sorted(cells, key=lambda cell: -cell.shots) if self.jobs > 1 else cells
        waiting = deque(_joined(by_fit(order), self.together))
        tries: dict[str, int] = {}
        self.warm(len(waiting))
        for worker in self._workers:
            self._next(worker, waiting)
        open_cells = len(cells)
        while open_cells:
            worker, event = self._events.get()
            if event is None:
                for record in self._lost(worker, waiting, tries):
                    open_cells -= 1
                    yield record
            elif event["event"] == "fatal":
                worker.fatal = event
            elif event["event"] == "idle":
                self._next(worker, waiting)
            elif worker.cells and event["event"] == "progress":
                progress(worker.cells[0], event["done"], event["total"])
            elif event["event"] == "finished":
                cell = next(cell for cell in worker.cells if cell.key() == event["key"])
                worker.cells.remove(cell)
                self._fitted.add(cell.fit_key())
                open_cells -= 1
                yield self._stored(cell)

    def _next(self, worker: _Worker, waiting: deque[Group]) -> None:
        if waiting:
            worker.send(waiting.popleft(), self.force)

    def _stored(self, cell: RunSpec) -> Record:
        record = self.store.get(cell.key())
        if record is None:
            raise StoreError(f"the record of {cell.describe()} has gone from {self.store.path}")
        return record

    def _lost(
        self, worker: _Worker, waiting: deque[Group], tries: dict[str, int]
    ) -> Iterator[Record]:
        """A worker has ended: try its cells once more, then record that they failed.

        What it had stored stays. Where not one cell of the fit was ever finished, the fit itself
        is taken for the reason, and all its cells fail.
        """
        self._workers.remove(worker)
        if worker.fatal is not None:
            raise _as_error(worker.fatal)
        if not self.force:
            stored = [cell for cell in worker.cells if self.store.complete(cell.key())]
            for cell in stored:
                worker.cells.remove(cell)
                yield self._stored(cell)
        fits = by_fit(worker.cells)
        if len(fits) > 1:
            # Fitted together: each is tried again alone.
            waiting.extendleft(reversed(fits))
        elif worker.cells:
            key = worker.cells[0].key()
            tries[key] = tries.get(key, 0) + 1
            if tries[key] == TRIES:
                failing = 1 if worker.cells[0].fit_key() in self._fitted else len(worker.cells)
                for cell in worker.cells[:failing]:
                    record = _failure(cell, worker.process.returncode)
                    self.store.write(record)
                    tell(registry().hooks.run_finished, record=record)
                    yield record
                del worker.cells[:failing]
            if worker.cells:
                waiting.appendleft(worker.cells)
        if waiting:
            self._next(self._start(), waiting)


def by_fit(cells: Sequence[RunSpec]) -> list[Group]:
    """Cells in groups that share a fit, in the order of each group's first cell."""
    groups: dict[str, Group] = {}
    for cell in cells:
        groups.setdefault(cell.fit_key(), []).append(cell)
    return list(groups.values())


def _joined(groups: Sequence[Group], most: int) -> list[Group]:
    """Up to `most` groups of the same method and settings on other seeds become one."""
    joined: list[Group] = []
    open_groups: dict[str, tuple[Group, int]] = {}
    for group in groups:
        kin = group[0].kin_key()
        whole, count = open_groups.get(kin, ([], most))
        if count >= most:
            whole, count = [], 0
            joined.append(whole)
        whole += group
        open_groups[kin] = whole, count + 1
    return joined


class EngineError(FsbenchError):
    """A worker could not go on for a reason that is no cell's fault."""


def _as_error(event: dict[str, Any]) -> FsbenchError:
    error = EngineError(event["message"])
    error.exit_code = int(event["exit_code"])
    return error


def _failure(cell: RunSpec, code: int) -> Record:
    how = f"ended with exit code {code}"
    if code < 0:
        how = f"killed by signal {-code} (out of memory?)"
    return Record(
        spec=cell,
        status="failed",
        error={
            "type": "WorkerLost",
            "message": f"the worker process was {how} {TRIES} times in this cell",
            "traceback": "",
            "expected": True,
        },
    )
