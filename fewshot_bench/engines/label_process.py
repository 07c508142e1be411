"""The label process of each worker: reads images, computes metrics and stores results.

The engine starts it with `LabelProcess`; `main` is the process. No method code runs in it: it
imports only plug-ins that provide data sets of the current cells.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fewshot_bench.api import plugins
from fewshot_bench.api.record import SEPARATE, Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.fork_server import LABELS, start
from fewshot_bench.engines.messages import Closed, receive, send
from fewshot_bench.runner import kit_results
from fewshot_bench.runner.examiner import Examiner
from fewshot_bench.runner.wall_time import with_wall_time
from fewshot_bench.store.store import Store
from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import ContractError
from fewshot_bench.utils.image_formats import ignore_pillow_warnings
from fewshot_bench.utils.prefetch import THREADS
from fewshot_bench.utils.processes import die_with

# One channel per image-reading thread, and one for all other requests.
CHANNELS = THREADS + 1
STOP_SECONDS = 10.0


class LabelProcess:
    """Engine-side handle of the label process of one worker."""

    def __init__(
        self, store: Path, environment: Mapping[str, str], stderr: int, keep: str = ""
    ) -> None:
        """Start it; `descriptors`: the worker's ends of the channels, closed here by `started`.

        keep: `Settings.keep_logits`.
        """
        pairs = [socket.socketpair() for _ in range(CHANNELS)]
        self._number = 0
        self._ends = [mine for mine, _ in pairs]
        theirs = [other for _, other in pairs]
        try:
            self.process = start(
                LABELS,
                [str(store), keep],
                {**environment, plugins.ONLY: "", "OMP_NUM_THREADS": "1"},
                stderr,
                [end.fileno() for end in theirs],
                output=stderr,
            )
        finally:
            for end in theirs:
                end.close()

    @property
    def descriptors(self) -> list[int]:
        """File descriptors that the worker inherits."""
        return [end.fileno() for end in self._ends]

    def started(self) -> None:
        """Close the worker's ends here, once the worker has inherited them."""
        for end in self._ends:
            end.close()

    def expect(self, cells: Sequence[RunSpec]) -> int:
        """Announce the worker's next cells; from now on, requests for other cells are refused.

        Returns the number of this announcement, which the worker passes to `begin`.
        """
        self._number += 1
        facts = {"plugins": needed_plugins(cells), "cells": _facts(cells), "number": self._number}
        text = json.dumps(facts) + "\n"
        # The worker notices if the label process has ended.
        with suppress(OSError, ValueError):
            assert self.process.stdin is not None
            self.process.stdin.write(text)
            self.process.stdin.flush()
        return self._number

    def left(self) -> None:
        """After the worker has ended: wait until its results are stored and this process ends."""
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.stop()
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()

    def stop(self) -> None:
        """Kill the process."""
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)


def needed_plugins(cells: Iterable[RunSpec]) -> list[str]:
    """Full names of the plug-ins that provide the data sets of cells.

    Code of other plug-ins must not run in the label process.
    """
    names = {name for cell in cells for name in (cell.dataset, cell.target) if name}
    entries = [registry().dataset_entry(name) for name in names]
    found = {entry.origin.partition(",")[0] for entry in entries if entry is not None}
    return sorted(found)


def _facts(cells: Sequence[RunSpec]) -> dict[str, dict[str, Any]]:
    """Record facts by cell key which the method's own process could falsify.

    code: `digest` of the method's code, and `distribution` of its plug-in. kit: the conformance
    kit's result for that code. separate: True if no code of the distribution runs in the label
    process.
    """
    facts = {}
    for cell in cells:
        code = registry().code(cell.method)
        # Data sets and methods of our own distribution are separate plug-ins.
        own = {name.partition(":")[0] for name in needed_plugins([cell])} - {plugins.OWN}
        kit = kit_results.of_record(cell.method)
        separate = code["distribution"] not in own
        own_facts = {name: code[name] for name in ("digest", "distribution")}
        facts[cell.key()] = {"kit": kit, "code": own_facts, "separate": separate}
    return facts


