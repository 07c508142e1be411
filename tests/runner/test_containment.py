"""A misbehaving method harms only its own cell, and the record names what it did."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot_bench.api.registry import registry
from fewshot_bench.runner.cell_log import HEAD, TAIL
from fewshot_bench.runner.examiner import Outcome
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from tests.support.helpers import METHODS, cells, install_methods, quick

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
    """A session that tests share."""
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


@pytest.mark.parametrize(
    ("how", "when"), [*((how, "fit") for how in ERRORS), ("raise", "logits"), ("exit", "logits")]
)
def test_whatever_is_raised_fails_the_cell_alone(
    reckless: Any, session: Session, clean: torch.Tensor, how: str, when: str
) -> None:
    outcome = run(how, session, when)
    assert outcome.record.status == "failed"
    assert outcome.record.error is not None
    assert outcome.record.error["type"] == ERRORS[how]
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


@pytest.mark.parametrize("how", ["process", "orphan"])
@pytest.mark.parametrize("when", ["fit", "logits"])
def test_child_processes_that_are_left_are_ended_and_named(
    reckless: Any, session: Session, clean: torch.Tensor, how: str, when: str
) -> None:
    outcome = run(how, session, when)
    assert f"reckless.{when} left child processes 'sleep (pid" in said(outcome)
    assert torch.equal(logits(run_one(cells("zero-shot")[0], session)), clean)


@pytest.mark.parametrize("how", ["folder", "deleted"])
def test_the_folder_is_the_one_before(
    reckless: Any, session: Session, tmp_path: Path, how: str
) -> None:
    """Paths of the store are relative to it."""
    logits(run(how, session))
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("how", ["python_seed", "numpy_seed", "torch_seed", "dtype", "grad"])
def test_global_generators_are_those_before(
    reckless: Any, session: Session, clean: torch.Tensor, how: str
) -> None:
    logits(run(how, session))
    assert torch.equal(logits(run_one(cells("zero-shot")[0], session)), clean)


@pytest.mark.parametrize("how", ["no rights", "only writing", "only reading"])
def test_others_can_use_what_is_written_after_a_method_sets_the_umask(
    reckless: Any, tmp_path: Path, clean: torch.Tensor, how: str
) -> None:
    before, features = os.umask(0o022), tmp_path / "features"
    try:
        logits(run(how, Session(features), "logits"))
        after = os.umask(0o022)
    finally:
        os.umask(before)
    assert after == 0o022
    modes = {path.stat().st_mode & 0o777 for path in features.rglob("*")}
    assert modes == {0o755, 0o644}
    assert logits(run_one(cells("zero-shot")[0], Session(features))).equal(clean)


def test_of_much_output_the_start_and_the_end_are_kept(reckless: Any) -> None:
    outcome = run("print", Session())
    assert outcome.log.startswith("xxx")
    assert outcome.log.endswith("xxx\n")
    assert len(outcome.log) < HEAD + TAIL
    assert " characters left out]\n" in outcome.log
    assert "printed" not in outcome.record.notes


def test_a_person_who_interrupts_is_obeyed(reckless: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(
        reckless.ACTIONS, "raise", lambda: os.kill(os.getpid(), signal.SIGINT) or time.sleep(5)
    )
    with pytest.raises(KeyboardInterrupt):
        run("raise", Session())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_well_behaved_methods_cause_no_incident() -> None:
    session = Session()
    before = threading.active_count()
    for spec in cells(*METHODS, options=quick(METHODS), shots=(2,)):
        outcome = run_one(spec, session)
        logits(outcome)
        assert said(outcome) == "", spec.method
    assert threading.active_count() >= before
