"""The process that holds labels, beside each worker: it reads images, marks answers, stores.

`Seat` starts it, for the engine; `main` is the process. No code of a method runs in it: plug-ins
that bring no data set are not even imported.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fewshot_bench import offline
from fewshot_bench.ahead import THREADS
from fewshot_bench.engines.messages import Closed, receive, send
from fewshot_bench.examiner import Examiner
from fewshot_bench.processes import die_with
from fewshot_bench.record import Record
from fewshot_bench.spec import RunSpec
from fewshot_bench.store import Store

MODULE = "fewshot_bench.engines.label_process"
# As many as there are threads that read images at once, and one for all else.
CHANNELS = THREADS + 1
STOP_SECONDS = 10.0


class Seat:
    """The process that holds labels for one worker, as the engine sees it."""

    def __init__(self, store: Path, environment: Mapping[str, str], stderr: Any) -> None:
        """Start it; `descriptors` are the worker's ends, which `started` closes here."""
        pairs = [socket.socketpair() for _ in range(CHANNELS)]
        self._ends = [mine for mine, _ in pairs]
        theirs = [other for _, other in pairs]
        numbers = ",".join(str(end.fileno()) for end in theirs)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, str(store), str(os.getpid()), numbers],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={**environment, **_without_methods(), "OMP_NUM_THREADS": "1"},
                pass_fds=[end.fileno() for end in theirs],
                start_new_session=True,
            )
        finally:
            for end in theirs:
                end.close()

    @property
    def descriptors(self) -> list[int]:
        """What the worker inherits."""
        return [end.fileno() for end in self._ends]

    def started(self) -> None:
        """The worker has its ends."""
        for end in self._ends:
            end.close()

    def left(self) -> None:
        """The worker has ended: what it had handed in is stored, then this process ends too."""
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.stop()

    def stop(self) -> None:
        """End the process now."""
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)


def _without_methods() -> dict[str, str]:
    """Leaves out the plug-ins that bring no data set: their code has no business among labels."""
    from fewshot_bench.registry import registry

    known = registry()
    bringing = {entry.origin.partition(",")[0] for entry in known.datasets.entries.values()}
    needed = {info.name for info in known.plugins if info.full_name in bringing}
    others = {info.name for info in known.plugins} - needed
    blocked = [*filter(None, os.environ.get("FSBENCH_DISABLE_PLUGINS", "").split(",")), *others]
    return {"FSBENCH_DISABLE_PLUGINS": ",".join(sorted(set(blocked)))}


class _Desk:
    """Answers what workers ask; reads at once, all else one after the other."""

    def __init__(self, store: Path) -> None:
        self._store = Store(store)
        self._examiner = Examiner(store, separate=True)
        self._lock = threading.RLock()

    def serve(self, channel: socket.socket) -> None:
        """Answer over one channel until the other end goes."""
        with channel, suppress(Closed, OSError):
            while True:
                header, body = receive(channel)
                try:
                    answer, data = self._answer(header.pop("operation"), header, body)
                except Exception as error:
                    answer, data = {"error": _told(error)}, b""
                send(channel, answer, data)

    def _answer(
        self, operation: str, values: dict[str, Any], body: bytes
    ) -> tuple[dict[str, Any], bytes]:
        if operation == "read":
            return {}, self._examiner.listed(values["handle"]).read(values["index"])
        with self._lock:
            if operation == "digests":
                files = self._examiner.listed(values["handle"])
                digests = b"".join(files.digests)
                return {"problem": files.problem}, digests
            if operation == "settle":
                self._settle(values, body)
                return {}, b""
            return self._lists(operation, RunSpec.from_dict(values["spec"])), b""

    def _lists(self, operation: str, spec: RunSpec) -> dict[str, Any]:
        if operation == "questions":
            pair = self._examiner.questions(spec)
            return dict(zip(("fitted", "asked"), map(dataclasses.asdict, pair), strict=True))
        if operation == "task":
            return dataclasses.asdict(self._examiner.task(spec))
        return dataclasses.asdict(self._examiner.queries(spec))

    def _settle(self, values: Mapping[str, Any], body: bytes) -> None:
        import numpy as np

        record, answers = Record.from_dict(values["record"]), None
        if values["shape"] is not None:
            answers = np.frombuffer(body, dtype=np.float32).reshape(values["shape"])
        done = self._examiner.settle(record, answers)
        self._store.write(done.record, done.logits, done.labels, done.ids)


def _told(error: Exception) -> dict[str, str]:
    return {"type": type(error).__name__, "message": str(error)}


@contextmanager
def _served(desk: _Desk, numbers: Sequence[int]) -> Iterator[list[threading.Thread]]:
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
    """Arguments: store folder, the engine's process, descriptors joined by commas."""
    folder, parent, numbers = sys.argv[1:]
    die_with(int(parent))
    offline.enforce_if_asked()
    with _served(_Desk(Path(folder)), [int(number) for number in numbers.split(",")]):
        pass


if __name__ == "__main__":
    main()
