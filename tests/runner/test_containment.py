"""A misbehaving method harms only its own cell, and the record names what it did."""

from __future__ import annotations

import _thread
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from fewshot_bench.api.record import Incidents
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.examination import Outcome
from fewshot_bench.runner.isolation import guarded
from fewshot_bench.runner.run import run_group, run_one
from fewshot_bench.runner.session import Session
from tests.helpers import METHODS, cells, install_methods, quick

MODULE = "fsbench_reckless"


@pytest.fixture
def reckless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Register the method here; files that it creates go to a temporary folder."""
    folder = tmp_path / "plugin"
    folder.mkdir()
    install_methods(folder, MODULE, "plugin_reckless.py")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    registry.cache_clear()
    registry().method_class("reckless")
    yield sys.modules[MODULE]
    registry.cache_clear()
    sys.modules.pop(MODULE, None)


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    """Logits of a zero-shot cell in a fresh session."""
    return logits(run_one(cells("zero-shot")[0], Session()))


@pytest.fixture(scope="module")
def session() -> Session:
    """A session shared by all tests whose process state is restored."""
    return Session()


def logits(outcome: Outcome) -> torch.Tensor:
    """Logits of a cell; assert that it is done."""
    assert outcome.record.status == "done", outcome.record.error
    assert outcome.logits is not None
    return outcome.logits


def run(how: str, session: Session, when: str = "fit") -> Outcome:
    """Run the misbehaving cell."""
    return run_one(cells("reckless", options=[f"how={how}", f"when={when}"])[0], session)


def said(outcome: Outcome) -> str:
    """The texts of a record's incidents."""
    return "\n".join(incident["text"] for incident in outcome.record.incidents)


ERRORS = {
    "raise": "RuntimeError",
    "exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "generator": "GeneratorExit",
    "cancel": "CancelledError",
    "stop": "StopIteration",
}


@pytest.mark.parametrize("when", ["fit", "logits"])
@pytest.mark.parametrize("how", ERRORS)
def test_whatever_is_raised_fails_the_cell_alone(
    reckless: Any, session: Session, clean: torch.Tensor, how: str, when: str
) -> None:
    outcome = run(how, session, when)
    assert outcome.record.status == "failed"
    assert outcome.record.error is not None
    assert outcome.record.error["type"] == ERRORS[how]
    assert not outcome.tainted, said(outcome)
    assert torch.equal(logits(run_one(cells("zero-shot")[0], session)), clean)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (OSError(errno.EMFILE, "Too many open files"), True),
        (RuntimeError("can't start new thread"), True),
        (OSError(errno.ENOENT, "No such file"), None),
    ],
)
def test_an_error_at_a_limit_of_the_machine_is_tried_again(
    reckless: Any, monkeypatch: Any, error: Exception, transient: bool | None
) -> None:
    monkeypatch.setitem(reckless.ACTIONS, "raise", lambda: reckless._raise(error))
    found = run("raise", Session()).record.error
    assert found is not None
    assert found.get("transient") == transient


