"""A worker process: reads cells, sends events as JSON lines; the label process stores results."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from fewshot_bench.api import plugins
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import STORE
from fewshot_bench.engines.remote_examiner import RemoteExaminer
from fewshot_bench.store.store import Store
from fewshot_bench.utils import offline
from fewshot_bench.utils.cache_dir import FEATURES, folder_of
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.image_formats import ignore_pillow_warnings
from fewshot_bench.utils.prefetch import start_own
from fewshot_bench.utils.processes import die_with

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
            # The parent has ended, or a plug-in has closed the channel: this must not count as a
            # failure of the running cell.
            os._exit(1)

    def progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._reported >= PROGRESS_SECONDS:
            self._reported = now
            self.send("progress", done=done, total=total)

    def keep_beating(self, examiner: RemoteExaminer) -> None:
        """Send heartbeats from a separate thread."""

        def beat() -> None:
            from fewshot_bench.utils.locks import is_waiting

            while True:
                time.sleep(BEAT_SECONDS)
                self.send("beat", waiting=is_waiting(), asking=examiner.is_asking)

        start_own(threading.Thread(target=beat, name="fsbench-heartbeat", daemon=True))


def main() -> None:
    """Run the worker process.

    Arguments: store folder, device, CPU threads (0: leave them), 1 to keep models, parent process
    id, comma-separated descriptors of the channels to the label process.
    """
    folder, device, threads, keep_models, parent, descriptors = sys.argv[1:]
    die_with(int(parent))
    offline.enforce_if_asked()
    ignore_pillow_warnings()
    answers = _Answers(_private_stdout())
    _say_where_when_asked()
    os.environ[STORE] = folder
    store = Store(Path(folder))
    examiner = RemoteExaminer([int(number) for number in descriptors.split(",")])
    answers.keep_beating(examiner)
    try:
        session = partial(_session, store, device, examiner, keep_models == "1")
        _serve(store, session, int(threads), answers, examiner)
    except FsbenchError as error:
        answers.send("fatal", message=str(error), exit_code=error.exit_code)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        # Ctrl-C does not reach this process, which has a session of its own.
        print("a method or plug-in interrupted its own worker process (SIGINT)", file=sys.stderr)
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _session(store: Store, device: str, examiner: RemoteExaminer, keep_models: bool) -> Any:
    from fewshot_bench.runner.session import Session

    models = store.path if keep_models else None
    return Session(folder_of(FEATURES, store.path), device, examiner, models)


def _serve(
    store: Store,
    opened: Callable[[], Any],
    threads: int,
    answers: _Answers,
    examiner: RemoteExaminer,
) -> None:
    import torch

    # Every cell needs this module: import it while the engine still checks its data.
    import_module("fewshot_bench.runner.run")

    if threads:
        torch.set_num_threads(threads)
    session = opened()
    answers.send("idle")
    for line in sys.stdin:
        request = json.loads(line)
        _import_plugins(request["plugins"], request["variables"])
        examiner.begin(request["number"], request["incidents"])
        if not _compute(request, store, session, answers, examiner):
            # State left by a plug-in must not reach another cell, nor keep this process alive.
            os._exit(0)
        answers.send("idle")


def _import_plugins(names: Sequence[str], variables: Mapping[str, str]) -> None:
    """Allow the plug-ins that the next cells need, of which at most one has foreign methods."""
    os.environ.update(variables)
    wanted = ",".join(names)
    if os.environ.get(plugins.ONLY) != wanted:
        os.environ[plugins.ONLY] = wanted
        registry.cache_clear()


def _compute(
    request: Any, store: Store, session: Any, answers: _Answers, examiner: RemoteExaminer
) -> bool:
    """Compute the cells of a request; returns True if this process may compute more cells."""
    from fewshot_bench.runner.run import run_group

    cells = [RunSpec.from_dict(values) for values in request["specs"]]
    # Another process may have finished some of the cells.
    todo = [c for c in cells if request["force"] or not store.complete(c.key())]
    for cell in cells:
        if cell not in todo:
            answers.send("finished", key=cell.key())
    if not todo:
        return True
    session.backbone(todo[0])
    # Loading the backbone is not billed.
    answers.send("started")
    # Closed here, as the next request must not find the views of this one open.
    with closing(run_group(todo, session, answers.progress, request["parts"])) as outcomes:
        for number, outcome in enumerate(outcomes, 1):
            record, last = outcome.record, number == len(todo)
            if record.transient:
                # The engine decides whether to store it.
                answers.send("failed", record=record.to_dict())
            else:
                answers.send("finished", key=record.spec.key())
            if outcome.tainted:
                if not last:
                    answers.send("retired")
                return False
            if not last:
                answers.send("started")
    return True


def _private_stdout() -> IO[str]:
    """Reserve stdout as the channel to the parent; other output is redirected to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def _say_where_when_asked() -> None:
    """Print all stacks on a crash, and on SIGUSR1, which the engine sends before it kills us."""
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        with suppress(AttributeError, OSError):
            faulthandler.register(signal.SIGUSR1, all_threads=True)


if __name__ == "__main__":
    main()
