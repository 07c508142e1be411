"""`refuse_questions`: without a terminal, a debugger or `input` is an error at once."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, NoReturn

from fewshot_bench.utils.errors import UsageError

# Python's variable for what `breakpoint()` calls: 0 for nothing. A debugger of another kind than
# these needs no terminal of this process.
VARIABLE = "PYTHONBREAKPOINT"
_OF_TERMINALS = ("", "pdb", "ipdb", "pudb", "IPython")


def refuse_questions() -> None:
    """From now on, `breakpoint()` and reads of stdin raise UsageError with the next step."""
    sys.stdin = _NoAnswers()
    sys.breakpointhook = _break


class _NoAnswers(io.TextIOBase):
    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> str:
        _refuse("stdin was read (input(), pdb)")

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        _refuse("stdin was read (input(), pdb)")


def _break(*arguments: Any, **more: Any) -> Any:
    chosen = os.environ.get(VARIABLE, "")
    if chosen == "0":
        return None
    if chosen.partition(".")[0] in _OF_TERMINALS:
        _refuse("breakpoint() was reached")
    return sys.__breakpointhook__(*arguments, **more)


def _refuse(what: str) -> NoReturn:
    raise UsageError(
        f"{what} in a process without a terminal; fsbench run --debug -m METHOD -d DATASET "
        "--shots 4 --seeds 1 runs one cell with yours (in Python: engine='here')"
    )
