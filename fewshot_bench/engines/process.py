"""`Worker`: the engine's handle of one worker process, which reads its messages and ends it."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fewshot_bench.api.record import Count, Number, Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import Group, Settings
from fewshot_bench.engines.label_process import Connection, LabelProcess, list_plugins_of
from fewshot_bench.runner.cell_log import CellLog
from fewshot_bench.store.store import Store
from fewshot_bench.utils.devices import CPU, see_only
from fewshot_bench.utils.messages import MOST_BYTES, Channel, Closed
from fewshot_bench.utils.processes import forward, show
from fewshot_bench.utils.start import Forked, Process, environment_at_start, start
from fewshot_bench.utils.text import printable

WORKER = "fewshot_bench.engines.worker"
PRELOADED = "fewshot_bench.engines.preloaded"
# Seconds without heartbeat and CPU time after which a process counts as stopped or swapped out.
SILENT_SECONDS = 60.0
# Seconds without any sign of life after which the user is told what a cell waits for.
STALLED_SECONDS = 60.0
# A process that uses less than this share of a core over at least this many seconds is idle;
# watching its own memory takes up to 0.02.
IDLE_SHARE = 0.05
IDLE_SECONDS = 5.0
# Header of each stack that faulthandler prints.
STACK = "(most recent call first)"
TAIL_CHARACTERS = 6000
# Maximum characters of a worker's stderr passed on per cell.
PASSED_ON_CHARACTERS = 20_000
# Seconds to print stacks before a process is killed, and of silence that mark their end.
DUMP_SECONDS = 10.0
DUMPED_SECONDS = 0.5
STOP_SECONDS = 10.0
# Seconds between looks whether a process that says nothing has ended.
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Slot:
    """A place for one worker: its device, and variables that limit which devices it can see."""

    name: str
    device: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The device of the request, with its number."""
        return self.name.rpartition("/")[0]


def slots_of(devices: tuple[str, ...], per_device: int) -> list[Slot]:
    """Slots that alternate over the devices; a worker on a numbered device sees only that one."""
    return [
        Slot(f"{device}/{number}", *see_only(device))
        for number, device in product(range(per_device), devices)
    ]


# Points of one message, at most.
MOST_POINTS = 10_000
# (step, {series: value}); no constraint of msgspec lets through NaN.
Points = Annotated[
    list[tuple[Count, dict[Annotated[str, Meta(max_length=100)], Number]]],
    Meta(max_length=MOST_POINTS),
]


_Ends = Literal["finished", "failed", "broken", "fatal"]


class Message(msgspec.Struct):
    """A message of a worker.

    event: `idle` (waits for cells), `started` (begins the first of its unfinished cells),
    `progress` (done, total: steps of it), `said` (text: lines that it printed), `points`
    (points: of its curves, about once a second), `finished` (key: of a stored cell), `failed`
    (record: of a cell that failed because of the machine, not stored), `broken` (record: of a cell
    under which the device or a captured step failed; the worker ends), `fatal` (message, exit_code:
    it cannot go on), `beat` (waiting: for a lock of another process; asking: what for, of the label
    process).
    """

    event: Literal["idle", "started", "beat", "progress", "said", "points"] | _Ends
    done: int = 0
    total: int = 0
    key: str = ""
    record: Any = None
    message: str = ""
    text: str = ""
    points: Points = []
    exit_code: int = 1
    waiting: bool = False
    asking: str = ""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Message:
        """The message with these values; ValueError for whatever else a process may write."""
        try:
            message = msgspec.convert(values, cls)
            if message.event in ("failed", "broken"):
                # Only the label process hands in what is done, and computes metrics.
                record = Record.from_dict(message.record)
                message.record = replace(record, status="failed", metrics={})
            return message
        except Exception as error:
            raise ValueError(f"{values!r:.80} is no event") from error


# Keys of a backbone with a data set, and of a support set of it.
Data = tuple[Any, Any]
# None once the worker has ended.
Event = tuple["Worker", Message | None]