# Action of a method -> text of its incident. These changes are reverted.
UNDONE = {
    "process": "left child processes 'sleep (pid",
    "orphan": "left child processes 'sleep (pid",
    "folder": "changed the working directory from",
    "environment": "changed environment variables ('HOME', 'RECKLESS'); put back",
    "python_seed": "reseeded Python's global generator (random)",
    "numpy_seed": "reseeded NumPy's global generator (np.random)",
    "torch_seed": "reseeded torch's global generator",
    "dtype": "changed torch's default dtype from torch.float32 to torch.float64",
    "grad": "changed torch's grad mode from True to False",
    "threads": "changed torch's threads",
    "deterministic": "changed torch's deterministic algorithms",
    "cudnn": "changed torch.backends.cudnn.benchmark",
    "denormals": "changed torch's denormal numbers",
    "path": "changed sys.path",
    "stderr": "changed sys.stderr",
    "stdout": "changed sys.stdout",
    "warnings": "changed warning filters",
    "recursion": "changed the recursion limit",
    "numbers": "changed NumPy's error state",
    "images": "changed PIL.ImageFile.LOAD_TRUNCATED_IMAGES",
    "torch_functions": "'torch.nn.modules.linear.Linear.forward', 'torch.nn.functional.normalize'",
    "builtins": "replaced 'builtins.sorted'",
    "isinstance": "replaced 'builtins.isinstance'",
    "harness": "replaced 'fewshot_bench.runner.evaluate.plain_logits'",
    "clock": "replaced 'time.perf_counter'",
    "math": "replaced 'math.sqrt'",
    "libraries": "and 1 more; put back",
    "ablation": "'fsbench_methods.cache_model.grid'",
    "constant": "replaced 'fewshot_bench.training.memory.MEMORY_SHARE'",
    "defaults": "replaced 'torch.nn.functional.normalize.__defaults__'",
    "fast_path": "changed torch's fast path of attention from True to False",
    "sums": "changed torch's sums of attention in half precision from False to True",
}
# These changes cannot be reverted, so the process is replaced.
LEFT = {
    "device": "changed torch's default device",
    "matmul": "changed torch's float32 precision",
    "precision": "changed torch's float32 precision",
    "anomaly": "changed torch's anomaly mode",
    "autocast": "changed torch's autocast ('cpu')",
    "logging": "changed the logging configuration",
    "signal": "changed signal handlers ('SIGTERM')",
    "gc": "changed garbage collection from True to False",
    "locale": "changed the locale",
    "hook": "changed hooks on every optimizer or module",
    "argv": "changed sys.argv",
    "alarm": "changed the alarm timer",
    "thread": "left threads 'forgotten'",
    "descriptor": "closed or changed file descriptors '2'",
    "saved_tensors": "changed hooks on tensors saved for gradients",
    "transform": "changed torch's function transforms",
    "accumulation": "changed torch's float32 precision",
}


@pytest.mark.parametrize("how", UNDONE)
def test_what_is_changed_is_put_back_and_named(
    reckless: Any, session: Session, clean: torch.Tensor, how: str
) -> None:
    check, found = Incidents(), []
    # The outer guard detects what the inner one leaves behind.
    with guarded("outside", check, lambda: found.append(True)):
        outcome = run(how, session)
    assert UNDONE[how] in said(outcome)
    assert (list(check), found, outcome.tainted) == ([], [], False), said(outcome)
    assert torch.equal(logits(run_one(cells("zero-shot")[0], session)), clean)


def test_all_replaced_functions_of_libraries_are_put_back(reckless: Any) -> None:
    steps = sys.modules["torch.optim.sgd"]
    before = steps.sgd, Image.Image.resize, LogisticRegression.fit
    outcome = run("libraries", Session())
    assert "and 1 more; put back" in said(outcome)
    assert before == (steps.sgd, Image.Image.resize, LogisticRegression.fit)


def test_pipes_of_garbage_are_not_put_down_to_a_method(session: Session) -> None:
    """An unreachable object that holds a pipe is collected before a guard, not inside."""

    class Owner:
        def __init__(self) -> None:
            self.itself = self
            self.ends = [open(number, "rb") for number in os.pipe()]  # noqa: SIM115

    gc.disable()
    try:
        Owner()
        check = Incidents()
        with guarded("outside", check, lambda: None):
            gc.collect()
    finally:
        gc.enable()
    assert list(check) == []


def test_what_the_logits_change_is_named_too(reckless: Any, clean: torch.Tensor) -> None:
    session = Session()
    outcome = run("dtype", session, "logits")
    assert "reckless.logits changed torch's default dtype" in said(outcome)
    assert not run_one(cells("zero-shot")[0], session).record.incidents


def test_a_failed_cell_names_what_was_put_back(reckless: Any, monkeypatch: Any) -> None:
    def both() -> None:
        os.chdir(os.sep)
        raise RuntimeError("no idea")

    monkeypatch.setitem(reckless.ACTIONS, "raise", both)
    outcome = run("raise", Session())
    assert outcome.record.status == "failed"
    assert "changed the working directory" in said(outcome)


# Every action runs in its own process, forked from one that has loaded what a cell needs; with one
# thread, torch survives that.
APART = """
import json, locale, os, sys
import open_clip, sklearn.linear_model, torchvision.transforms
from tests.runner.test_containment import *
registry().method_class("reckless")
locale.setlocale(locale.LC_ALL, "C.UTF-8")
run_one(cells("zero-shot")[0], Session())
for how in LEFT:
    reading, writing = os.pipe()
    if not os.fork():
        outcome = run(how, Session())
        os.write(2, b"still there")
        found = {"text": said(outcome), "tainted": outcome.tainted}
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        print(json.dumps({"how": how} | json.loads(answer.read())))
    os.wait()
"""


