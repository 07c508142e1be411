"""The local engine: long-lived worker processes, each with its own backbone, on this machine.

The cell of a worker that is killed, hangs, runs out of memory or loses its device is tried once
more by another worker, after a fault of a device on another one if there is one, then recorded as
failed. After the failure of a captured step, another worker fits with eager steps. Cells are
claimed in the store first (`leases`), so that several runs share their work. Each record is stored
before it is reported.
"""

from __future__ import annotations

import queue
import secrets
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from fewshot_bench.api.plugin_host import PluginHost
from fewshot_bench.api.plugins import is_own
from fewshot_bench.api.record import RETRIED, Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec, name_cell
from fewshot_bench.engines.base import (
    HOOK_SECONDS,
    STORE,
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
    store_failure,
)
from fewshot_bench.engines.label_process import LabelProcess
from fewshot_bench.engines.process import (
    Data,
    Event,
    Message,
    Points,
    Slot,
    Worker,
    count_memory_kills,
    kill_session,
    slots_of,
)
from fewshot_bench.store.kept_methods import adopt_methods
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.prefetch import cores
from fewshot_bench.utils.text import counted, printable

TICK_SECONDS = 0.5
# Calls of hooks that wait, beyond which no points of curves are added.
MOST_WAITING = 50
# An engine that looks at its workers no more often than this was itself stopped or held up.
HELD_UP_SECONDS = 5.0
# Number of waiting groups among which the best one for a worker is searched.
LOOKED_AT = 400
# With at most this many support sets per worker left, groups with the most shots come first.
LAST_DRAWS = 2
# Workers in a row that end before they are ready, after which the run fails; one that hangs counts
# for several, since that takes long.
FAILED_STARTS, STUCK = 20, 7


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


def describe_data(cell: RunSpec) -> Data:
    """Keys of the data in a worker's memory after a cell: (backbone, data set), support set.

    For cells with an equal second key, the worker has support images decoded and encoded.
    """
    loaded = cell.backbone, cell.precision, cell.dataset, tuple(sorted(map(str, cell.data.items())))
    half = "all" if cell.classes == "all" else "half"
    drawn = cell.protocol, cell.shots, cell.split_seed, cell.val, half, cell.picks
    return loaded, (loaded, drawn)


def choose(
    groups: Sequence[Group], held: Data | None, others: Collection[Data], avoid: Sequence[bool]
) -> int:
    """The index of the best group for a worker; ties go to the earlier one.

    It prefers groups whose data this worker, else no other worker holds. Near the end, groups with
    the most shots go before others of the same data set: their fits take longest, and one that
    starts last keeps one worker busy while the others are idle.
    avoid: per group, True if it lost a worker in this worker's slot.
    """
    mine, my_draw = held or (None, None)
    drawn_by_others = {drawn for _, drawn in others}
    ahead = [describe_data(group[0]) for group in groups]
    last = len({drawn for _, drawn in ahead}) <= LAST_DRAWS * (len(others) + 1)

    def rank(index: int) -> tuple[bool, int, int, bool, int]:
        loaded, drawn = ahead[index]
        tier = 0 if drawn == my_draw else 1 + (drawn in drawn_by_others)
        shots = groups[index][0].shots if last else 0
        return avoid[index], tier, -shots, loaded != mine, index

    return min(range(len(ahead)), key=rank)


