"""Output of commands: lines that are safe on a terminal, files, figures and their warnings."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import click

from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.files import whole
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import encodable, message, printable_lines


def say(text: str) -> None:
    """Print text on stdout; control characters are replaced."""
    with current().aside():
        click.echo(printable_lines(text))


def warn(text: str) -> None:
    """Print a warning on stderr."""
    with current().aside():
        click.echo(f"warning: {message(text)}", err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is removed, unless `yes`; UsageError without a terminal or for a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nothing was removed: add --yes to remove it without being asked")
    if not click.confirm(question, default=False):
        raise UsageError("nothing was removed")


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Rows as lines of padded columns; right: places of the columns that are aligned there."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def write_text(path: Path | None, text: str) -> None:
    """Write text as UTF-8 to a file, or to stdout when there is none."""
    if path is None:
        click.echo(encodable(text), nl=False, color=True)
    else:
        refuse_image(path)
        write_bytes(path, encodable(text).encode())


def check_file(option: str, path: Path, endings: Sequence[str]) -> None:
    """UsageError unless the file has one of these endings and its folder exists."""
    if path.suffix.lower() not in endings:
        raise UsageError(f"{option} '{path}': expected a name that ends in {', '.join(endings)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{option} '{path}': expected a file in a folder that is there")


# No images, without asking Pillow, whose readers are slow to import.
_TEXTS = (".csv", ".html", ".json", ".md", ".tex", ".txt")


def refuse_image(path: Path) -> None:
    """UsageError for the name of an image: text would replace a photograph."""
    from fewshot_bench.utils.image_formats import image_endings

    if path.suffix.lower() in _TEXTS:
        return
    if path.suffix.lower().removeprefix(".") in image_endings():
        raise UsageError(f"--output {path}: expected the name of a text file, not of an image")


def refuse_kept(path: Path, option: str) -> None:
    """UsageError for a file of a store or of a kept model, which no output may replace."""
    from fewshot_bench.splits.imported import FOLDER as SPLITS
    from fewshot_bench.store.kept_models import CONFIG, EXTRAS, MODELS, TENSORS
    from fewshot_bench.store.leases import FOLDER as CLAIMS
    from fewshot_bench.store.record_files import RECORDS
    from fewshot_bench.store.store import JOBS, METHODS
    from fewshot_bench.utils.cache_dir import CACHE

    made = {RECORDS, CLAIMS, MODELS, CACHE, SPLITS, METHODS, JOBS}
    real = path.resolve()
    kept = [
        folder.parent
        for folder in real.parents
        if folder.name in made and (folder.parent / RECORDS).is_dir()
    ]
    is_model = all((real.parent / name).is_file() for name in (CONFIG, TENSORS))
    if is_model and real.name in (CONFIG, TENSORS, *EXTRAS):
        kept.append(real.parent)
    if kept:
        raise UsageError(
            f"{option} {path}: is in the folders of the store or model {kept[0]}, whose files no "
            "output replaces; choose another file"
        )


def terminal_width(least: int = 40) -> int | None:
    """The width of the terminal in columns, at least `least`; None if stdout is no terminal."""
    if not sys.stdout.isatty():
        return None
    return max(os.get_terminal_size(sys.stdout.fileno()).columns, least)


class Style(TypedDict):
    """Style of text: whether it has terminal escape codes, and its width in columns."""

    styled: bool
    width: int | None


def terminal_style(output: Path | None) -> Style:
    """The style of the terminal; plain for a file or a pipe."""
    width = terminal_width() if output is None else None
    return {"styled": width is not None, "width": width}


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file atomically, as `replaced`."""
    with replaced(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replaced(path: Path, option: str = "--output") -> Iterator[Path]:
    """Yield a temporary file that replaces `path` if no error occurs; a device or pipe is itself.

    option: the option that names the file, for the UsageError if it cannot be written.
    """
    refuse_kept(path, option)
    try:
        if path.exists() and not path.is_file():
            yield path
            return
        with whole(path.resolve()) as temporary:
            yield temporary
    except OSError as error:
        raise UsageError(
            f"cannot write '{path}': {error.strerror}; choose another file with {option}"
        ) from error


# Part of matplotlib's warning about a character that its font lacks.
GLYPH = "missing from"


def drawn(draw: Callable[[], bytes], suffix: str) -> bytes:
    """The bytes that `draw` returns for a file with this ending; its warnings go to stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        data = draw()
    texts = dict.fromkeys(
        str(warning.message) for warning in caught if warning.category is UserWarning
    )
    lacking = [text for text in texts if GLYPH in text]
    # SVG keeps text as text, and viewers use their own fonts.
    if lacking and suffix != ".svg":
        text = f"{len(lacking)} characters are boxes in the figure, whose font lacks them"
        warn(f"{text}; draw to .svg")
    for text in texts:
        if text not in lacking:
            warn(text)
    return data
