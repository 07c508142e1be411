"""`fsbench printed`: what sources print for the same setting, and how far apart it is."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.figures.drawing import save
from fewshot_bench.analysis.figures.style import FORMATS as FIGURES
from fewshot_bench.analysis.formats import document as doc
from fewshot_bench.analysis.formats.style import COLORS, MARKERS, SETTINGS
from fewshot_bench.analysis.table.names import read_names
from fewshot_bench.cli.options import (
    NAMES,
    NUMBERS,
    caption_options,
    format_option,
    output_option,
    rename_option,
    with_caption,
)
from fewshot_bench.cli.output import check_file, drawn, say, terminal_style, write_bytes, write_text
from fewshot_bench.cli.panels import list_option
from fewshot_bench.plugins.reproduce.numbers import (
    AVERAGE,
    Number,
    numbers,
    sources,
    tell_incomparable,
    tell_left_out,
)
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import counted

# As many lines as one reads in a terminal, unless something was asked for.
FIRST = 20
# Numbers with a difference of more than so many points disagree.
POINT = 1.0
HEADS = ("method", "setting", "gap", "printed")
# Columns of CSV and JSON: the method with its options, then fields of the number and its source.
_OF_SOURCE = ("place", "citation", "url", "commit")
FIELDS = (
    *("method", "backbone", "dataset", "shots", "classes", "value", "sd", "seeds", "source"),
    *("table", "kind", "label", "note", "place", "citation", "url", "commit"),
    *("queries", "views", "texts", "pooling", "not_comparable_because"),
)


@dataclass(frozen=True)
class PrintedSetting:
    """The accuracies that sources print for one setting, from the lowest to the highest.

    method: with its options, as tables show it. classes: `all`, `base`, `new` or `harmonic`.
    under: conditions that are not the defaults.
    """

    method: str
    backbone: str
    dataset: str
    shots: int
    classes: str
    under: str
    numbers: tuple[Number, ...]

    @property
    def gap(self) -> float:
        """Points between the highest and the lowest number."""
        return self.numbers[-1].value - self.numbers[0].value

    @property
    def text(self) -> str:
        """The numbers with their sources, `75.5 clip-lora, 79.86* clip-svd`; `*` has a note."""
        return ", ".join(f"{n.printed}{'*' if n.note else ''} {n.source}" for n in self.numbers)

    @property
    def line(self) -> doc.Line:
        """The line of the table."""
        classes = "" if self.classes == "all" else f", {self.classes}"
        under = f", {self.under}" if self.under else ""
        setting = f"{self.backbone}, {self.dataset}, {self.shots}-shot{classes}{under}"
        return doc.Line.of(self.method, setting, f"{self.gap:.2f}", self.text)


def settings_of(numbers: Iterable[Number], least: int = 1) -> list[PrintedSetting]:
    """The settings that `least` sources or more print; the widest gap first, means before sets."""
    groups = defaultdict(list)
    for number in numbers:
        if number.shots is not None:
            key = number.name, number.backbone, number.dataset, number.shots, number.classes
            groups[*key, number.under].append(number)
    settings = [
        PrintedSetting(*key, tuple(sorted(group, key=lambda number: number.value)))
        for key, group in groups.items()
        if len({number.source for number in group}) >= least
    ]
    return sorted(settings, key=lambda setting: (setting.dataset != AVERAGE, -setting.gap))


def tell_hidden(numbers: Iterable[Number], shown: Sequence[PrintedSetting], least: int) -> str:
    """The numbers that too few sources print, with the methods that have no other; else empty."""
    every = settings_of(numbers)
    count = sum(len(setting.numbers) for setting in every)
    count -= sum(len(setting.numbers) for setting in shown)
    methods = {number.method for setting in every for number in setting.numbers}
    methods -= {number.method for setting in shown for number in setting.numbers}
    whole = f", all of {', '.join(sorted(methods))} among them" if methods else ""
    if not count:
        return ""
    return (
        f"left out: {counted(count, 'number')} that fewer than {least} sources print{whole}; "
        "--sources 1 shows them"
    )


def agreement(numbers: Iterable[Number]) -> str:
    """The number of settings with several sources, and of those that differ by over a point.

    Numbers whose setting is assumed, that are read off a figure or are not comparable do not count,
    nor do re-runs and copies.
    """
    stated = (
        number
        for number in numbers
        if number.label not in ("assumed", "figure")
        and not number.incomparable
        and number.kind not in ("rerun", "copied")
    )
    several = settings_of(stated, 2)
    if not several:
        return "No two sources print the same setting."
    apart = sum(setting.gap > POINT for setting in several)
    return (
        f"{counted(len(several), 'setting')} printed by two or more sources, re-runs, copies "
        f"and assumed settings left out: {apart} ({apart / len(several):.0%}) differ by more than "
        "a point."
    )


def document(
    settings: Sequence[PrintedSetting], numbers: Sequence[Number], most: int
) -> doc.Document:
    """A table of the first `most` settings; CSV and JSON have every number of all of them."""
    shown = settings[:most]
    lines = tuple(setting.line for setting in shown)
    title = "Top-1 accuracy in %, as printed"
    columns = doc.Column.sides(*HEADS[1:], left=("setting", "printed"))
    grid = doc.Grid(title, "", columns, lines, first=HEADS[0])
    notes = [agreement(numbers), "Schedules, prompts and validation images may differ."]
    every = [number for setting in shown for number in setting.numbers]
    notes += tell_incomparable(every)
    notes += tell_left_out(dict.fromkeys(number.method for number in every))
    marks = dict.fromkeys(number.note for number in every if number.note)
    if marks:
        notes.append(f"*: {'; '.join(marks)}.")
    if len(settings) > most:
        notes.append(f"{len(settings) - most:,} more settings: --format csv has all.")
    rows = [_row(setting, number) for setting in settings for number in setting.numbers]
    sections = (doc.Section(title, grids=(grid,)),)
    return doc.Document(sections, notes, rows=rows, heads=FIELDS, data={"rows": rows})


def _row(setting: PrintedSetting, number: Number) -> dict[str, Any]:
    source = sources()[number.source, number.table]
    row = {"not_comparable_because": "; ".join(number.why_incomparable)}
    for name in FIELDS[:-1]:
        row[name] = getattr(source if name in _OF_SOURCE else number, name)
    return row | {"method": setting.method, "dataset": setting.dataset}


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
@caption_options
@rename_option("options")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw to .svg, .png or .pdf, too.")
@click.option("--dark", is_flag=True, help="Draw for a dark page.")
def command(
    least: int,
    form: str,
    output: Path | None,
    figure: Path | None,
    dark: bool,
    rename: Sequence[str],
    caption: str | None,
    label: str | None,
    **filters: Any,
) -> None:
    """List the accuracies that papers and repositories print, and where they disagree.

    Each line is one setting (method, backbone, data set, shots, classes) with all numbers that
    sources print for it, the widest gap first. CSV and JSON give every number with its table,
    citation, address and commit.

    \b
    fsbench printed                                   what sources disagree about
    fsbench printed -m coop -d dtd --sources 1        all numbers of CoOp on DTD
    fsbench printed -d average --shots 16 --classes all --figure gaps.svg
    """
    chosen = numbers(**filters)
    settings = settings_of(chosen, least)
    if not settings:
        raise UsageError(
            f"no setting here is printed by {least} sources; --sources 1 shows what one prints"
        )
    if told := tell_hidden(chosen, settings, least):
        click.echo(told, err=True)
    names = read_names(rename, {name for s in settings for name in (s.method, s.dataset)})
    settings = [
        replace(s, method=names.get(s.method, s.method), dataset=names.get(s.dataset, s.dataset))
        for s in settings
    ]
    if figure is not None:
        _write_figure(figure, settings, dark)
    asked = any(values is not None for values in filters.values())
    shown = document(settings, chosen, len(settings) if asked else FIRST)
    shown = with_caption(shown, form, {"caption": caption, "label": label})
    write_text(output, formats.render(shown, form, **terminal_style(output)))


def _write_figure(path: Path, settings: list[PrintedSetting], dark: bool) -> None:
    check_file("--figure", path, FIGURES)
    kinds = {(s.backbone, s.dataset, s.shots, s.classes, s.under) for s in settings}
    if len(kinds) > 1:
        raise UsageError(
            f"--figure draws one data set, shots and backbone, here are {len(kinds)}: name them, "
            "such as -d average --shots 16 --backbone ViT-B-16 --classes all"
        )
    suffix = path.suffix.lower()
    write_bytes(path, drawn(lambda: _draw(settings, suffix[1:], int(dark)), suffix))
    say(f"{path}: {len(settings)} methods")


# (on a light page, on a dark page)
_INK, _FAINT = ("#1f2328", "#e6edf3"), ("#d0d7de", "#3d444d")
# Inches.
_WIDTH, _LINE, _AROUND = 7.2, 0.34, 0.9


def content(settings: Sequence[PrintedSetting]) -> str:
    """The numbers of a figure as JSON, which the file states about itself."""
    return json.dumps([[s.method, s.gap, s.text] for s in settings], ensure_ascii=False)


def _draw(settings: Sequence[PrintedSetting], form: str, shade: int) -> bytes:
    """A line per method, a dot per number. shade: 0 for a light page, 1 for a dark one."""
    import matplotlib
    from matplotlib.figure import Figure

    ink, faint = _INK[shade], _FAINT[shade]
    sources = sorted({number.source for setting in settings for number in setting.numbers})
    looks = {name: (COLORS[i % len(COLORS)][shade], MARKERS[i]) for i, name in enumerate(sources)}
    style = SETTINGS | {"font.size": 9.5, "text.color": ink}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_WIDTH, len(settings) * _LINE + _AROUND), layout="constrained")
        axes: Any = figure.subplots()
        for y, setting in enumerate(reversed(settings)):
            ends = [setting.numbers[0].value, setting.numbers[-1].value]
            axes.plot(ends, [y, y], color=faint, linewidth=3, zorder=1)
            for number in setting.numbers:
                color, marker = looks[number.source]
                look = {"markerfacecolor": "none", "markeredgewidth": 2.0, "markersize": 8.0}
                axes.plot(number.value, y, marker, color=color, label=number.source, **look)
            around = {"xytext": (9, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(f"{setting.gap:.1f} points", (ends[1], y), color=ink, **around)
        axes.set_yticks(range(len(settings)), [setting.method for setting in reversed(settings)])
        axes.set_xlabel(_quantity(settings[0]), color=ink)
        axes.tick_params(colors=ink, length=0)
        axes.grid(axis="x", color=faint, linewidth=0.5)
        axes.margins(x=0.12, y=0.08)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        legend = dict(zip(labels, handles, strict=True))
        figure.legend(
            [legend[name] for name in sources],
            [f"printed by {name}" if name == sources[0] else name for name in sources],
            loc="outside upper center",
            ncols=min(len(legend), 5),
            frameon=False,
            handletextpad=0.2,
        )
    return save(figure, form, content(settings), style, transparent=True)


def _quantity(setting: PrintedSetting) -> str:
    where = "mean over 11 data sets" if setting.dataset == AVERAGE else setting.dataset
    classes = "" if setting.classes == "all" else f", {setting.classes} classes"
    return f"top-1 accuracy in %, {where}, {setting.shots}-shot, {setting.backbone}{classes}"
