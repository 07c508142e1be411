"""Without a terminal, a breakpoint and a question are errors that name the next step."""

from __future__ import annotations

import pdb
import sys

import pytest

from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.no_terminal import VARIABLE, refuse_questions


@pytest.fixture(autouse=True)
def _refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is one without a terminal."""
    monkeypatch.setattr(sys, "stdin", sys.stdin)
    monkeypatch.setattr(sys, "breakpointhook", sys.breakpointhook)
    monkeypatch.delenv(VARIABLE, raising=False)
    refuse_questions()


@pytest.mark.parametrize("chosen", ["", "ipdb.set_trace", "IPython.core.debugger.set_trace"])
def test_a_breakpoint_is_an_error(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, chosen)
    with pytest.raises(UsageError, match=r"was reached in a process without a .* run --debug"):
        breakpoint()


def stop() -> int:
    """Stop in a debugger that is called by name."""
    pdb.Pdb().set_trace()
    return 1


def test_a_question_is_an_error() -> None:
    for ask in (input, sys.stdin.read, lambda: next(iter(sys.stdin)), stop):
        with pytest.raises(UsageError, match=r"stdin was read .* run --debug"):
            ask()


def test_a_debugger_that_needs_no_terminal_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    assert breakpoint() is None  # type: ignore[func-returns-value]
    monkeypatch.setenv(VARIABLE, "builtins.len")
    assert breakpoint("four") == 4  # type: ignore[func-returns-value]