class HookCalls:
    """Calls `run_started`, `points_logged`, `run_finished` in the order of events, beside the run.

    A slow hook holds up no cell, and a failing one costs no result: it is warned of once. The hooks
    run in the processes of their plug-ins: of foreign ones, and of built-in ones that
    gave variables (`worker_environment`), such as the trackers that are on.
    """

    def __init__(self, store: Path, variables: Mapping[str, Mapping[str, str]]) -> None:
        """store: the folder of results. variables: `Settings.variables`."""
        self._hosts = dict(registry().hosts)
        self._variables = {
            plugin: {**given, STORE: str(store)}
            for plugin, given in variables.items()
            if is_own(plugin) and given
        }
        self._own: list[PluginHost] = []
        self._calls: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        # The hook that runs now, and its plug-in.
        self._inside = ("", "")
        self._thread: threading.Thread | None = None
        self._stopped = False

    def start(self, spec: RunSpec) -> None:
        """A cell begins."""
        self._add("run_started", spec=spec)

    def log(self, spec: RunSpec, points: Points) -> None:
        """The fit of a cell has logged points; they are left out if many calls wait."""
        if self._calls.qsize() < MOST_WAITING:
            self._add("points_logged", spec=spec, points=points)

    def finish(self, record: Record) -> None:
        """A cell has a record in the store."""
        self._add("run_finished", record=record)

    def _add(self, hook: str, **arguments: Any) -> None:
        if not (self._variables or any(hook in host.hooks for host in self._hosts.values())):
            return
        self._calls.put((hook, arguments))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fsbench-hooks", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        for plugin, given in self._variables.items():
            host = self._hosts[plugin] = PluginHost(f"plug-in {plugin}", plugin)
            self._own.append(host)
            host.describe()
            host.set_variables(given)
        shown: set[tuple[str, str]] = set()
        while not self._stopped:
            hook, arguments = self._calls.get()
            for plugin, host in self._hosts.items():
                if hook in host.hooks:
                    self._inside = hook, plugin
                    try:
                        host.call(hook, arguments)
                    except Exception as error:
                        if self._inside not in shown and not self._stopped:
                            shown.add(self._inside)
                            _warn(str(error))
            self._inside = ("", "")
            self._calls.task_done()

    def wait(self, seconds: float) -> None:
        """Wait until all hooks were called, at most this long."""
        with self._calls.all_tasks_done:
            self._calls.all_tasks_done.wait_for(lambda: not self._calls.unfinished_tasks, seconds)
        if self._calls.unfinished_tasks:
            self._end("did not come back")

    def stop(self) -> None:
        """End the hook that runs, if any: the calls that are left are lost."""
        if self._calls.unfinished_tasks and not self._stopped:
            self._end("was stopped")
        for host in self._own:
            host.close()

    def _end(self, how: str) -> None:
        self._stopped = True
        hook, plugin = self._inside
        if plugin:
            self._hosts[plugin].kill()
            _warn(f"{hook} of plug-in {plugin} {how}: its last reports are lost")


def _warn(text: str) -> None:
    print(printable(f"warning: {text}"), file=sys.stderr)


@dataclass
class History:
    """Facts of the workers that were lost with a cell, for its next try."""

    tries: int = 0
    # Number of parts that its fit is divided into from the start, to save memory.
    parts: int = 1
    slot: str = ""
    # The device that failed under it.
    shunned: str = ""
    incidents: list[dict[str, str]] = field(default_factory=list)


