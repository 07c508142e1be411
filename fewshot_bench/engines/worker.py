"""A worker process: receives cells and sends events; the label process stores results.

`RemoteExaminer` is its side of the label process: no reply holds a label, an id or a path of a
query. `main` runs the process.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import functools
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fewshot_bench.api import plugins
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import STORE
from fewshot_bench.images.decode import EncodedFiles, numbered
from fewshot_bench.runner.cell_log import CellLog
from fewshot_bench.runner.examiner import CellLists, ImageList, Outcome
from fewshot_bench.store.kept_methods import adopt_methods
from fewshot_bench.store.store import Store
from fewshot_bench.utils import errors, offline
from fewshot_bench.utils.cache_dir import FEATURES, folder_of
from fewshot_bench.utils.errors import FsbenchError, StoreError
from fewshot_bench.utils.image_formats import ignore_pillow_warnings
from fewshot_bench.utils.locks import is_waiting
from fewshot_bench.utils.messages import Channel, Closed
from fewshot_bench.utils.step_kind import read_kind
from fewshot_bench.utils.withheld import withheld

if TYPE_CHECKING:
    from fewshot_bench.runner.session import Session
    from fewshot_bench.runner.verdict import Answered

SHA = 32
PROGRESS_SECONDS = 0.2
BEAT_SECONDS = 2.0
# Messages with what a cell prints: so many at once, and so many per second after that.
SAID_AT_ONCE, SAID_PER_SECOND = 200, 10


class RemoteExaminer:
    """Forwards requests to the label process; implements `examination.Examination`."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._earlier: dict[str, list[Mapping[str, str]]] = {}
        self._process = os.getpid()
        self._asked = ""
        self._free: queue.LifoQueue[Channel] = queue.LifoQueue()
        self._channels = len(channels)
        for channel in channels:
            self._free.put(channel)

    def begin(self, number: int, earlier: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
        """Begin the cells that the engine announced to the label process under this number.

        earlier: incidents of their tries in other processes, by key.
        """
        self.ask("begin", number=number)
        self._earlier = {key: list(incidents) for key, incidents in earlier.items()}

    @property
    def asking(self) -> str:
        """The latest request while one waits for its reply; else empty."""
        return self._asked if self._free.qsize() < self._channels else ""

    def ask(
        self, operation: str, body: bytes | memoryview = b"", **values: Any
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request and return header and body of the reply; re-raises the server's errors."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "images can be read in the process of the worker only, not in a fork"
            )
        channel, self._asked = self._free.get(), operation
        try:
            channel.send({"operation": operation, **values}, body)
            header, answer = channel.receive()
        except TypeError as error:
            raise StoreError(f"a record is not JSON: {error}") from error
        except (OSError, Closed):
            # The label process has ended: nothing can be stored. The engine restarts both.
            os._exit(1)
        finally:
            self._free.put(channel)
        if "error" in header:
            name, message = header["error"]["type"], header["error"]["message"]
            kind = getattr(errors, name, None)
            if isinstance(kind, type) and issubclass(kind, FsbenchError):
                raise kind(message)
            raise RuntimeError(f"{name}: {message}")
        return header, answer

    def cell(self, spec: RunSpec) -> CellLists:
        """The label spaces and image lists of a cell."""
        return msgspec.convert(self.ask("cell", spec=spec.to_dict())[0], CellLists)

    def files(self, images: ImageList) -> EncodedFiles:
        """The encoded files of an image list."""
        return _RemoteFiles(images, self)

    def settle(self, done: Answered, log: str = "") -> Outcome:
        """Submit a cell to the label process, which computes its metrics and stores it.

        The returned outcome has no metrics. Incidents noted earlier precede those of the record.
        A failure of the machine is left to the engine, which keeps an earlier result.
        """
        record, answers = done.record, done.answers
        earlier = self._earlier.get(record.spec.key(), ())
        record = dataclasses.replace(record, incidents=(*earlier, *record.incidents))
        if record.transient:
            return Outcome(record)
        shape = None if answers is None else answers.shape
        body = b"" if answers is None else answers.data.cast("B")
        packed = [one.pack() for one in done.compared]
        self.ask("settle", body, record=record.to_dict(), shape=shape, log=log, compared=packed)
        return Outcome(record)


class _RemoteFiles(EncodedFiles):
    """Image files of which this process gets only bytes and digests, no ids or paths."""

    def __init__(self, images: ImageList, examiner: RemoteExaminer) -> None:
        self.name, self.stamped = images.dataset, images.stamped
        self._handle = images.handle
        self._examiner = examiner

    @functools.cached_property
    def digests(self) -> tuple[bytes, ...]:
        """The SHA-256 of every file; one that is known by its stamp is not read."""
        header, body = self._examiner.ask("digests", handle=self._handle)
        self.problem = header["problem"]
        return tuple(body[start : start + SHA] for start in range(0, len(body), SHA))

    def read(self, index: int) -> bytes:
        """The encoded file."""
        return self._examiner.ask("read", handle=self._handle, index=index)[1]

    def title(self, index: int) -> str:
        """A placeholder with the image's number, which the label process replaces by its id."""
        return numbered(self._handle, index)


class _Engine:
    """The engine, which receives events; progress at most every `PROGRESS_SECONDS`.

    What a cell prints is sent at once, so that it outlives this process, but `SAID_PER_SECOND`
    times a second when it prints for long.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._reported = 0.0
        # Lines that wait, and how many messages may be sent at once.
        self._said = CellLog()
        self._credit, self._credited = float(SAID_AT_ONCE), time.monotonic()
        self._lock = threading.Lock()

    def send(self, event: str, **values: Any) -> None:
        try:
            self._channel.send({"event": event, **values})
        except (OSError, ValueError):
            # The engine has ended, or a plug-in has closed the channel: this must not count as a
            # failure of the running cell.
            os._exit(1)

    def progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._reported >= PROGRESS_SECONDS:
            self._reported = now
            self.send("progress", done=done, total=total)

    def say(self, lines: str) -> None:
        """Send what a cell prints, now or with the next lines."""
        with self._lock:
            self._said.add(lines)
            now = time.monotonic()
            earned = (now - self._credited) * SAID_PER_SECOND
            self._credit, self._credited = min(SAID_AT_ONCE, self._credit + earned), now
            if self._credit >= 1:
                self._credit -= 1
                self._send_said()

    def log(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Send points of curves."""
        self.send("points", points=points)

    def flush(self) -> None:
        """Send the lines that wait."""
        with self._lock:
            self._send_said()

    def _send_said(self) -> None:
        if text := self._said.text:
            self._said = CellLog()
            self.send("said", text=text)

    def beat(self, examiner: RemoteExaminer) -> None:
        """Send heartbeats for ever."""
        while True:
            time.sleep(BEAT_SECONDS)
            self.flush()
            self.send("beat", waiting=is_waiting(), asking=examiner.asking)


def main(arguments: Sequence[str], channels: Sequence[Channel]) -> None:
    """Run the worker process.

    arguments: store folder, device, CPU threads (0: leave them), 1 to keep models. channels: to the
    engine, then those to the label process.
    """
    folder, device, threads, keep_models = arguments
    channel, *labels = channels
    offline.enforce_if_asked()
    ignore_pillow_warnings()
    engine, examiner = _Engine(channel), RemoteExaminer(labels)
    # Print all stacks on a crash, and on SIGUSR1, which the engine sends before it kills us.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    os.environ[STORE] = folder
    store = Store(Path(folder))
    threading.Thread(target=engine.beat, args=(examiner,), daemon=True).start()
    try:
        import torch

        # Every cell needs this module: import it while the engine still checks its data.
        import_module("fewshot_bench.runner.run")
        from fewshot_bench.runner.session import Session

        if int(threads):
            torch.set_num_threads(int(threads))
        models = store.path if keep_models == "1" else None
        session = Session(folder_of(FEATURES, store.path), device, examiner, models)
        session.hear = lambda _, lines: engine.say(lines)
        engine.send("idle")
        with suppress(Closed), withheld():
            while True:
                request, _ = channel.receive()
                os.environ.update(request["variables"])
                # The plug-ins that the cells need, of which at most one has foreign methods.
                wanted = ",".join(request["plugins"])
                if os.environ.get(plugins.ONLY) != wanted:
                    os.environ[plugins.ONLY] = wanted
                    registry.cache_clear()
                examiner.begin(request["number"], request["incidents"])
                _compute(request, store, session, engine)
                engine.send("idle")
        # What a plug-in has left, such as a thread, must not keep this process alive.
        os._exit(0)
    except FsbenchError as error:
        engine.send("fatal", message=str(error), exit_code=error.exit_code)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        # Ctrl-C does not reach this process, which has a session of its own.
        print("a method or plug-in interrupted its own worker process (SIGINT)", file=sys.stderr)
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _compute(request: Any, store: Store, session: Session, engine: _Engine) -> None:
    """Compute the cells of a request."""
    from fewshot_bench.runner.run import run_group

    cells = [RunSpec.from_dict(values) for values in request["specs"]]
    adopt_methods(store.path, cells)
    # Another process may have finished some of the cells.
    todo = [c for c in cells if request["force"] or not store.complete(c.key())]
    for cell in cells:
        if cell not in todo:
            engine.send("finished", key=cell.key())
    if not todo:
        return
    session.step = "eager" if request["eager"] else read_kind()
    session.backbone(todo[0])
    # Loading the backbone is not billed.
    engine.send("started")
    # Closed here, as the next request must not find the views of this one open.
    parts = request["parts"]
    with closing(run_group(todo, session, engine.progress, parts, engine.log)) as outcomes:
        for number, outcome in enumerate(outcomes, 1):
            record = outcome.record
            engine.flush()
            if record.device_fault or record.uncaptured:
                # What is computed in this process from here on could be wrong.
                engine.send("broken", record=record.to_dict())
                os._exit(1)
            if record.transient:
                # The engine decides whether to store it.
                engine.send("failed", record=record.to_dict())
            else:
                engine.send("finished", key=record.spec.key())
            if number < len(todo):
                engine.send("started")
