"""The label process of a run: reads images, computes metrics and stores results.

The engine starts it with `LabelProcess`, before any worker; `main` is the process. No method code
runs in it: it imports only plug-ins that provide data sets of the current cells, and nothing that
came into the environment after the command was started.
"""

from __future__ import annotations

import dataclasses
import os
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench.api import plugins
from fewshot_bench.api.plugins import is_own
from fewshot_bench.api.record import SEPARATE, TIME, Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import Settings
from fewshot_bench.images.decode import ImageFiles
from fewshot_bench.runner import kit_results
from fewshot_bench.runner.examiner import LISTS_KEPT, Examiner
from fewshot_bench.store.store import Store
from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import ContractError
from fewshot_bench.utils.image_formats import ignore_pillow_warnings
from fewshot_bench.utils.messages import Channel, Closed
from fewshot_bench.utils.prefetch import THREADS
from fewshot_bench.utils.processes import forward, show
from fewshot_bench.utils.start import environment_at_start, start

# One channel per image-reading thread, and one for all other requests.
CHANNELS = THREADS + 1
STOP_SECONDS = 10.0
# Seconds that the harness itself may need for a cell: to digest the weights of a large backbone,
# and to keep a model.
OWN_SECONDS = 30.0
# Variables by which Python or the system's loader runs other code, and which other processes set.
_LOADING = ("PYTHON", "LD_", "DYLD_")


