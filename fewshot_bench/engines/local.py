"""The local engine: long-lived worker processes, each with its own backbone, on this machine.

The cell of a worker that is killed, hangs, or runs out of memory is tried once more by another
worker, then recorded as failed. Cells are claimed in the store first (`leases`), so that several
runs share their work. Each record is stored before it is reported.
"""

from __future__ import annotations

import queue
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, count, islice
from typing import Any

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import (
    HOOK_SECONDS,
    TRIES,
    Engine,
    EngineError,
    EngineSetup,
    Group,
    Progress,
    Settings,
    StoreSnapshot,
    by_fit,
    lost,
    silent,
)
from fewshot_bench.engines.hooks import HookCalls
from fewshot_bench.engines.label_process import LabelProcess
from fewshot_bench.engines.process import Event, Message, RetryPolicy, Slot, Worker, slots_of
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError, StoreError
from fewshot_bench.utils.prefetch import cores

TICK_SECONDS = 0.5
# An engine that looks at its workers no more often than this was itself stopped or held up.
HELD_UP_SECONDS = 5.0
# Number of waiting groups among which the best one for a worker is searched.
LOOKED_AT = 400
# With at most this many support sets per worker left, groups with the most shots come first.
LAST_DRAWS = 2


def slots(backbone: str, device: str, jobs: int | None, devices: int = 1) -> tuple[int, int | None]:
    """Workers per device, and CPU threads of each worker; None leaves threads to torch.

    A backbone whose loader has `threads = 1` is too small to gain from a second thread: on a CPU,
    it gets one worker per core unless `jobs` is given.
    """
    entry = registry().backbones.entries.get(backbone)
    small = entry is not None and getattr(entry.load(), "threads", None) == 1
    if device != "cpu":
        count = jobs or 1
        return count, max(1, cores() // (count * devices)) if count * devices > 1 else None
    if small:
        return jobs or cores(), 1
    return jobs or 1, max(1, cores() // (jobs or 1))


def describe_data(cell: RunSpec) -> tuple[Any, Any]:
    """Keys of the data in a worker's memory after a cell: (backbone, data set), support set.

    For cells with an equal second key, the worker has support images decoded and encoded.
    """
    loaded = cell.backbone, cell.precision, cell.dataset, tuple(sorted(map(str, cell.data.items())))
    half = "all" if cell.classes == "all" else "half"
    drawn = cell.protocol, cell.shots, cell.split_seed, cell.val, half, cell.picks
    return loaded, (loaded, drawn)


class Choice:
    """Cache-aware scheduling: prefers groups whose data this worker, else no other worker holds.

    Near the end, groups with the most shots go before others of the same data set: their fits take
    longest, and one that starts last keeps one worker busy while the others are idle.
    """

    def __init__(self) -> None:
        self._held: dict[object, tuple[Any, Any]] = {}

    def took(self, worker: object, group: Group) -> None:
        """Record that a worker computes a group, and holds its data from now on."""
        self._held[worker] = describe_data(group[0])

    def forget(self, worker: object) -> None:
        """Forget a worker that has ended."""
        self._held.pop(worker, None)

    def index(self, worker: object, waiting: Sequence[Group], avoid: Sequence[bool]) -> int:
        """The index in `waiting` of the best group for a worker; ties go to the earlier one.

        avoid: per group, True if it lost a worker in this worker's slot.
        """
        mine, my_draw = self._held.get(worker, (None, None))
        others = {drawn for who, (_, drawn) in self._held.items() if who is not worker}
        ahead = [describe_data(group[0]) for group in waiting[:LOOKED_AT]]
        workers = len(self._held.keys() | {worker})
        last = len({drawn for _, drawn in ahead}) <= LAST_DRAWS * workers

        def rank(index: int) -> tuple[bool, int, int, bool, int]:
            loaded, drawn = ahead[index]
            if drawn == my_draw:
                tier = 0
            else:
                tier = 2 if drawn in others else 1
            shots = waiting[index][0].shots if last else 0
            return avoid[index], tier, -shots, loaded != mine, index

        return min(range(len(ahead)), key=rank)


@dataclass
class LocalEngine(Engine):
    """Runs cells in worker processes; call `warm` early, so that workers load during other checks.

    before: snapshot of the store when the cells were planned (taken when `run` begins if absent).
    linger: seconds to wait for cells that other runs compute when nothing else is left; None waits
    as long as they live. say: prints a line for the user.
    """

    store: Store
    settings: Settings = field(default_factory=Settings)
    before: StoreSnapshot | None = None
    run_id: str = ""
    linger: float | None = None
    say: Callable[[str], None] = silent
    _events: queue.Queue[Event] = field(default_factory=queue.Queue)
    _workers: list[Worker] = field(default_factory=list)
    _waiting: list[Group] = field(default_factory=list)
    _elsewhere: list[Group] = field(default_factory=list)
    _ready: deque[Record] = field(default_factory=deque)
    _fitted: set[str] = field(default_factory=set)
    _choice: Choice = field(default_factory=Choice)
    _idle_since: float = 0.0
    _looked: float = 0.0
    _awaited: bool = False

    def __post_init__(self) -> None:
        self._slots = slots_of(self.settings.devices, self.settings.slots)
        run = self.run_id or secrets.token_hex(8)
        self.leases = Leases(self.store, run, self.settings.lease)
        self._retries = RetryPolicy(self.settings)
        self._hooks = HookCalls(self.store.path, self.settings.variables)
        self._owners: dict[str, str] = {}
        self._label_process: LabelProcess | None = None

    @property
    def workers(self) -> int:
        """The number of cells that can run at once."""
        return self.settings.workers

    def close(self) -> None:
        """Stop the workers and release their leases; warns of hooks that this ends."""
        try:
            for worker in self._workers:
                worker.stop()
            if self._label_process is not None:
                self._label_process.stop()
            self._hooks.stop()
        finally:
            self.leases.close()

    def warm(self, cells: int) -> None:
        """Start as many workers as `cells` can use."""
        taken = {worker.slot.name for worker in self._workers}
        free = [slot for slot in self._slots if slot.name not in taken]
        for slot in free[: max(0, min(cells, len(self._slots)) - len(self._workers))]:
            self._start(slot)

    def _start(self, slot: Slot) -> None:
        """Start a worker; EngineError at a limit on open files, processes or threads."""
        try:
            labels = self._labels()
            worker = Worker.start(slot, self.store, self.settings, self._events, labels)
        except (OSError, RuntimeError) as error:
            raise EngineError(
                f"cannot start worker {len(self._workers) + 1} of {self.workers}: "
                f"{getattr(error, 'strerror', None) or error}; use fewer --jobs, or raise the "
                "limits on open files and processes (ulimit -n, ulimit -u)"
            ) from error
        self._workers.append(worker)

    def _labels(self) -> LabelProcess:
        """The label process of this run, started before any worker, and anew if it has ended."""
        if self._label_process is None or not self._label_process.is_alive:
            self._label_process = LabelProcess(self.store.path, self.settings)
        return self._label_process

    def run(self, cells: Sequence[RunSpec], progress: Progress) -> Iterator[Record]:
        """Compute the cells; yields each record once it is stored, also those of other runs.

        With several workers, cells with more shots go first, so that no worker ends up alone with
        a long one, and workers prefer cells whose data they hold. StoreError or missing weights end
        the run; stored records stay.
        """
        if self.before is None:
            self.before = StoreSnapshot.of(self.store, cells)
        order = sorted(cells, key=lambda cell: -cell.shots) if self.workers > 1 else list(cells)
        # Once a process has run code of a foreign plug-in, it ends with that plug-in's cells.
        self._waiting = sorted(by_fit(order), key=self._owner)
        open_cells = len(cells)
        self._idle_since = self._looked = time.monotonic()
        while open_cells:
            self._dispatch()
            while self._ready:
                open_cells -= 1
                yield self._ready.popleft()
            if not open_cells or self._has_waited_too_long():
                self._hooks.wait(HOOK_SECONDS)
                return
            try:
                worker, event = self._events.get(timeout=TICK_SECONDS)
                self._handle(worker, event, progress)
            except queue.Empty:
                pass
            passed = time.monotonic() - self._looked
            if passed >= TICK_SECONDS:
                self._looked += passed
                self._look_elsewhere()
                self._end_overdue(passed)
                self._say_what_is_awaited()
                for worker in self._workers:
                    if worker.started and worker.cells:
                        # Some fits report no steps, such as those of scikit-learn.
                        progress(worker.cells[0], 0, 0)

    def _handle(self, worker: Worker, message: Message | None, progress: Progress) -> None:
        if message is None:
            self._end(worker)
            return
        worker.note(message)
        match message.event:
            case "fatal" if worker.foreign:
                worker.tail += message.message
            case "fatal":
                worker.fatal = message
            case "idle" if worker.cells:
                # Not true: it is the worker of another plug-in's code.
                worker.process.kill()
            case "idle":
                worker.ready = worker.idle = True
                self._retries.reset_starts()
            case "started" if worker.cells:
                self._hooks.start(worker.cells[0])
            case "progress" if worker.cells:
                progress(worker.cells[0], message.done, message.total)
            case "failed":
                if worker.finish(message.record.spec.key()) is not None:
                    self._fail(message.record)
            case "finished":
                self._finish(worker, message.key)
        if not worker.cells:
            self._release(worker)

    def _finish(self, worker: Worker, key: str) -> None:
        cell = worker.finish(key)
        if cell is not None and worker.foreign and self.store.get(cell.key()) is None:
            self._fail(lost(cell, "its worker handed in no result", kind="ContractError"))
        elif cell is not None:
            self._fitted.add(cell.fit_key())
            self._ready.append(self._read_stored(cell))
            self._hooks.finish(self._ready[-1])

    def _release(self, worker: Worker) -> None:
        """Release the lease of a worker without cells."""
        if worker.claimed:
            self.leases.release(worker.claimed)
        worker.claimed = ""

    def _dispatch(self) -> None:
        """Send every idle worker the best group for it that no other run computes.

        One that may compute none of them ends, and a fresh one takes its slot.
        """
        self.warm(len(self._waiting) + sum(bool(worker.cells) for worker in self._workers))
        for worker in self._workers:
            while worker.idle and self._waiting:
                slot = worker.slot.name
                served = (worker.serves(self._owner(group)) for group in self._waiting)
                indices = list(islice(compress(count(), served), LOOKED_AT))
                if not indices:
                    worker.retire()
                    break
                ahead = [self._waiting[index] for index in indices]
                avoid = [self._retries.has_failed_at(group, slot) for group in ahead]
                group = self._waiting.pop(indices[self._choice.index(worker, ahead, avoid)])
                mine = self._claim(group, worker)
                if mine:
                    self._send(worker, mine)

    def _owner(self, group: Group) -> str:
        """The foreign plug-in or file of a group's method; empty for a built-in method."""
        method = group[0].method
        if method not in self._owners:
            self._owners[method] = registry().owner(method)
        return self._owners[method]

    def _claim(self, group: Group, worker: Worker) -> Group:
        """Claim a group; returns the cells to compute now, the others are settled or awaited."""
        key = group[0].fit_key()
        lease = self.leases.claim(key)
        if lease is None:
            self._elsewhere.append(group)
            return []
        mine = self._settle(group)
        if lease.tries > TRIES:
            for cell in mine:
                self._fail(lost(cell, f"{TRIES} machines were lost while they computed it"))
            mine = []
        if mine:
            worker.claimed = key
        else:
            self.leases.release(key)
        return mine

    def _settle(self, group: Group) -> Group:
        """Collect records stored since the snapshot; returns the cells without one."""
        assert self.before is not None
        left = []
        for cell in group:
            record = self.before.new_record(cell)
            if record is None:
                left.append(cell)
            else:
                self._ready.append(record)
        return left

    def _send(self, worker: Worker, cells: Group) -> None:
        self._choice.took(worker, cells)
        parts, earlier = self._retries.parts(cells), self._retries.incidents(cells)
        owner = self._owner(cells)
        variables = self.settings.variables.get(owner)
        worker.send(cells, self.settings.force, parts, earlier, owner, variables)
        self._idle_since = time.monotonic()

    def _look_elsewhere(self) -> None:
        """Collect cells computed by other runs; queue those whose claim was dropped."""
        for group in self._elsewhere[:]:
            self._elsewhere.remove(group)
            left = self._settle(group)
            if left and self.leases.is_free(left[0].fit_key()):
                self._waiting.append(left)
            elif left:
                self._elsewhere.append(left)

    @property
    def _is_busy(self) -> bool:
        """True while cells wait for a worker of this run, or one computes them."""
        return bool(self._waiting) or any(worker.cells for worker in self._workers)

    def _has_waited_too_long(self) -> bool:
        """True after waiting only for other runs for longer than `linger`."""
        if self._is_busy:
            self._idle_since = time.monotonic()
        return self.linger is not None and time.monotonic() - self._idle_since > self.linger

    def _say_what_is_awaited(self) -> None:
        """Name the runs whose cells alone are left, once."""
        if self._awaited or self._is_busy:
            return
        holders = [self.leases.find_holder(group[0].fit_key()) for group in self._elsewhere]
        others = {str(holder) for holder in holders if holder is not None}
        if others:
            self._awaited = True
            count = sum(map(len, self._elsewhere))
            cells = f"{count} cell{'s' * (count != 1)}"
            self.say(f"waiting for {cells} that other runs compute: {', '.join(sorted(others))}")

    def _end_overdue(self, passed: float) -> None:
        """End workers that take too long; passed: seconds since the last call.

        While this process was stopped (Ctrl-Z, a scheduler that suspends jobs), the workers were
        too, or nobody read their signs of life.
        """
        for worker in self._workers:
            worker.kill_descendants()
            if passed > HELD_UP_SECONDS:
                worker.excuse(passed)
            reason = worker.overdue(self.settings.timeout, self.settings.hang)
            if reason:
                worker.end(reason)

    def _read_stored(self, cell: RunSpec) -> Record:
        record = self.store.get(cell.key())
        if record is None:
            raise StoreError(f"the record of {cell.describe()} has gone from {self.store.path}")
        return record

    def _fail(self, record: Record) -> None:
        """Store and report a failed cell; a failure of the machine keeps an earlier result."""
        before, error = self.store.get(record.spec.key()), record.error or {}
        if before is not None and before.status == "done" and record.transient:
            message = f"{error['message']}; the earlier result is kept"
            record = replace(record, error={**error, "message": message})
        else:
            record = self.store.write(record)
        self._ready.append(record)
        self._hooks.finish(record)

    def _end(self, worker: Worker) -> None:
        """Handle a worker that has ended: its cells are tried once more, then recorded as failed.

        Records that it has reported stay. Those that it stored without a word do not: code that
        hands in a result by itself could otherwise end the process before anybody notices.
        """
        if worker not in self._workers:
            # Given up earlier, since it could not be killed.
            return
        self._workers.remove(worker)
        self._choice.forget(worker)
        if worker.fatal is not None:
            raise _as_error(worker.fatal)
        if not worker.ready:
            self._retries.count_failed_start(worker)
        self._take_back(worker.cells)
        if worker.cells:
            failed, left = self._retries.judge(worker, self._fitted)
            for record in failed:
                self._fail(record)
            if left:
                self._waiting.insert(0, left)
        self._release(worker)

    def _take_back(self, cells: Group) -> None:
        """Remove the records of these cells that were stored since the snapshot."""
        assert self.before is not None
        for cell in cells:
            if self.before.new_record(cell) is not None:
                self.store.file(cell.key()).unlink(missing_ok=True)


def build(setup: EngineSetup) -> LocalEngine:
    """Build the engine `local`."""
    return LocalEngine(setup.store, setup.settings, setup.before, say=setup.say)


def _as_error(event: Message) -> FsbenchError:
    error = EngineError(event.message)
    error.exit_code = event.exit_code
    return error
