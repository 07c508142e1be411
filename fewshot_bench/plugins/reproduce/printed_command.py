"""`fsbench printed`: the numbers that papers and repositories print, with their sources."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.table.figure import FORMATS as FIGURES
from fewshot_bench.cli.options import NAMES, NUMBERS, format_option, output_option
from fewshot_bench.cli.output import check_file, drawn, say, terminal_style, write_bytes, write_text
from fewshot_bench.cli.panels import list_option
from fewshot_bench.utils.errors import UsageError, unknown

if TYPE_CHECKING:
    from fewshot_bench.plugins.reproduce.printed import PrintedSetting

# As many lines as one reads in a terminal, unless something was asked for.
FIRST = 20


@click.command("printed", short_help="List numbers that papers print, and where they disagree.")
@list_option("--method", "-m", type=NAMES, help="Only these methods.")
@list_option("--dataset", "-d", type=NAMES, help="Only these data sets; average: printed means.")
@click.option("--shots", type=NUMBERS, help="Only these numbers of shots.")
@list_option("--backbone", type=NAMES, help="Only these backbones, such as ViT-B-16.")
@list_option("--classes", type=NAMES, help="Only all, base, new or harmonic.")
@click.option(
    "--sources",
    "least",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Only what at least so many sources print.",
)
@format_option(formats.FORMATS, "How to write the table.")
@output_option("Write to this file instead of the terminal.")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw to .svg, .png or .pdf, too.")
@click.option("--dark", is_flag=True, help="Draw for a dark page.")
def command(
    least: int,
    form: str,
    output: Path | None,
    figure: Path | None,
    dark: bool,
    **filters: Collection[str | int] | None,
) -> None:
    """List the numbers that papers and repositories print, and where they disagree.

    Each line is one setting (method, backbone, data set, shots, classes) with all numbers that
    sources print for it, the widest gap first. CSV and JSON give every number with its table,
    citation, address and commit.

    \b
    fsbench printed                                   what sources disagree about
    fsbench printed -m coop -d dtd --sources 1        all numbers of CoOp on DTD
    fsbench printed -d average --shots 16 --classes all --figure gaps.svg
    """
    from fewshot_bench.plugins.reproduce.numbers import numbers
    from fewshot_bench.plugins.reproduce.printed import document, settings_of

    every = chosen = numbers()
    asked = {field: values for field, values in filters.items() if values is not None}
    for field in ("method", "dataset", "shots", "backbone", "classes"):
        if field not in asked:
            continue
        printed = {getattr(number, field) for number in every} - {None, ""}
        for value in asked[field]:
            if value not in printed:
                names = map(str, printed)
                raise unknown(f"printed {field}", str(value), names, "fsbench printed")
        chosen = [number for number in chosen if getattr(number, field) in asked[field]]
    settings = settings_of(chosen, least)
    if not settings:
        raise UsageError(
            f"no setting here is printed by {least} sources; --sources 1 shows what one prints"
        )
    if figure is not None:
        _write_figure(figure, settings, dark)
    shown = document(settings, chosen, len(settings) if asked else FIRST)
    write_text(output, formats.render(shown, form, **terminal_style(output)))


def _write_figure(path: Path, settings: list[PrintedSetting], dark: bool) -> None:
    from fewshot_bench.plugins.reproduce.printed_figure import draw

    check_file("--figure", path, FIGURES)
    kinds = {(each.backbone, each.dataset, each.shots, each.classes) for each in settings}
    if len(kinds) > 1:
        raise UsageError(
            f"--figure draws one data set, shots and backbone, here are {len(kinds)}: name them, "
            "such as -d average --shots 16 --backbone ViT-B-16 --classes all"
        )
    suffix = path.suffix.lower()
    write_bytes(path, drawn(lambda: draw(settings, suffix[1:], dark=dark), suffix))
    say(f"{path}: {len(settings)} methods")
