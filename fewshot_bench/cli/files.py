"""Where what a command made goes: to a file, or to the terminal."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import click

from fewshot_bench.errors import UsageError


def write_text(path: Path | None, text: str) -> None:
    """Write text as UTF-8 to a file, or to stdout when there is none."""
    data = text.encode("utf-8", "backslashreplace")
    if path is None:
        click.echo(data.decode(), nl=False, color=True)
    else:
        write_bytes(path, data)


def terminal_width(least: int = 60) -> int | None:
    """The columns of the terminal that stdout is, at least so many; None where it is none."""
    if not sys.stdout.isatty():
        return None
    return max(os.get_terminal_size(sys.stdout.fileno()).columns, least)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file as a whole; a device or a pipe is written to as it is."""
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        real = path.resolve()
        temporary = real.with_name(f".{real.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, real)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write '{path}': {error.strerror}; choose another file with --output"
        ) from error