def test_what_stays_changed_taints_the_process(reckless: Any, tmp_path: Path) -> None:
    path = os.pathsep.join([str(tmp_path / "plugin"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", APART],
        capture_output=True,
        text=True,
        env=dict(os.environ) | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["how"] for one in found] == [*LEFT], done.stderr
    for one in found:
        assert LEFT[one["how"]] in one["text"], one
        assert "could not be undone: the process is not used again" in one["text"], one
        assert one["tainted"], one
    # A closed descriptor is restored as well.
    assert done.stderr.count("still there") == len(LEFT)


def test_features_of_changed_kernels_reach_no_other_cell(
    reckless: Any, clean: torch.Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Features computed under settings changed by a method are not cached, in memory or on disk."""

    def coarse() -> None:
        torch.set_flush_denormal(True)
        encoded.append(True)

    encoded: list[bool] = []
    monkeypatch.setitem(reckless.ACTIONS, "raise", coarse)
    monkeypatch.setattr(reckless.Late, "logits", _after(reckless.Late, coarse))
    session = Session(tmp_path / "features")
    outcome = run("raise", session, "logits")
    assert (outcome.record.status, encoded[:1]) == ("done", [True])
    assert outcome.record.footprint["images_encoded"] > 0
    again = run_one(cells("zero-shot")[0], session)
    assert again.record.footprint["work"]["computed"]["images"] > 0
    assert torch.equal(logits(again), clean)


def _after(late: Any, action: Any) -> Any:
    """A `logits` that runs the action before it requests features."""

    def asked(self: Any, queries: Any) -> torch.Tensor:
        action()
        return 100 * queries.features @ self.weights.T

    return asked


def test_a_deleted_working_directory_is_left(reckless: Any, tmp_path: Path) -> None:
    outcome = run("deleted", Session())
    assert "changed the working directory" in said(outcome)
    assert Path.cwd() == tmp_path


def test_of_much_output_the_start_is_kept(reckless: Any) -> None:
    printed = run("print", Session()).record.notes["printed"]
    assert printed.startswith("xxx")
    assert len(printed) < 5000
    assert "more bytes]" in printed


def test_a_thread_that_was_there_is_not_left_by_who_makes_it_known() -> None:
    known, seen = threading.Event(), threading.Event()
    ended = threading.Event()

    def run() -> None:
        seen.set()
        known.wait()
        threading.current_thread()
        seen.set()
        ended.wait()

    _thread.start_new_thread(run, ())
    seen.wait()
    seen.clear()
    incidents, tainted = Incidents(), threading.Event()
    with guarded("who", incidents, tainted.set):
        known.set()
        seen.wait()
    ended.set()
    assert not list(incidents)
    assert not tainted.is_set()


def test_a_person_who_interrupts_is_obeyed(reckless: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(
        reckless.ACTIONS, "raise", lambda: os.kill(os.getpid(), signal.SIGINT) or time.sleep(5)
    )
    with pytest.raises(KeyboardInterrupt):
        run("raise", Session())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_cells_of_one_fit_all_name_what_the_fit_did(reckless: Any) -> None:
    both = cells("reckless", options=["how=folder"], classes=("base", "new"))
    outcomes = list(run_group(both, Session()))
    assert all("working directory" in said(outcome) for outcome in outcomes)


def test_well_behaved_methods_cause_no_incident() -> None:
    session = Session()
    before = threading.active_count()
    for spec in cells(*METHODS, options=quick(METHODS), shots=(2,)):
        outcome = run_one(spec, session)
        logits(outcome)
        assert (said(outcome), outcome.tainted) == ("", False), spec.method
    assert threading.active_count() >= before


def test_the_guard_costs_little() -> None:
    times = []
    for _ in range(10):
        start = time.process_time()
        with guarded("nobody", Incidents(), lambda: None):
            pass
        times.append(time.process_time() - start)
    assert min(times) < 0.06
