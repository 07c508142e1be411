"""`fsbench predict`: classify images with a kept model and write each row at once."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from fewshot_bench.analysis.formats.tidy import field
from fewshot_bench.cli.options import PathName, device_option, format_option, output_option
from fewshot_bench.cli.output import refuse_image, refuse_kept, replaced, warn
from fewshot_bench.cli.working import working
from fewshot_bench.plugins.models.inputs import iterate_images
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.progress import Work
from fewshot_bench.utils.text import encodable, printable

if TYPE_CHECKING:
    from fewshot_bench.analysis.model import Model, Prediction

WIDEST = 40
"""Maximum characters of a class name in a table."""
Row = dict[str, str | float | None]
Line = Callable[[Row], str]


@click.command("predict", short_help="Classify images with a kept model.")
@click.argument("model", type=PathName(path_type=Path), metavar="MODEL")
@click.argument("images", nargs=-1, metavar="IMAGES...")
@format_option(("terminal", "csv", "jsonl"), "A table, CSV, or JSON lines.")
@click.option(
    "--top",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="K",
    help="Show so many classes; class and runner-up are always there.",
)
@output_option()
@device_option
def command(
    model: Path, images: tuple[str, ...], form: str, top: int, output: Path | None, device: str
) -> None:
    """Classify images with the model in the folder MODEL, or hub:USER/NAME@REVISION.

    IMAGES are files, folders (with all images below them, sorted), patterns such as 'new/*.jpg',
    or - for paths on standard input, one per line. An image that cannot be read is named on stderr
    and left out, and the exit code is 1.
    """
    if output is not None:
        refuse_image(output)
        refuse_kept(output, "--output")
    paths = iterate_images(images)
    from fewshot_bench.analysis.model import columns, open_model

    stdout, done, skipped = sys.stdout, 0, 0
    # What a method or a backbone prints goes to stderr: stdout has rows alone.
    with redirect_stdout(sys.stderr), _progress("-" in images, output, stdout) as work:
        opened = open_model(model, device, None, warn)
        head = columns(min(max(2, top), max(2, len(opened.classnames))))
        line = _LINES[form](head, opened.classnames)
        work.step("images")
        with _open_writer(output, stdout) as write:
            if form != "jsonl":
                write(line({name: name for name in head}))
            for prediction in _answers(opened, paths, top):
                done += 1
                if prediction.problem:
                    skipped += 1
                    click.echo(
                        printable(f"skipped: {prediction.image}: {prediction.problem}"), err=True
                    )
                else:
                    # A model may have fewer classes than columns.
                    write(line(dict.fromkeys(head) | prediction.row()))
                work.advance()
            if not done:
                # Raised here, so that an earlier file stays.
                raise UsageError("no path came on standard input; write one per line")
    if skipped:
        click.echo(f"{skipped:,} of {done:,} images could not be read", err=True)
        sys.exit(1)


def _answers(model: Model, paths: Iterator[str | None], top: int) -> Iterator[Prediction]:
    """Predictions in order; those of paths before a None do not wait for later paths."""
    for first in paths:
        if first is not None:
            yield from model.stream(chain((first,), iter(paths.__next__, None)), top=top)


def _csv(head: list[str], classnames: tuple[str, ...]) -> Line:
    def line(row: Row) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([field(row[name]) for name in head])
        return text.getvalue()

    return line


def _json(head: list[str], classnames: tuple[str, ...]) -> Line:
    return lambda row: json.dumps(row) + "\n"


def _table(head: list[str], classnames: tuple[str, ...]) -> Line:
    """Column widths depend on the class names only, so that each row can be shown at once."""
    names = [printable(name) for name in (*classnames, "class")]
    width = max(len("runner_up"), min(WIDEST, max(map(len, names))))

    def line(row: Row) -> str:
        classes, values = head[1::2], head[2::2]
        cells = []
        for name, value in zip(classes, values, strict=True):
            shown = "-" if row[name] is None else printable(str(row[name]))
            cells.append(f"{_cut(shown, width):<{width}}  {_share(row[value])}")
        return "  ".join([*cells, printable(str(row["image"]))]) + "\n"

    return line


def _share(value: str | float | None) -> str:
    if isinstance(value, str):
        return f"{'share':>7}"
    return f"{'':>7}" if value is None else f"{100 * value:5.1f} %"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


_LINES = {"terminal": _table, "csv": _csv, "jsonl": _json}


@contextmanager
def _open_writer(output: Path | None, stdout: TextIO) -> Iterator[Callable[[str], None]]:
    """Write lines to stdout, or to a file that is put in place only on success."""
    if output is None:
        yield lambda text: click.echo(encodable(text), file=stdout, nl=False, color=True)
        return
    with replaced(output) as temporary, temporary.open("w", encoding="utf-8") as file:

        def write(text: str) -> None:
            file.write(encodable(text))

        yield write


def _progress(waits: bool, output: Path | None, stdout: TextIO) -> AbstractContextManager[Work]:
    """Progress on stderr, unless a terminal shows the results or paths are waited for."""
    if waits or (output is None and stdout.isatty()):
        return nullcontext(Work())
    return working("predict")
