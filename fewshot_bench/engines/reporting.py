"""Reporters: messages of a run to a terminal, to a notebook, or to Python's warnings.

`Reporter` is the interface; the command line implements its own. A quiet `CallReporter` still
issues problems as warnings.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from fewshot_bench.utils.text import printable, printable_lines

if TYPE_CHECKING:
    from fewshot_bench.api.spec import RunSpec
    from fewshot_bench.engines.progress import Display


_PACKAGE = str(Path(__file__).parents[1])


class FsbenchWarning(UserWarning):
    """A problem of a run that does not stop it, but that its caller should notice.

    >>> warnings.simplefilter("error", FsbenchWarning)
    """


class Reporter(Protocol):
    """Receives the messages of a run; texts may contain names from files."""

    def info(self, text: str) -> None:
        """A message on the state of the run."""
        ...

    def notice(self, text: str) -> None:
        """A message beside the results, such as the next step after an interrupt."""
        ...

    def warning(self, text: str) -> None:
        """A warning about results."""
        ...

    def unusable(self, text: str) -> None:
        """The reason why a data set cannot be used."""
        ...

    def failures(self, lines: Sequence[str]) -> None:
        """The reasons of cells that failed."""
        ...

    def results(self, folder: Path) -> None:
        """The folder of the results, at the end of a run."""
        ...

    def progress(self, cells: Sequence[RunSpec], workers: int) -> AbstractContextManager[Display]:
        """The display of running cells."""
        ...


class CallReporter:
    """Reports a call from Python: progress on stderr or in the notebook, problems as warnings.

    shown: False hides progress; True and None show it, as a bar on a terminal and in a notebook,
    elsewhere as plain lines.
    """

    def __init__(self, shown: bool | None = None) -> None:
        self._shown = shown is not False

    def info(self, text: str) -> None:
        """A line where progress is shown."""
        if self._shown:
            print(printable_lines(text), file=_stream(), flush=True)

    def notice(self, text: str) -> None:
        """Same as `info`."""
        self.info(text)

    def warning(self, text: str) -> None:
        """Issue a warning at the line that called the library."""
        _warn(printable(text))

    def unusable(self, text: str) -> None:
        """Same as `warning`."""
        self.warning(text)

    def failures(self, lines: Sequence[str]) -> None:
        """One warning of several lines."""
        if lines:
            _warn("\n".join(map(printable, lines)))

    def results(self, folder: Path) -> None:
        """Print nothing: the call returns the results."""

    def progress(self, cells: Sequence[RunSpec], workers: int) -> AbstractContextManager[Display]:
        """A bar or lines, or nothing."""
        from fewshot_bench.engines import progress

        if not self._shown:
            return progress.silent(cells, workers)
        if in_notebook():
            return progress.notebook(cells, workers, self.info)
        return progress.display(
            cells, workers, live=_is_terminal(sys.stderr), say=self.info, stderr=True
        )


def in_notebook() -> bool:
    """True if this process is the kernel of a notebook, which shows HTML."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return hasattr(found, "kernel")


def _stream() -> TextIO:
    return sys.stdout if in_notebook() else sys.stderr


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _warn(text: str) -> None:
    """Issue a warning at the first line outside of this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, FsbenchWarning, stacklevel=level)
