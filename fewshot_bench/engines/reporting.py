"""Reporters: messages of a run to a terminal, to a notebook, or to Python's warnings.

`Reporter` is the interface; the command line implements its own. A quiet `CallReporter` still
issues problems as warnings. `failure_lines` are the reasons of failed cells: a paragraph each, with
the plug-in author's frame and the record.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fewshot_bench.api.author_frame import author_frame, place_of, short_path, top_module
from fewshot_bench.api.registry import registry
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.text import FEW, MANY, counted, printable, printable_lines, shortened

if TYPE_CHECKING:
    from fewshot_bench.api.record import Record
    from fewshot_bench.api.spec import RunSpec
    from fewshot_bench.engines.progress import Display
    from fewshot_bench.store.store import Store

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
            stream = sys.stdout if in_notebook() else sys.stderr
            print(printable_lines(text), file=stream, flush=True)

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
        from fewshot_bench.engines.progress import Display, NotebookBar, display

        if self._shown and in_notebook() and cells:
            return nullcontext(Display(cells, workers, bar=NotebookBar(len(cells), self.info)))
        live = self._shown and not in_notebook() and sys.stderr is not None and sys.stderr.isatty()
        return display(cells, workers, live=live, say=self.info, stderr=True)


def in_notebook() -> bool:
    """True if this process is the kernel of a notebook, which shows HTML."""
    shell = sys.modules.get("IPython")
    kernel = shell.get_ipython() if shell is not None else None
    return hasattr(kernel, "kernel")


def _warn(text: str) -> None:
    """Issue a warning at the first line outside of this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, FsbenchWarning, stacklevel=level)


LONGEST_REASON = 600
# Errors about `logits` state its place themselves; pointing at `fit` would be misleading.
_ABOUT_LOGITS = re.compile(r"logits\(\)|\S+\.logits\b")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass
class Reason:
    """A reason why one or several cells failed; text, frame and trace are those of the first."""

    text: str
    frame: str
    trace: str
    cells: list[RunSpec] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The cell, or its method and the data sets of all cells."""
        first = self.cells[0]
        if len(self.cells) == 1:
            return first.describe()
        names = dict.fromkeys(cell.evaluated for cell in self.cells)
        return (
            f"{first.label} on {', '.join(shortened(list(names), FEW))} ({len(self.cells)} cells)"
        )


def reasons(records: Iterable[Record]) -> list[Reason]:
    """Failures grouped by method, place and message; numbers in messages are ignored."""
    groups: dict[tuple[str, ...], Reason] = {}
    for record in records:
        if record.status == "failed":
            reason = _read_reason(record)
            key = record.spec.label, reason.frame, _NUMBER.sub("0", reason.text)
            groups.setdefault(key, reason).cells.append(record.spec)
    return list(groups.values())


def _read_reason(record: Record) -> Reason:
    error, method = record.error or {}, record.spec.method
    trace = str(error.get("traceback") or "")
    kind, message = str(error.get("type") or "?"), str(error.get("message") or "").strip()
    text = printable(f"{kind}: {message}" if message else kind, LONGEST_REASON)
    frame = author_frame(trace, _packages(record.spec))
    if not frame and kind == "ContractError" and not _ABOUT_LOGITS.match(message):
        # The harness raised it: point at the method's `fit`.
        with suppress(FsbenchError):
            cls = registry().method_class(method)
            frame = str(getattr(cls, "_fit_at", "")) or place_of(cls, getattr(cls, "fit", None))
    return Reason(text, frame, trace)


def _packages(spec: RunSpec) -> Iterator[str]:
    """The top-level modules of a cell's method and data sets."""
    catalogs = registry()
    families = [f"{name.partition(':')[0]}:" for name in (spec.dataset, spec.target) if name]
    names = (*families, spec.dataset, spec.target)
    datasets = [catalogs.datasets.entries.get(name) for name in names]
    if ".py:" in spec.method:
        yield Path(spec.method.rpartition(":")[0]).stem
    for entry in (catalogs.methods.entries.get(spec.method), *datasets):
        if entry is not None:
            yield top_module(entry.target)


def failure_lines(records: Sequence[Record], store: Store, *, whole: bool) -> list[str]:
    """Lines on the reasons of failed cells, empty without failures; `whole` adds tracebacks."""
    groups = reasons(records)
    if not groups:
        return []
    lines = [f"{counted(sum(len(reason.cells) for reason in groups), 'cell')} failed:"]
    for reason in groups if whole else groups[:MANY]:
        lines.append(f"  {reason.where}: {reason.text}")
        if reason.frame:
            lines.append(f"      at {reason.frame}")
        more = f" and {len(reason.cells) - 1} more" if len(reason.cells) > 1 else ""
        path = short_path(str(store.file(reason.cells[0].key())))
        lines.append(f"      record: {path}{more}")
        if whole:
            lines += trace_lines(reason)
    if len(groups) > MANY and not whole:
        lines.append(f"and {counted(len(groups) - MANY, 'more reason')}")
    step = "" if whole else "fsbench show RECORD, or run --traceback, prints the whole; "
    return [*lines, f"({step}--retry-failed computes these cells again)"]


def trace_lines(reason: Reason) -> Iterator[str]:
    """The lines of the traceback, indented and prefixed with a bar."""
    yield from (f"      | {line}" for line in reason.trace.rstrip().splitlines())
