"""Shows the progress of a command's long work on stderr: `working` is the entry.

A terminal has one live line; elsewhere lines come, rarely once work has taken half a minute.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial

import click

from fewshot_bench.utils.progress import QUIET, Work, shown
from fewshot_bench.utils.text import color_system

EVERY_SECONDS = 30.0
# Work that is known to be long says so after this time, in which it may be refused.
FIRST_SECONDS = 0.3
# Then it says more after this time, and twice as long each time, up to EVERY_SECONDS.
SECOND_SECONDS = 5.0


@contextmanager
def working(title: str, first: str = "", *, live: bool = True) -> Iterator[Work]:
    """Show what the current work is at, until it ends. Also a decorator of commands.

    first: the first step of work that is known to be long, which is shown at once. live: whether a
    terminal shows a line that moves, in place of lines every half minute.
    """
    work = Work(title)
    work.step(first)
    wait = FIRST_SECONDS if first else EVERY_SECONDS
    moves = live and sys.stderr.isatty()
    with shown(work), _live(work) if moves else _lines(lambda: _say(work.line()), wait):
        yield work


def _say(line: str) -> None:
    with QUIET:
        click.echo(line, err=True)


@contextmanager
def _live(work: Work) -> Iterator[None]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, color_system=color_system())
    line = partial(Text, no_wrap=True, overflow="ellipsis")
    # Rich would take what goes into a pipe, too: commands print `aside`.
    live = Live(
        get_renderable=lambda: line(work.line()),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )

    @contextmanager
    def aside() -> Iterator[None]:
        live.stop()
        try:
            yield
        finally:
            live.start()

    work.aside = aside
    with live:
        yield
    work.aside = nullcontext


@contextmanager
def _lines(call: Callable[[], None], first: float) -> Iterator[None]:
    """Call a function after `first` seconds, then ever more rarely, in a thread, until the end."""
    ended = threading.Event()

    def run() -> None:
        wait = first
        while not ended.wait(wait):
            call()
            wait = min(max(2 * wait, SECOND_SECONDS), EVERY_SECONDS)

    thread = threading.Thread(target=run, daemon=True)
    # At a limit on threads, the command itself says what cannot be done.
    with suppress(RuntimeError):
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()