@dataclass
class LocalEngine(Engine):
    """Runs cells in worker processes; call `warm` early, so that workers load during other checks.

    before: snapshot of the store when the cells were planned (taken when `run` begins if absent).
    linger: seconds to wait for cells that other runs compute when nothing else is left; None waits
    as long as they live. say: prints a line for the user.
    show: prints a line of what a cell prints.
    """

    store: Store
    settings: Settings = field(default_factory=Settings)
    before: StoreSnapshot | None = None
    run_id: str = ""
    linger: float | None = None
    say: Callable[[str], None] = lambda text: None
    show: Callable[[str], None] = lambda text: None
    _events: queue.Queue[Event] = field(default_factory=queue.Queue)
    _workers: list[Worker] = field(default_factory=list)
    _waiting: list[Group] = field(default_factory=list)
    _elsewhere: list[Group] = field(default_factory=list)
    _ready: deque[Record] = field(default_factory=deque)
    _fitted: set[str] = field(default_factory=set)
    # By key of the cell.
    _histories: defaultdict[str, History] = field(default_factory=lambda: defaultdict(History))
    # Why steps are eager, by method with its overrides, or by key of the fit.
    _eager: dict[str, str] = field(default_factory=dict)
    _memory_kills: int = field(default_factory=count_memory_kills)
    _failed_starts: int = 0
    _label_process: LabelProcess | None = None
    _idle_since: float = 0.0
    _looked: float = 0.0
    _awaited: bool = False

    def __post_init__(self) -> None:
        self._slots = slots_of(self.settings.devices, self.settings.slots)
        run = self.run_id or secrets.token_hex(8)
        self.leases = Leases(self.store, run, self.settings.lease)
        self._hooks = HookCalls(self.store.path, self.settings.variables)
        # The foreign plug-in or file of a method; empty for a built-in one.
        self._owner_of = cache(registry().owner)

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
            # One label process, started before any worker, and anew if it has ended.
            if self._label_process is None or not self._label_process.is_alive:
                self._label_process = LabelProcess(self.store.path, self.settings)
            labels = self._label_process
            worker = Worker.start(slot, self.store, self.settings, self._events, labels)
        except (OSError, RuntimeError) as error:
            raise EngineError(
                f"cannot start worker {len(self._workers) + 1} of {self.workers}: "
                f"{getattr(error, 'strerror', None) or error}; use fewer --jobs, or raise the "
                "limits on open files and processes (ulimit -n, ulimit -u)"
            ) from error
        self._workers.append(worker)

    def run(self, cells: Sequence[RunSpec], progress: Progress) -> Iterator[Record]:
        """Compute the cells; yields each record once it is stored, also those of other runs.

        With several workers, cells with more shots go first, so that no worker ends up alone with
        a long one, and workers prefer cells whose data they hold. StoreError or missing weights end
        the run; stored records stay.
        """
        if self.before is None:
            self.before = StoreSnapshot.of(self.store, cells)
        adopt_methods(self.store.path, cells)
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
            if self._is_busy:
                self._idle_since = time.monotonic()
            idle = time.monotonic() - self._idle_since
            if not open_cells or (self.linger is not None and idle > self.linger):
                break
            with suppress(queue.Empty):
                worker, event = self._events.get(timeout=TICK_SECONDS)
                self._handle(worker, event, progress)
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
        self._hooks.wait(HOOK_SECONDS)

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
                self._failed_starts = 0
            case "started" if worker.cells:
                self._hooks.start(worker.cells[0])
            case "progress" if worker.cells:
                progress(worker.cells[0], message.done, message.total)
            case "said" if worker.cells:
                self._hear(worker, message.text)
            case "points" if worker.cells:
                self._hooks.log(worker.cells[0], message.points)
            case "broken":
                worker.broken = message.record
            case "failed":
                log = worker.log.text
                if worker.finish(message.record.spec.key()) is not None:
                    self._fail(message.record, log)
            case "finished":
                self._finish(worker, worker.finish(message.key))
        if not worker.cells:
            self._release(worker)

    def _release(self, worker: Worker) -> None:
        if worker.claimed:
            self.leases.release(worker.claimed)
        worker.claimed = ""

    def _finish(self, worker: Worker, cell: RunSpec | None) -> None:
        if cell is None:
            return
        record = self.store.get(cell.key())
        if record is None and worker.foreign:
            self._fail(lost(cell, "its worker handed in no result", kind="ContractError"))
        elif record is None:
            raise StoreError(f"the record of {cell.describe()} has gone from {self.store.path}")
        else:
            self._fitted.add(cell.fit_key())
            self._report(record)

    def _report(self, record: Record) -> None:
        self._ready.append(record)
        self._hooks.finish(record)

    def _dispatch(self) -> None:
        """Send every idle worker the best group for it that no other run computes.

        One that may compute none of them ends, and a fresh one takes its slot.
        """
        self.warm(len(self._waiting) + sum(bool(worker.cells) for worker in self._workers))
        for worker in self._workers:
            while worker.idle and self._waiting:
                # One that has run foreign code never computes the cells of another method.
                allowed = (
                    index
                    for index, group in enumerate(self._waiting)
                    if worker.owner in (None, self._owner(group))
                )
                indices = list(islice(allowed, LOOKED_AT))
                if not indices:
                    worker.retire()
                    break
                place = worker.slot.place
                indices = [index for index in indices if not self._shuns(index, place)]
                if not indices:
                    self._start_elsewhere(place)
                    break
                ahead = [self._waiting[index] for index in indices]
                slots = [self._histories[group[0].key()].slot for group in ahead]
                avoid = [slot == worker.slot.name for slot in slots]
                others = [w.held for w in self._workers if w is not worker and w.held]
                group = self._waiting.pop(indices[choose(ahead, worker.held, others, avoid)])
                mine = self._claim(group, worker)
                if mine:
                    self._send(worker, mine)

    def _shuns(self, index: int, place: str) -> bool:
        """True for a waiting group under which this device failed, if there is another device."""
        shunned = self._histories[self._waiting[index][0].key()].shunned
        return shunned == place and any(slot.place != place for slot in self._slots)

    def _start_elsewhere(self, place: str) -> None:
        """Start a worker on another device than this one, unless there is one."""
        if all(worker.slot.place == place for worker in self._workers):
            self._start(next(slot for slot in self._slots if slot.place != place))

    def _owner(self, group: Group) -> str:
        return next(filter(None, map(self._owner_of, group[0].methods)), "")

    def _claim(self, group: Group, worker: Worker) -> Group:
        """Claim a group; returns the cells to compute now, the others are settled or awaited."""
        key = group[0].lowest.fit_key()
        lease = self.leases.claim(key)
        if lease is None:
            self._elsewhere.append(group)
            return []
        mine, worker.claimed = self._settle(group), key
        if lease.tries > TRIES:
            for cell in mine:
                self._fail(lost(cell, f"{TRIES} machines were lost while they computed it"))
            mine = []
        if not mine:
            self._release(worker)
        return mine

    def _settle(self, group: Group) -> Group:
        """Collect records stored since the snapshot; returns the cells without one."""
        assert self.before is not None
        records = [self.before.new_record(cell) for cell in group]
        self._ready += filter(None, records)
        return [cell for cell, record in zip(group, records, strict=True) if record is None]

    def _send(self, worker: Worker, cells: Group) -> None:
        worker.held = describe_data(cells[0])
        owner, histories, eager = self._owner(cells), self._histories, self._reason_for_eager(cells)
        noted = [{"kind": "step", "text": eager}] if eager else []
        worker.send(
            cells,
            owner,
            self.settings.variables.get(owner, {}),
            force=self.settings.force,
            eager=bool(eager),
            parts=histories[cells[0].key()].parts,
            incidents={c.key(): [*histories[c.key()].incidents, *noted] for c in cells},
        )
        self._idle_since = time.monotonic()

    def _reason_for_eager(self, cells: Group) -> str:
        found = (self._eager.get(key) for cell in cells for key in (cell.label, cell.fit_key()))
        return next(filter(None, found), "")

    def _fit_eagerly(self, cells: Group, broken: Record | None) -> bool:
        """Queue cells whose captured step failed, and say it once; False if none did."""
        if broken is None or not broken.uncaptured or self._reason_for_eager(cells):
            return False
        text = f"{printable(f'{broken.spec.method}: {broken.uncaptured}'):.500}"
        of_code = (broken.error or {}).get("of_code")
        if text not in self._eager.values():
            self.say(text)
        self._eager[cells[0].label if of_code else cells[0].fit_key()] = text
        self._waiting.insert(0, cells)
        return True

    def _look_elsewhere(self) -> None:
        """Collect cells computed by other runs; queue those whose claim was dropped."""
        groups, self._elsewhere = self._elsewhere, []
        for left in filter(None, map(self._settle, groups)):
            is_free = self.leases.is_free(left[0].lowest.fit_key())
            (self._waiting if is_free else self._elsewhere).append(left)

    @property
    def _is_busy(self) -> bool:
        """True while cells wait for a worker of this run, or one computes them."""
        return bool(self._waiting) or any(worker.cells for worker in self._workers)

    def _say_what_is_awaited(self) -> None:
        """Name the runs whose cells alone are left, once."""
        if self._awaited or self._is_busy:
            return
        keys = (group[0].lowest.fit_key() for group in self._elsewhere)
        holders = map(self.leases.find_holder, keys)
        others = {str(holder) for holder in holders if holder is not None}
        if others:
            self._awaited = True
            cells = counted(sum(map(len, self._elsewhere)), "cell")
            self.say(f"waiting for {cells} that other runs compute: {', '.join(sorted(others))}")

    def _end_overdue(self, passed: float) -> None:
        """End workers that take too long; passed: seconds since the last call.

        While this process was stopped (Ctrl-Z, a scheduler that suspends jobs), the workers were
        too, or nobody read their signs of life.
        """
        for worker in self._workers:
            if worker.process.poll() is not None:
                # A descendant may hold its channel and its output open.
                kill_session(worker.process.pid)
            if passed > HELD_UP_SECONDS:
                worker.excuse(passed)
            reason = worker.overdue(self.settings.timeout, self.settings.hang)
            if reason:
                worker.end(reason)
            elif stall := worker.find_stall():
                self.say(stall)

    def _hear(self, worker: Worker, lines: str) -> None:
        """Keep what a cell has printed, and show it if that was asked for."""
        worker.log.add(lines)
        if self.settings.verbose:
            name = f"{name_cell(worker.cells[0])} | " if self.workers > 1 else ""
            for line in lines.splitlines():
                self.show(f"{name}{line}")

    def _fail(self, record: Record, log: str = "") -> None:
        """Store and report a failed cell; a failure of the machine keeps an earlier result."""
        self._report(store_failure(self.store, record, log))

    def _end(self, worker: Worker) -> None:
        """Handle a worker that has ended: its cells are tried once more, then recorded as failed.

        Records that it has reported stay. Those that it stored without a word do not: code that
        hands in a result by itself could otherwise end the process before anybody notices.
        """
        if worker not in self._workers:
            # Given up earlier.
            return
        self._workers.remove(worker)
        if worker.fatal is not None:
            error = EngineError(worker.fatal.message)
            error.exit_code = worker.fatal.exit_code
            raise error
        how = worker.how_it_ended(self.settings.timeout)
        if not worker.ready:
            self._count_failed_start(worker, how)
        assert self.before is not None
        for cell in worker.cells:
            if self.before.new_record(cell) is not None:
                self.store.file(cell.key()).unlink(missing_ok=True)
        if worker.cells and not self._fit_eagerly(worker.cells, worker.broken):
            self._try_again(worker, how)
        self._release(worker)

    def _count_failed_start(self, worker: Worker, how: str) -> None:
        """Count a worker that ended before it was ready; EngineError if that is systematic."""
        self._failed_starts += STUCK if worker.ended else 1
        if self._failed_starts >= FAILED_STARTS or (worker.process.returncode or 0) > 0:
            said = " ".join(worker.tail.split())[-500:] or "no message"
            raise EngineError(f"worker processes cannot start ({how}): {said}")

    def _try_again(self, worker: Worker, how: str) -> None:
        """Queue the cells of a lost worker, those that have failed too often left out.

        Without a finished cell of the same fit, the fit itself is assumed to be the reason, and all
        its cells fail. After a lack of memory, the fit is divided into more parts.
        """
        cell, cells = worker.cells[0], worker.cells
        history = self._histories[cell.key()]
        history.tries += 1
        memory_kills, self._memory_kills = self._memory_kills, count_memory_kills()
        parts = history.parts
        if worker.ended == "timeout" or history.tries >= TRIES:
            timed = worker.ended == "timeout"
            times = "" if timed else f" {history.tries} times in this cell"
            kind = "TimeLimit" if timed else "WorkerLost"
            count = 1 if cell.fit_key() in self._fitted else len(cells)
            for failed in cells[:count]:
                said = f"the worker process was {how}{times}"
                broken = worker.broken if worker.broken and worker.broken.spec == failed else None
                self._fail(broken or lost(failed, said, worker.tail, kind=kind), worker.log.text)
            cells = cells[count:]
        elif self._memory_kills > memory_kills:
            parts *= 2
            how += "; tried again with less memory"
        for left in cells:
            history = self._histories[left.key()]
            history.parts, history.slot = parts, worker.slot.name
            history.shunned = worker.slot.place if worker.broken is not None else ""
            incident = {"kind": RETRIED, "text": f"the worker process was {how}"}
            history.incidents.append(incident)
        if worker.broken is not None:
            # Further workers start on other devices first.
            self._slots.sort(key=lambda slot: slot.place == worker.slot.place)
        if cells:
            self._waiting.insert(0, cells)


def build(setup: EngineSetup) -> LocalEngine:
    """Build the engine `local`."""
    return LocalEngine(setup.store, setup.settings, setup.before, say=setup.say, show=setup.show)