class LabelProcess:
    """Engine-side handle of the label process of a run; start it before any worker."""

    def __init__(self, store: Path, settings: Settings) -> None:
        """Start it, with the environment of the command but for what makes it run other code."""
        self._control, other = Channel.pair()
        self._workers = 0
        # Those whose code runs in it.
        self.plugins: set[str] = set()
        before = environment_at_start().items()
        clean = {name: value for name, value in before if not name.startswith(_LOADING)}
        with forward(show) as (errors, _):
            self.process = start(
                __name__,
                [str(store), settings.keep_logits],
                {**clean, **settings.environment(), plugins.ONLY: "", "OMP_NUM_THREADS": "1"},
                [other],
                errors=errors,
                path=[*filter(None, sys.path)],
            )

    @property
    def is_alive(self) -> bool:
        """True until the process has ended."""
        return self.process.poll() is None

    def connect(self) -> Connection:
        """Open the channels of one more worker."""
        pairs = [Channel.pair() for _ in range(CHANNELS)]
        done, ending = os.pipe()
        self._workers += 1
        try:
            self.tell({"worker": self._workers}, [*(other.fileno() for _, other in pairs), ending])
        finally:
            for _, other in pairs:
                other.close()
            os.close(ending)
        return Connection(self, self._workers, [mine for mine, _ in pairs], done)

    def tell(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message; workers notice if the label process has ended."""
        with suppress(OSError):
            self._control.send(message, descriptors=descriptors)

    def stop(self) -> None:
        """Wait until the results of all workers, which have ended, are stored; then it ends."""
        self._control.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)


@dataclass
class Connection:
    """The channels of one worker to the label process, at the worker's ends."""

    labels: LabelProcess
    worker: int
    channels: Sequence[Channel]
    # The label process closes its end after the last request.
    done: int
    announced: int = 0

    @property
    def pid(self) -> int:
        """The id of the label process."""
        return self.labels.process.pid

    def expect(self, cells: Sequence[RunSpec]) -> int:
        """Announce the worker's next cells; from now on, its requests for other cells are refused.

        Returns the number of this announcement, which the worker passes to `begin`.
        """
        self.announced += 1
        needed = list_needed_plugins(cells)
        self.labels.plugins.update(needed)
        self.labels.tell(
            {
                "worker": self.worker,
                "plugins": needed,
                "cells": _collect_facts(cells, self.labels.plugins),
                "number": self.announced,
            }
        )
        return self.announced

    def wait(self) -> None:
        """After the worker has ended: wait until its results are stored."""
        done, self.done = self.done, -1
        if done >= 0:
            select.select([done], [], [], STOP_SECONDS)
            os.close(done)


def list_needed_plugins(cells: Iterable[RunSpec]) -> list[str]:
    """Full names of the plug-ins that provide the data sets of cells.

    Code of other plug-ins must not run in the label process.
    """
    names = {name for cell in cells for name in (cell.dataset, cell.target) if name}
    entries = map(registry().dataset_entry, names)
    return sorted({entry.plugin for entry in entries if entry is not None})


def list_plugins_of(cells: Iterable[RunSpec]) -> list[str]:
    """Full names of the plug-ins that a worker needs for cells: built-in ones, and few others.

    These are the plug-ins of their methods, which have one owner, and of their backbones.
    """
    catalog = registry()
    names = {info.full_name for info in catalog.plugins if is_own(info.full_name)}
    for cell in cells:
        entries = [catalog.methods.entries.get(method) for method in cell.methods]
        entries.append(catalog.backbones.entries.get(cell.backbone))
        names |= {entry.plugin for entry in entries if entry is not None}
    return sorted(names)


def _collect_facts(cells: Sequence[RunSpec], imported: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Record facts by cell key which the method's own process could falsify.

    imported: the plug-ins whose code runs in the label process, of data sets of other cells, too.
    digest: of the method's code; distribution: of its plug-in; kit: the conformance kit's result
    for that code; separate: True if no code of the distribution runs in the label process.
    """
    # Data sets and methods of our own distribution are separate plug-ins.
    own = {name.partition(":")[0] for name in imported} - {plugins.OWN}
    facts = {}
    for cell in (part for each in cells for part in (each, each.inner_cell()) if part):
        code = registry().code_of(cell)
        facts[cell.key()] = {
            "digest": code["digest"],
            "distribution": code["distribution"],
            "kit": kit_results.of_record(cell.method),
            "separate": code["distribution"] not in own,
        }
    return facts


class _Desk:
    """Handles requests of one worker: image reads concurrently, all others under the shared lock.

    The worker gets only lists of images that its own cells need.
    """

    def __init__(self, store: Store, keep: str, examiner: Examiner, lock: threading.Condition):
        self._store, self._keep = store, keep
        self._examiner, self._lock = examiner, lock
        self._lists: OrderedDict[str, ImageFiles] = OrderedDict()
        self._expected: dict[str, dict[str, Any]] = {}
        self._settled: set[str] = set()
        # When each cell was first requested.
        self._begun: dict[str, float] = {}
        self._number = 0

    def expect(self, message: Mapping[str, Any]) -> None:
        """Take over the engine's announcement: facts and plug-ins of the worker's next cells."""
        with self._lock:
            before = set(filter(None, os.environ.get(plugins.ONLY, "").split(",")))
            if not before >= set(message["plugins"]):
                os.environ[plugins.ONLY] = ",".join(sorted(before | set(message["plugins"])))
                registry.cache_clear()
            self._expected, self._settled, self._begun = dict(message["cells"]), set(), {}
            self._number = message["number"]
            self._lock.notify_all()

    def serve(self, channels: Sequence[Channel], done: int) -> None:
        """Handle the requests of all channels until the worker ends; then close `done`."""
        threads = [threading.Thread(target=self._serve, args=(channel,)) for channel in channels]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.close(done)

    def _serve(self, channel: Channel) -> None:
        with closing(channel), suppress(Closed, OSError, ValueError):
            while True:
                values, body = channel.receive()
                try:
                    answer, data = self._answer(values.pop("operation"), values, body)
                except Exception as error:
                    facts = {"type": type(error).__name__, "message": str(error)}
                    answer, data = {"error": facts}, b""
                channel.send(answer, data)

    def _answer(
        self, operation: str, values: dict[str, Any], body: bytes
    ) -> tuple[dict[str, Any], bytes]:
        if operation == "read":
            return {}, self._find_list(values["handle"]).read(values["index"])
        with self._lock:
            match operation:
                case "begin":
                    # The engine has announced these cells, or is about to.
                    self._lock.wait_for(lambda: self._number >= values["number"])
                case "digests":
                    files = self._find_list(values["handle"])
                    digests = b"".join(files.digests)
                    return {"problem": files.problem}, digests
                case "settle":
                    self._settle(values, body)
                case "cell":
                    return self._open_lists(RunSpec.from_dict(values["spec"])), b""
            return {}, b""

    def _find_facts(self, spec: RunSpec) -> dict[str, Any]:
        """The engine's facts of a cell; ContractError if the cell was not announced."""
        key = spec.key()
        if key not in self._expected:
            raise ContractError(
                f"{spec.describe()} is no cell that this process was given: a plug-in asked for "
                "another one"
            )
        return self._expected[key]

    def _find_list(self, handle: str) -> ImageFiles:
        if handle not in self._lists:
            raise ContractError(f"no list of images has the handle '{handle}'; run again")
        return self._lists[handle]

    def _open_lists(self, spec: RunSpec) -> dict[str, Any]:
        """The lists of a cell, whose images can be read from now on."""
        self._find_facts(spec)
        self._begun.setdefault(spec.key(), time.monotonic())
        lists = self._examiner.cell(spec)
        for images in (lists.train, lists.val, lists.queries):
            self._lists[images.handle] = self._examiner.files(images)
            self._lists.move_to_end(images.handle)
        while len(self._lists) > LISTS_KEPT:
            self._lists.popitem(last=False)
        return dataclasses.asdict(lists)

    def _settle(self, values: Mapping[str, Any], body: bytes) -> None:
        """Compute metrics and store a cell, only once: repeated submissions could reveal labels.

        Metrics follow from logits alone: without any, nothing is done, whatever the record says.
        """
        import numpy as np

        from fewshot_bench.runner.verdict import Answered, unpack

        record, answers = Record.from_dict(values["record"]), None
        key, facts = record.spec.key(), self._find_facts(record.spec)
        if values["shape"] is not None:
            answers = np.frombuffer(body, dtype=np.float32).reshape(values["shape"])
        if key in self._settled or (answers is None) == (record.status == "done"):
            record, answers = _refuse_own_result(record), None
        seconds = time.monotonic() - self._begun.get(key, time.monotonic())
        record = with_wall_time(_with_facts(record, facts), seconds)
        record = dataclasses.replace(record, metrics={})
        classes = 1 if answers is None else answers.shape[1]
        compared = [unpack(one, classes) for one in values.get("compared", ())]
        done = self._examiner.settle(Answered(record, answers, compared=compared))
        log = str(values.get("log", ""))
        self._store.write(done.record, done.answers, done.ids, self._keep, log)
        self._settled.add(key)


def _with_facts(record: Record, facts: Mapping[str, Any]) -> Record:
    """The record with the engine's facts on its code, in place of those of its own process."""
    environment = dict(record.environment)
    if "kit" in environment:
        same = record.code_digest == facts["digest"]
        environment["kit"] = facts["kit"] if same else None
    if isinstance(environment.get("code"), Mapping):
        environment["code"] = {**environment["code"], "distribution": facts["distribution"]}
    if facts["separate"]:
        environment["labels"] = SEPARATE
    return dataclasses.replace(record, environment=environment)


def with_wall_time(record: Record, seconds: float) -> Record:
    """The record with the seconds from the request of its cell to its answers.

    An incident if it accounts for less than half of them, and for many less.
    """
    if record.status != "done":
        return record
    record = dataclasses.replace(
        record, timings={**record.timings, "wall_seconds": round(seconds, 6)}
    )
    elapsed = record.timings.get("elapsed_seconds") or 0.0
    if seconds - elapsed <= max(OWN_SECONDS, seconds / 2):
        return record
    text = (
        f"{record.spec.method} took {seconds:,.0f} s by the clock of another process, and its "
        f"record accounts for {elapsed:,.0f} s"
    )
    return dataclasses.replace(record, incidents=(*record.incidents, {"kind": TIME, "text": text}))


def _refuse_own_result(record: Record) -> Record:
    error = {
        "type": "ContractError",
        "message": f"{record.spec.method} handed in a result by itself; return logits instead",
        "traceback": "",
        "expected": True,
    }
    environment, incidents = record.environment, record.incidents
    return Record(record.spec, "failed", environment=environment, error=error, incidents=incidents)


def main(arguments: Sequence[str], channels: Sequence[Channel]) -> None:
    """Open a desk for every worker that the engine names, until the engine closes its channel.

    arguments: store folder, logits to keep. channels: the one to the engine.
    """
    folder, keep = arguments
    (control,) = channels
    offline.enforce_if_asked()
    ignore_pillow_warnings()
    store, lock = Store(Path(folder)), threading.Condition()
    examiner = Examiner(store.path, anonymous=True)
    desks: dict[int, _Desk] = {}
    threads = []
    with suppress(Closed, OSError):
        while True:
            message, _ = control.receive()
            if "cells" in message:
                desks[message["worker"]].expect(message)
                continue
            *numbers, done = control.receive_descriptors(CHANNELS + 1)
            os.set_inheritable(done, False)
            desk = desks[message["worker"]] = _Desk(store, keep, examiner, lock)
            opened = list(map(Channel, numbers))
            threads.append(threading.Thread(target=desk.serve, args=(opened, done)))
            threads[-1].start()
    for thread in threads:
        thread.join()
    os._exit(0)