@dataclass(eq=False)
class Worker:
    """One worker process and its unfinished cells, the first of which is running."""

    slot: Slot
    process: Process
    channel: Channel
    labels: Connection
    # The foreign plug-in whose code it has run, empty for built-in methods; None before any cell.
    owner: str | None = None
    cells: Group = field(default_factory=list)
    # The data in its memory.
    held: Data | None = None
    # Key of the fit whose lease the engine holds for this worker.
    claimed: str = ""
    fatal: Message | None = None
    ready: bool = False
    idle: bool = False
    # True once its backbone is loaded: from then on, the time of its first cell counts.
    started: bool = False
    # True once it has computed cells of a foreign plug-in, which may speak in its name.
    foreign: bool = False
    # The reason if the engine ended it: "timeout" or "hang".
    ended: str = ""
    # The record of the cell under which its device or a captured step failed.
    broken: Record | None = None
    tail: str = ""
    # What the running cell has printed.
    log: CellLog = field(default_factory=CellLog)
    _reader: threading.Thread | None = None
    _events: queue.Queue[Event] = field(default_factory=queue.Queue)
    _passed_on: int = 0
    _since: float = 0.0
    _beat: float = 0.0
    _sign: float = 0.0
    _cpu: float = 0.0
    _asking: str = ""
    # Seconds that it has waited for a lock; True once it was said what it waits for.
    _locked: float = 0.0
    _said_stalled: bool = False

    @classmethod
    def start(
        cls,
        slot: Slot,
        store: Store,
        settings: Settings,
        events: queue.Queue[Event],
        labels: LabelProcess,
    ) -> Worker:
        """Start a process; its messages arrive in `events`, None once it has ended."""
        environment = {**environment_at_start(), **settings.environment(), **slot.environment}
        connection = labels.connect()
        channel, other = Channel.pair()
        threads, keep_models = settings.threads or 0, int(settings.keep_models)
        with forward(lambda line: worker._listen(line)) as (errors, said):
            process = start(
                WORKER,
                [str(store.path), slot.device, str(threads), str(keep_models)],
                environment,
                [other, *connection.channels],
                errors=errors,
                preload=PRELOADED if slot.device == CPU else None,
            )
            worker = cls(slot, process, channel, connection, _events=events)
        worker._alive()
        worker._reader = threading.Thread(target=worker._read, args=(said,), daemon=True)
        worker._reader.start()
        return worker

    def _read(self, said: threading.Thread) -> None:
        with suppress(Closed, OSError):
            while self.channel.is_readable(LOOK_SECONDS) or self.process.poll() is None:
                if self.channel.is_readable(0):
                    # Other code may write into the channel, whatever it likes.
                    with suppress(ValueError):
                        message, _ = self.channel.receive(MOST_BYTES)
                        self._events.put((self, Message.read(message)))
        self.process.wait()
        self.channel.close()
        self.labels.wait()
        said.join(DUMP_SECONDS)
        self._events.put((self, None))

    def _listen(self, line: str) -> None:
        """Pass on a line of stderr, up to a length per cell, and keep it in the tail."""
        self.tail = (self.tail + line)[-TAIL_CHARACTERS:]
        self._passed_on += len(line)
        if not self.ended and self._passed_on <= PASSED_ON_CHARACTERS:
            show(line)

    def retire(self) -> None:
        """Let the process, which is idle, end."""
        self.idle = False
        with suppress(OSError):
            self.channel.end()

    def send(
        self, cells: Group, owner: str, variables: Mapping[str, str], **request: object
    ) -> None:
        """Send cells to the worker; its reader notices a process that has ended.

        owner: of their methods, which has `variables`. request: `force`, `eager`, `parts` and
        `incidents`.
        """
        self.owner, self.cells = owner, list(cells)
        self.idle = self.started = False
        self._begin_cell()
        # The slot's come last: no plug-in gives a worker the device of another one.
        given = {**variables, **self.slot.environment}
        request |= {"number": self.labels.expect(cells), "plugins": list_plugins_of(cells)}
        request |= {"specs": [cell.to_dict() for cell in cells], "variables": given}
        # The reader closes the channel of a process that has ended.
        with suppress(OSError):
            self.channel.send(request)

    def finish(self, key: str) -> RunSpec | None:
        """Remove and return the cell with this key, and start the next; None for an unknown key."""
        for cell in self.cells:
            if cell.key() == key:
                self.cells.remove(cell)
                self._begin_cell()
                return cell
        return None

    def _begin_cell(self) -> None:
        self.tail, self._passed_on, self.log = "", 0, CellLog()
        self._since = time.monotonic()
        self._alive()

    def _alive(self) -> None:
        self._beat = self._sign = time.monotonic()

    def note(self, message: Message) -> None:
        """Take a message as a sign of life; heartbeats count as activity only while waiting."""
        now = time.monotonic()
        self._asking = message.asking
        if message.event == "started":
            self.started, self._since = True, now
            self.foreign = bool(self.owner)
        self._locked = self._locked + now - self._beat if message.waiting else 0.0
        if message.waiting:
            # Time spent waiting for other processes does not count for this cell.
            self._since += now - self._beat
        self._beat = now
        if message.event != "beat" or message.waiting:
            self._sign = now

    def excuse(self, seconds: float) -> None:
        """Do not count this time towards the limits of `overdue`."""
        now = time.monotonic()
        self._since, self._beat, self._sign = (
            min(now, moment + seconds) for moment in (self._since, self._beat, self._sign)
        )

    def overdue(self, timeout: float | None, hang: float) -> str:
        """The reason to end this process: "timeout", "hang", or nothing."""
        if self.ended or (self.ready and not self.cells):
            return ""
        now = time.monotonic()
        timed = self.started and self.cells
        if timeout is not None and timed and now - self._since > timeout:
            return "timeout"
        if isinstance(self.process, Forked) and not self.process.has_begun:
            # The fork server still imports, which may take long on a busy machine.
            self._beat = now
        passed = now - self._sign
        # The label process serves other workers, too.
        pids = [self.process.pid, *([self.labels.pid] if self._asking else [])]
        used = sum(_cpu_seconds(pid, children=passed > SILENT_SECONDS / 2) for pid in pids)
        # Less than before: the process has been forked, and its server's CPU time no longer counts.
        self._cpu = min(self._cpu, used)
        if used - self._cpu > IDLE_SHARE * max(passed, IDLE_SECONDS):
            self._cpu, self._sign = used, now
            return ""
        silent = now - self._beat > SILENT_SECONDS and passed > SILENT_SECONDS
        return "hang" if silent or passed > hang else ""

    def find_stall(self) -> str:
        """What the running cell has been waiting for since `STALLED_SECONDS`; each wait once."""
        passed = max(time.monotonic() - self._sign, self._locked)
        told, self._said_stalled = self._said_stalled, passed > STALLED_SECONDS
        if told or not self._said_stalled or not self.cells:
            return ""
        who, step = f"its worker (process {self.process.pid})", "gives no sign of life"
        if self._locked:
            who, step = "another process", "holds a lock that it needs"
        elif self._asking:
            who = f"the label process ({self.labels.pid})"
            step = f"does not answer '{printable(self._asking):.20}'"
        return (
            f"{self.cells[0].describe()} has waited for {passed:.0f} s: {who} {step}; is that "
            "process stopped (kill -CONT), or does a disk not answer?"
        )

    def end(self, reason: str) -> None:
        """End the process, which prints its stacks first."""
        self.ended = reason
        with suppress(OSError):
            os.kill(self.process.pid, signal.SIGUSR1)
        # Wait until stacks have arrived on stderr and the output has stopped.
        for _ in range(int(DUMP_SECONDS / DUMPED_SECONDS)):
            before = self.tail
            time.sleep(DUMPED_SECONDS)
            if (STACK in before and before == self.tail) or self.process.poll() is not None:
                break
        self.stop()
        if self.process.poll() is None:
            # It survives being killed, as in a driver that hangs: give it up.
            self._events.put((self, None))

    def stop(self) -> None:
        """Kill the process and its descendants."""
        kill_session(self.process.pid)
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        self.labels.wait()
        if self._reader is not None:
            # The reader closes the pipes.
            self._reader.join(2 * DUMP_SECONDS)

    def how_it_ended(self, timeout: float | None = None) -> str:
        """The reason for its end, such as `killed by signal 15`; timeout: the limit of a cell."""
        code = self.process.returncode
        if self.ended == "timeout":
            return f"ended after the time limit of {timeout:g} s for a cell"
        if self.ended == "hang":
            return "ended because it gave no sign of life"
        if self.broken is not None:
            said = printable(self.broken.device_fault)
            return f"ended after a fault of its device ({said:.200})"
        if code is not None and code < 0:
            return f"killed by signal {-code}{' (out of memory?)' if code == -9 else ''}"
        return f"ended with exit code {code}"


def kill_session(pid: int) -> None:
    """Kill a process that has a session of its own, with its descendants."""
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def _cpu_seconds(pid: int, *, children: bool) -> float:
    """CPU time of a process and its reaped children; with `children`, of live descendants too."""
    import psutil

    used = 0.0
    with suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        used = float(sum(process.cpu_times()))
        for child in process.children(recursive=True) if children else ():
            with suppress(psutil.Error):
                used += float(sum(child.cpu_times()[:2]))
    return used


def count_memory_kills() -> int:
    """The number of processes that the kernel killed for lack of memory; 0 if not counted."""
    text = ""
    with suppress(OSError):
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    return sum(map(int, re.findall(r"^oom_kill (\d+)$", text, re.MULTILINE)))
