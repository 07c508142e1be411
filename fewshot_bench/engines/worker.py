"""A worker process: reads cells as JSON lines, stores each result, answers in JSON lines."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import STORE
from fewshot_bench.engines.remote_examiner import RemoteExaminer
from fewshot_bench.store.store import Store
from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import FsbenchError, PluginError
from fewshot_bench.utils.prefetch import start_own
from fewshot_bench.utils.processes import die_with
from fewshot_bench.utils.text import few

PROGRESS_SECONDS = 0.2
BEAT_SECONDS = 2.0


class _Answers:
    """JSON lines to the parent; progress at most every `PROGRESS_SECONDS`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._reported = 0.0
        self._lock = threading.Lock()

    def send(self, event: str, **values: Any) -> None:
        try:
            with self._lock:
                self._stream.write(json.dumps({"event": event, **values}) + "\n")
                self._stream.flush()
        except (OSError, ValueError):
            # The parent is gone, or a plug-in has closed the channel: that must not pass for a
            # failure of the cell that is running.
            os._exit(1)

    def progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._reported >= PROGRESS_SECONDS:
            self._reported = now
            self.send("progress", done=done, total=total)

    def keep_beating(self) -> None:
        """Send signs of life from a thread of its own."""

        def beat() -> None:
            from fewshot_bench.utils.locks import is_waiting

            while True:
                time.sleep(BEAT_SECONDS)
                self.send("beat", waiting=is_waiting())

        start_own(threading.Thread(target=beat, name="fsbench-heartbeat", daemon=True))


def main() -> None:
    """Arguments: store folder, device, CPU threads (0: leave them), 1 where models are kept, the
    parent process, and descriptors, joined by commas, that lead to the process with the labels.
    """
    folder, device, threads, keep_models, parent, descriptors = sys.argv[1:]
    die_with(int(parent))
    offline.enforce_if_asked()
    answers = _Answers(_private_stdout())
    _say_where_when_asked()
    answers.keep_beating()
    os.environ[STORE] = folder
    store = Store(Path(folder))
    examiner = RemoteExaminer([int(number) for number in descriptors.split(",")])
    try:
        session = partial(_session, store, device, examiner, keep_models == "1")
        _serve(store, session, int(threads), answers, examiner)
    except FsbenchError as error:
        answers.send("fatal", message=str(error), exit_code=error.exit_code)
        sys.exit(error.exit_code)


def _session(store: Store, device: str, examiner: RemoteExaminer, keep_models: bool) -> Any:
    from fewshot_bench.runner.session import Session

    models = store.path if keep_models else None
    return Session(store.path / "cache" / "features", device, examiner, models)


def _serve(
    store: Store,
    opened: Callable[[], Any],
    threads: int,
    answers: _Answers,
    examiner: RemoteExaminer,
) -> None:
    import torch

    # What every cell needs, imported while the engine still checks its data.
    import_module("fewshot_bench.runner.run")

    if threads:
        torch.set_num_threads(threads)
    session = opened()
    answers.send("idle")
    for line in sys.stdin:
        request = json.loads(line)
        examiner.begin(request["number"], request["incidents"])
        if not _compute(request, store, session, answers, examiner):
            # What a plug-in left behind must not reach another cell, nor keep this process alive.
            os._exit(0)
        answers.send("idle")


def _compute(
    request: Any, store: Store, session: Any, answers: _Answers, examiner: RemoteExaminer
) -> bool:
    """Compute the cells of a request; returns whether this process can be trusted with more."""
    from fewshot_bench.runner.run import run_group

    cells = [RunSpec.from_dict(values) for values in request["specs"]]
    # Another process may have finished a cell meanwhile.
    todo = [c for c in cells if request["force"] or not store.complete(c.key())]
    for cell in cells:
        if cell not in todo:
            answers.send("finished", key=cell.key())
    if not todo:
        return True
    session.backbone(todo[0])
    # Loading the backbone is not billed.
    answers.send("started")
    trusted = _hook("run_started", todo[0], examiner, spec=todo[0])
    outcomes = run_group(todo, session, answers.progress, request["parts"])
    for number, outcome in enumerate(outcomes, 1):
        record, trusted = outcome.record, trusted and not outcome.tainted
        answers.send("finished", key=record.spec.key())
        following = todo[number] if number < len(todo) else None
        # The stored record: the one that was computed here has no metrics.
        stored = store.get(record.spec.key()) or record
        trusted &= _hook("run_finished", following, examiner, record=stored)
        if following is None:
            break
        if not trusted:
            answers.send("retired")
            break
        # The time of hooks is not that of the next cell.
        answers.send("started")
        trusted &= _hook("run_started", following, examiner, spec=following)
    return trusted


def _hook(
    hook: str,
    following: RunSpec | None,
    examiner: RemoteExaminer,
    **arguments: object,
) -> bool:
    """Call a hook; functions that it replaced are put back, and the next cell's record names them.

    Returns whether all of them are back.
    """
    from fewshot_bench.runner.isolation.functions import Functions

    functions = Functions()
    call_hook(hook, **arguments)
    swapped, complete = functions.restore()
    if swapped and following is not None:
        end = "put back" if complete else "could not be undone: the process is not used again"
        text = f"a hook of a plug-in, run before this cell, replaced {few(swapped)}; {end}"
        examiner.note(following.key(), "functions", text)
    return complete


def finished(record: Record) -> None:
    """Call `run_finished` for a record that is stored."""
    call_hook("run_finished", record=record)


# The plug-ins and hooks whose failure this process has shown.
_shown: set[tuple[str, str]] = set()


def call_hook(hook: str, **arguments: object) -> None:
    """Call a hook; one that fails must not cost a result: a warning names the plug-in, once."""
    from fewshot_bench.api.registry import registry

    def failed(plugin: str, failure: PluginError) -> None:
        if (plugin, hook) not in _shown:
            _shown.add((plugin, hook))
            print(f"warning: {failure}", file=sys.stderr)

    registry().call(hook, failed, **arguments)


def _private_stdout() -> IO[str]:
    """Keep the channel to the parent; whatever else is printed goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def _say_where_when_asked() -> None:
    """Print all stacks on a crash, and when the engine asks before it ends this process."""
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        with suppress(AttributeError, OSError):
            faulthandler.register(signal.SIGUSR1, all_threads=True)


if __name__ == "__main__":
    main()