class _LabelServer:
    """Handles requests of a worker: image reads concurrently, all others under a lock."""

    def __init__(self, store: Path, keep: str) -> None:
        self._store = Store(store)
        self._keep = keep
        self._examiner = Examiner(store, anonymous=True)
        self._lock = threading.Condition()
        self._expected: dict[str, dict[str, Any]] = {}
        self._settled: set[str] = set()
        # When each cell was first requested.
        self._begun: dict[str, float] = {}
        self._number = 0

    def expect(self, facts: Mapping[str, Any]) -> None:
        """Take over the engine's announcement: facts and plug-ins of the worker's next cells."""
        with self._lock:
            before = set(filter(None, os.environ.get(plugins.ONLY, "").split(",")))
            if not before >= set(facts["plugins"]):
                os.environ[plugins.ONLY] = ",".join(sorted(before | set(facts["plugins"])))
                registry.cache_clear()
            self._expected, self._settled, self._begun = dict(facts["cells"]), set(), {}
            self._number = facts["number"]
            self._lock.notify_all()

    def _cell(self, spec: RunSpec) -> dict[str, Any]:
        """The engine's facts of a cell; ContractError if the cell was not announced."""
        key = spec.key()
        if key not in self._expected:
            raise ContractError(
                f"{spec.describe()} is no cell that this process was given: a plug-in asked for "
                "another one"
            )
        return self._expected[key]

    def serve(self, channel: socket.socket) -> None:
        """Handle the requests of one channel until its other end closes."""
        with channel, suppress(Closed, OSError):
            while True:
                header, body = receive(channel)
                try:
                    answer, data = self._answer(header.pop("operation"), header, body)
                except Exception as error:
                    answer, data = {"error": _error_facts(error)}, b""
                send(channel, answer, data)

    def _answer(
        self, operation: str, values: dict[str, Any], body: bytearray
    ) -> tuple[dict[str, Any], bytes]:
        if operation == "read":
            return {}, self._examiner.listed(values["handle"]).read(values["index"])
        with self._lock:
            if operation == "begin":
                # The engine has announced these cells, or is about to.
                self._lock.wait_for(lambda: self._number >= values["number"])
                return {}, b""
            if operation == "digests":
                files = self._examiner.listed(values["handle"])
                digests = b"".join(files.digests)
                return {"problem": files.problem}, digests
            if operation == "settle":
                self._settle(values, body)
                return {}, b""
            spec = RunSpec.from_dict(values["spec"])
            self._cell(spec)
            self._begun.setdefault(spec.key(), time.monotonic())
            return dataclasses.asdict(self._examiner.cell(spec)), b""

    def _settle(self, values: Mapping[str, Any], body: bytearray) -> None:
        """Compute metrics and store a cell, only once: repeated submissions could reveal labels."""
        import numpy as np

        record, answers = Record.from_dict(values["record"]), None
        key, facts = record.spec.key(), self._cell(record.spec)
        if values["shape"] is not None:
            answers = np.frombuffer(body, dtype=np.float32).reshape(values["shape"])
        if key in self._settled:
            record, answers = _handed_in_twice(record), None
        seconds = time.monotonic() - self._begun.get(key, time.monotonic())
        record = with_wall_time(_with_facts(record, facts), seconds)
        done = self._examiner.settle(record, answers)
        self._store.write(done.record, done.answers, done.ids, self._keep)
        self._settled.add(key)


def _with_facts(record: Record, facts: Mapping[str, Any]) -> Record:
    """The record with the engine's facts on its code, in place of those of its own process."""
    environment = dict(record.environment)
    if "kit" in environment:
        same = record.code_digest == facts["code"]["digest"]
        environment["kit"] = facts["kit"] if same else None
    if isinstance(environment.get("code"), Mapping):
        distribution = facts["code"]["distribution"]
        environment["code"] = {**environment["code"], "distribution": distribution}
    if facts["separate"]:
        environment["labels"] = SEPARATE
    return dataclasses.replace(record, environment=environment)


def _handed_in_twice(record: Record) -> Record:
    error = {
        "type": "ContractError",
        "message": f"{record.spec.method} handed in a result by itself; return logits instead",
        "traceback": "",
        "expected": True,
    }
    return Record(
        record.spec,
        "failed",
        environment=record.environment,
        error=error,
        incidents=record.incidents,
    )


def _error_facts(error: Exception) -> dict[str, str]:
    return {"type": type(error).__name__, "message": str(error)}


@contextmanager
def _served(desk: _LabelServer, numbers: Sequence[int]) -> Iterator[list[threading.Thread]]:
    threads = []
    for number in numbers:
        channel = socket.socket(fileno=number)
        os.set_inheritable(number, False)
        threads.append(threading.Thread(target=desk.serve, args=(channel,), daemon=True))
        threads[-1].start()
    yield threads
    for thread in threads:
        thread.join()


def main() -> None:
    """Arguments: store folder, logits to keep, parent process id, comma-separated descriptors."""
    folder, keep, parent, numbers = sys.argv[1:]
    die_with(int(parent))
    offline.enforce_if_asked()
    ignore_pillow_warnings()
    desk = _LabelServer(Path(folder), keep)

    def listen() -> None:
        for line in sys.stdin:
            desk.expect(json.loads(line))

    threading.Thread(target=listen, daemon=True).start()
    with _served(desk, [int(number) for number in numbers.split(",")]):
        pass
    # The thread that reads the engine's messages would delay a normal exit.
    os._exit(0)


if __name__ == "__main__":
    main()
