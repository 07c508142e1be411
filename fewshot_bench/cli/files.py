"""Output of commands to a file or to the terminal."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import click

from fewshot_bench.utils.errors import UsageError


def write_text(path: Path | None, text: str) -> None:
    """Write text as UTF-8 to a file, or to stdout when there is none."""
    data = text.encode("utf-8", "backslashreplace")
    if path is None:
        click.echo(data.decode(), nl=False, color=True)
    else:
        write_bytes(path, data)


def terminal_width(least: int = 40) -> int | None:
    """The columns of the terminal that stdout is, at least so many; None where it is none."""
    if not sys.stdout.isatty():
        return None
    return max(os.get_terminal_size(sys.stdout.fileno()).columns, least)


class Style(TypedDict):
    """How text is written: with the escape codes of a terminal, and in how many columns."""

    styled: bool
    width: int | None


def terminal_style(output: Path | None) -> Style:
    """That of the terminal, or plain for a file and a pipe."""
    width = terminal_width() if output is None else None
    return {"styled": width is not None, "width": width}


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file as a whole; a device or a pipe is written to as it is."""
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
    except OSError as error:
        raise _unwritten(path, error, "--output") from error
    with replaced(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replaced(path: Path, option: str = "--output") -> Iterator[Path]:
    """A file to write that takes the place of `path` when all went well.

    option: names the file; UsageError where it cannot be written.
    """
    try:
        real = path.resolve()
        temporary = real.with_name(f".{real.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            yield temporary
            os.replace(temporary, real)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritten(path, error, option) from error


def _unwritten(path: Path, error: OSError, option: str) -> UsageError:
    return UsageError(f"cannot write '{path}': {error.strerror}; choose another file with {option}")
