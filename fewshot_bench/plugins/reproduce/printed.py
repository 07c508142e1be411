"""What several sources print for the same setting, and how far apart these numbers are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_bench.analysis.formats import document as doc
from fewshot_bench.plugins.reproduce.numbers import AVERAGE, Number, sources
from fewshot_bench.utils.text import counted

# Numbers with a difference of more than so many points disagree.
POINT = 1.0
HEADS = ("method", "setting", "gap", "printed")
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
    def sources(self) -> int:
        """The number of sources."""
        return len({number.source for number in self.numbers})

    @property
    def text(self) -> str:
        """The numbers with their sources, `75.5 clip-lora, 79.86* clip-svd`; `*` has a note."""
        return ", ".join(
            f"{n.value:.{n.decimals}f}{'*' if n.note else ''} {n.source}" for n in self.numbers
        )


def settings_of(numbers: Iterable[Number], least: int = 1) -> list[PrintedSetting]:
    """The settings that `least` sources or more print; the widest gap first, means before sets."""
    groups = defaultdict(list)
    for number in numbers:
        if number.shots is not None:
            key = number.name, number.backbone, number.dataset, number.shots, number.classes
            groups[key].append(number)
    found = [
        PrintedSetting(*key, tuple(sorted(group, key=lambda number: number.value)))
        for key, group in groups.items()
    ]
    kept = [setting for setting in found if setting.sources >= least]
    return sorted(kept, key=lambda setting: (setting.dataset != AVERAGE, -setting.gap))


def stated(numbers: Iterable[Number]) -> list[Number]:
    """The numbers whose settings their source states; re-runs of a paper by others left out."""
    return [
        number
        for number in numbers
        if number.label not in ("assumed", "figure")
        and sources()[number.source, number.table].kind != "rerun"
    ]


def agreement(numbers: Iterable[Number]) -> str:
    """How many settings have several sources, and how many of these differ by over a point."""
    several = settings_of(stated(numbers), 2)
    if not several:
        return "No two sources print the same setting."
    apart = sum(setting.gap > POINT for setting in several)
    return (
        f"{counted(len(several), 'setting')} printed by two or more sources, re-runs and assumed "
        f"settings left out: {apart} ({apart / len(several):.0%}) differ by more than a point."
    )


def document(found: Sequence[PrintedSetting], numbers: Sequence[Number], most: int) -> doc.Document:
    """A table of the first `most` settings; CSV and JSON have every number of all of them."""
    lines = tuple(doc.Line.of(setting.method, *_texts(setting)) for setting in found[:most])
    first, *heads = HEADS
    left = ("setting", "printed")
    title = "Top-1 accuracy in %, as printed"
    grid = doc.Grid(title, "", doc.Column.sides(*heads, left=left), lines, first=first)
    notes = [agreement(numbers), "Schedules, prompts and validation images may differ."]
    marks = dict.fromkeys(n.note for s in found[:most] for n in s.numbers if n.note)
    if marks:
        notes.append(f"*: {'; '.join(marks)}.")
    if len(found) > most:
        notes.append(f"{len(found) - most:,} more settings: --format csv has all.")
    rows = [dict(zip(FIELDS, _values(n), strict=True)) for s in found for n in s.numbers]
    return doc.Document(
        (doc.Section(title, grids=(grid,)),), notes, rows=rows, heads=FIELDS, data={"rows": rows}
    )


def _texts(setting: PrintedSetting) -> Iterator[str]:
    classes = "" if setting.classes == "all" else f", {setting.classes}"
    yield f"{setting.backbone}, {setting.dataset}, {setting.shots}-shot{classes}"
    yield f"{setting.gap:.2f}"
    yield setting.text


def _values(n: Number) -> list[Any]:
    source = sources()[n.source, n.table]
    setting = [n.name, n.backbone, n.dataset, n.shots, n.classes, n.value, n.sd, n.seeds]
    origin = [n.source, n.table, source.kind, n.label, n.note]
    return [*setting, *origin, source.place, source.citation, source.url, source.commit]
