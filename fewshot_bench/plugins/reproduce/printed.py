"""What several sources print for the same setting, and how far apart these numbers are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_bench.analysis.formats import document as doc
from fewshot_bench.plugins.reproduce.numbers import AVERAGE, Number, sources
from fewshot_bench.utils.text import counted

# Numbers with a difference of more than so many points disagree.
POINT = 1.0
HEADS = ("method", "setting", "gap", "printed")
# Columns of CSV and JSON: the method with its options, then fields of the number and its source.
_OF_SOURCE = ("kind", "place", "citation", "url", "commit")
FIELDS = (
    *("method", "backbone", "dataset", "shots", "classes", "value", "sd", "seeds", "source"),
    *("table", "kind", "label", "note", "place", "citation", "url", "commit"),
)


@dataclass(frozen=True)
class PrintedSetting:
    """The accuracies that sources print for one setting, from the lowest to the highest.

    method: with its options, as tables show it. classes: `all`, `base`, `new` or `harmonic`.
    """

    method: str
    backbone: str
    dataset: str
    shots: int
    classes: str
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
    def cells(self) -> tuple[str, ...]:
        """The texts of a line of the table after the method."""
        classes = "" if self.classes == "all" else f", {self.classes}"
        setting = f"{self.backbone}, {self.dataset}, {self.shots}-shot{classes}"
        return setting, f"{self.gap:.2f}", self.text


def settings_of(numbers: Iterable[Number], least: int = 1) -> list[PrintedSetting]:
    """The settings that `least` sources or more print; the widest gap first, means before sets."""
    groups = defaultdict(list)
    for number in numbers:
        if number.shots is not None:
            key = number.name, number.backbone, number.dataset, number.shots, number.classes
            groups[key].append(number)
    settings = [
        PrintedSetting(*key, tuple(sorted(group, key=lambda number: number.value)))
        for key, group in groups.items()
        if len({number.source for number in group}) >= least
    ]
    return sorted(settings, key=lambda setting: (setting.dataset != AVERAGE, -setting.gap))


def agreement(numbers: Iterable[Number]) -> str:
    """How many settings have several sources, and how many of these differ by over a point.

    Numbers whose setting is assumed or that are read off a figure do not count, nor do re-runs.
    """
    stated = (
        number
        for number in numbers
        if number.label not in ("assumed", "figure")
        and sources()[number.source, number.table].kind != "rerun"
    )
    several = settings_of(stated, 2)
    if not several:
        return "No two sources print the same setting."
    apart = sum(setting.gap > POINT for setting in several)
    return (
        f"{counted(len(several), 'setting')} printed by two or more sources, re-runs and assumed "
        f"settings left out: {apart} ({apart / len(several):.0%}) differ by more than a point."
    )


def document(
    settings: Sequence[PrintedSetting], numbers: Sequence[Number], most: int
) -> doc.Document:
    """A table of the first `most` settings; CSV and JSON have every number of all of them."""
    shown = settings[:most]
    lines = tuple(doc.Line.of(setting.method, *setting.cells) for setting in shown)
    first, *heads = HEADS
    title = "Top-1 accuracy in %, as printed"
    columns = doc.Column.sides(*heads, left=("setting", "printed"))
    grid = doc.Grid(title, "", columns, lines, first=first)
    notes = [agreement(numbers), "Schedules, prompts and validation images may differ."]
    marks = dict.fromkeys(n.note for setting in shown for n in setting.numbers if n.note)
    if marks:
        notes.append(f"*: {'; '.join(marks)}.")
    if len(settings) > most:
        notes.append(f"{len(settings) - most:,} more settings: --format csv has all.")
    rows = [_row(number) for setting in settings for number in setting.numbers]
    sections = (doc.Section(title, grids=(grid,)),)
    return doc.Document(sections, notes, rows=rows, heads=FIELDS, data={"rows": rows})


def _row(number: Number) -> dict[str, Any]:
    source = sources()[number.source, number.table]
    row = {name: getattr(source if name in _OF_SOURCE else number, name) for name in FIELDS}
    return row | {"method": number.name}
