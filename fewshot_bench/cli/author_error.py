"""An error of a method as its author needs it: own frames, the place, the debugger, the editor."""

from __future__ import annotations

import os
import pdb
import shlex
import subprocess
import traceback
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from fewshot_bench.api.author_frame import is_author_file, is_harness_file
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import LONGEST_MESSAGE, counted, printable

# Editors that open `file:line`, with the option they need; others get `+line file`.
_COLON = {
    **dict.fromkeys(("code", "codium", "cursor", "windsurf"), "--goto"),
    **dict.fromkeys(("subl", "zed", "hx"), ""),
}


class _Folded(traceback.StackSummary):
    """Frames before the author's first one, and those of the harness between, are a line."""

    packages: tuple[str, ...] = ()

    def format(self, **more: Any) -> list[str]:
        """The lines of the frames."""
        own = [is_author_file(frame.filename, self.packages) for frame in self]
        first = own.index(True) if True in own else len(own)
        lines = []
        numbered = list(enumerate(self))
        for folds, part in groupby(
            numbered, lambda one: one[0] < first or is_harness_file(one[1].filename)
        ):
            frames = [frame for _, frame in part]
            if folds:
                lines.append(f"  [{counted(len(frames), 'frame')} of fsbench: --traceback]\n")
            else:
                lines += traceback.StackSummary.from_list(frames).format(**more)
        return lines


def format_error(error: BaseException, packages: Iterable[str], *, whole: bool) -> Iterator[str]:
    """The lines of an error with its causes; the harness is folded unless `whole`."""
    shown = traceback.TracebackException.from_exception(error)
    if not whole:
        _fold(shown, tuple(packages), set())
    for text in shown.format():
        yield from (printable(line, LONGEST_MESSAGE) for line in text.rstrip("\n").split("\n"))


def _fold(
    shown: traceback.TracebackException | None, packages: tuple[str, ...], seen: set[int]
) -> None:
    if shown is None or id(shown) in seen:
        return
    seen.add(id(shown))
    folded = _Folded(shown.stack)
    folded.packages = packages
    shown.stack = folded
    for other in (shown.__cause__, shown.__context__):
        _fold(other, packages, seen)


class _AtAuthor(pdb.Pdb):
    """A debugger that begins at the author's innermost frame; `down` leads to the error."""

    packages: tuple[str, ...] = ()

    def get_stack(self, f: Any, t: TracebackType | None) -> tuple[list[Any], int]:
        """All frames, and the place of the first one shown."""
        stack, place = super().get_stack(f, t)
        own = [
            index
            for index, (frame, _) in enumerate(stack)
            if is_author_file(frame.f_code.co_filename, self.packages)
        ]
        return stack, own[-1] if own and t is not None else place


def look_around(error: BaseException, packages: Iterable[str]) -> None:
    """Open a debugger where an error was raised."""
    debugger = _AtAuthor()
    debugger.packages = tuple(packages)
    debugger.reset()
    debugger.interaction(None, error.__traceback__)


def editor() -> list[str]:
    """The words of $VISUAL or $EDITOR; UsageError if neither is set."""
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    if not words:
        raise UsageError(
            "--edit opens the editor of $VISUAL or $EDITOR, and neither is set; set one, such as "
            "EDITOR=code"
        )
    return words


def open_editor(words: list[str], file: str, line: str) -> None:
    """Open a file at a line in an editor, and wait for it."""
    name = Path(words[0]).stem
    if name in _COLON:
        option = [_COLON[name]] if _COLON[name] and len(words) == 1 else []
        arguments = [*option, f"{file}:{line}"]
    else:
        arguments = [f"+{line}", file]
    try:
        subprocess.run([*words, *arguments], check=False)
    except OSError as error:
        click.echo(printable(f"'{words[0]}' cannot be started: {error.strerror}"), err=True)
