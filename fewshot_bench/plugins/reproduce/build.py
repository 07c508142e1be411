"""Builds the report of a published table beside ours, and the next steps to what is missing."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import TOY, TOY_NOTE
from fewshot_bench.plugins.reproduce.cells import Cell, Wanted
from fewshot_bench.plugins.reproduce.judge import (
    NO_DATA,
    Circumstances,
    Line,
    Report,
    average,
    harmonic,
    judge,
    select_averaged,
)
from fewshot_bench.plugins.reproduce.matching import Matches
from fewshot_bench.plugins.reproduce.numbers import HARMONIC, sources
from fewshot_bench.plugins.reproduce.published import Reproduction, Setting

OTHER_VERSION = " (--method NAME@VERSION --only-existing shows another version)"
NOT_USED = "not used"
NO_RANKING = (
    "the numbers are of several sources: rows 're-run by' and 'listed by' are not of the method's "
    "authors, and no row is ranked against that of another source"
)
HARMONIC_OF_MEANS = (
    "H is the harmonic mean of the mean base and the mean new accuracy; its noise takes both for "
    "independent"
)
SAME_SETS = "means are over the data sets that both sides have, as the line says"


def backbone_of(table: Reproduction, wanted: Wanted) -> str:
    """The backbone that cells are run with."""
    return wanted.backbone or table.backbone


def is_other_backbone(table: Reproduction, wanted: Wanted) -> bool:
    """True if the backbone is not the paper's; a local file of its model and tag counts as it."""
    return backbone_of(table, wanted).partition("@")[0] != table.backbone


def build(
    table: Reproduction,
    wanted: Wanted,
    cells: Sequence[Cell],
    records: Iterable[Record],
    absent: Mapping[str, str],
    command: str,
) -> Report:
    """The report: lines by row and shots, each block with its mean last, and notes on them.

    absent: why data sets were not run, by name. command: the call that runs missing cells; empty if
        no call can, as for versions of methods that are not installed.
    """
    cards = {
        name: registry().dataset(name).card()
        for name in dict.fromkeys(cell.number.dataset for cell in cells)
    }
    counts = {
        name: {**card.expected_counts, "classes": card.expected_classes}
        for name, card in cards.items()
    }
    matches = Matches(records, wanted, backbone_of(table, wanted))
    unlike = {"backbone": is_other_backbone(table, wanted), "limit": wanted.limit is not None}
    other = tuple(name for name, differs in unlike.items() if differs)
    around = Circumstances(wanted.seeds, other, counts, absent)
    blocks: defaultdict[tuple[str, int, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        blocks[cell.label, cell.shots, cell.number.classes].append(cell)
    lines: list[Line] = []
    # The mean of the base classes of a row, and the data sets that it is over.
    bases: dict[tuple[str, int], tuple[Line, set[str]]] = {}
    for (label, shots, classes), block in blocks.items():
        first, judged = block[0], [judge(cell, matches.of(cell), around) for cell in block]
        mean = first.mean.value if first.mean else None
        # For a method that is not shipped, a mean that is printed alone is all there is.
        own = [] if mean and first.variant is None else list(judged)
        if mean or len(judged) > 1:
            over = {line.dataset for line in select_averaged(judged)}
            own.append(average(judged, label, shots, mean))
            if classes == "base":
                bases[label, shots] = own[-1], over
            elif classes == "new" and (label, shots) in bases:
                base, sets = bases[label, shots]
                printed = table.harmonic(first.number)
                value = printed.value if printed else None
                own.append(harmonic(base, own[-1], value, same=over == sets))
        for line in own:
            half = HARMONIC if line.classes == HARMONIC else classes
            kind = sources()[first.number.source, first.number.table].kind
            schedule = first.setting.schedule
            lines.append(dataclasses.replace(line, classes=half, kind=kind, schedule=schedule))
    return Report(
        name=table.name,
        title=table.title,
        sources=[f"{s.citation}, {s.place}: {s.url}" for s in table.sources()],
        backbone=backbone_of(table, wanted),
        conditions=_conditions(table, wanted, cells),
        differences=_differences(table, wanted, cells),
        lines=lines,
        notes=[*_data_notes(lines, counts), *_notes(table, cells, matches)],
        advice=_advise(lines, absent, command),
    )


def _conditions(table: Reproduction, wanted: Wanted, cells: Sequence[Cell]) -> list[str]:
    seeds = ",".join(map(str, wanted.seeds))
    lines = [f"backbone {backbone_of(table, wanted)}, {wanted.precision}, seeds {seeds}"]
    for name, setting in _settings(table, cells).items():
        if not setting.shipped:
            lines.append(f"{name}: not shipped (schedule {setting.schedule or 'not stated'})")
            continue
        words = [f"support set as in protocol {setting.protocol}", f"val {setting.val}"]
        if setting.min4:
            words.append(f"val min4 on {', '.join(setting.min4)}")
        if not setting.random:
            words = ["no support set"]
        words.append(f"prompts {setting.prompts}")
        if setting.ensemble:
            words.append(f"ensemble on {', '.join(setting.ensemble)}")
        if setting.options:
            words.append(f"options {' '.join(setting.options)} as there")
        if setting.published and setting.card and setting.card.published:
            words.append("published options by data set")
        lines.append(f"{name}: {', '.join(words)}")
    return lines


def _settings(table: Reproduction, cells: Sequence[Cell]) -> dict[str, Setting]:
    """The settings of the rows by method, or by row where several sources have one."""
    return {cell.label if table.collected else cell.setting.method: cell.setting for cell in cells}


def _differences(table: Reproduction, wanted: Wanted, cells: Sequence[Cell]) -> list[str]:
    texts = []
    if is_other_backbone(table, wanted):
        texts.append(
            f"backbone {backbone_of(table, wanted)}: NOT the paper's {table.backbone}, so that "
            "nothing is compared"
        )
        texts += [TOY_NOTE] if wanted.backbone == TOY else []
    elif "@" in wanted.backbone:
        texts.append(f"backbone {wanted.backbone}: a local file, taken for the paper's weights")
    if wanted.precision != table.precision:
        texts.append(f"precision {wanted.precision}, the paper: {table.precision}")
    if any(cell.changed for cell in cells):
        texts.append(f"options {' '.join(wanted.options)}: not the paper's")
    if wanted.limit is not None:
        texts.append(f"at most {wanted.limit:,} test images: not the paper's test sets")
    for name, setting in _settings(table, cells).items():
        texts += [f"{name}: {text}" for text in setting.differences()]
    numbers = [(cell.label, cell.number) for cell in cells]
    assumed = {f"{label}: {n.note}" for label, n in numbers if n.label == "assumed"}
    return texts + sorted(assumed)


def _data_notes(lines: Sequence[Line], counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Data sets that are not the published ones, by the number of test images."""
    numbers: dict[str, str] = {}
    for line in lines:
        if line.status == "not compared" and "data" in line.reason and not line.average:
            published = f"{counts[line.dataset].get('test', 0):,} are published"
            number = f": {line.images:,} test images, {published}"
            # Of a half of the classes, the numbers say nothing.
            numbers[line.dataset] = number if line.classes == "all" else ""
    return [
        f"{name} is not the published data set, or has other lists{number}"
        for name, number in numbers.items()
    ]


def _notes(table: Reproduction, cells: Sequence[Cell], matches: Matches) -> list[str]:
    notes = [SAME_SETS]
    if any(cell.number.classes != "all" for cell in cells):
        notes.append(HARMONIC_OF_MEANS)
    if table.collected:
        notes.append(NO_RANKING)
    other = [name for name, setting in _settings(table, cells).items() if setting.unlike]
    if other:
        notes.append(f"rows of another schedule than the method's here: {', '.join(other)}")
    if table.others():
        notes.append(f"rows of methods that are not here: {', '.join(table.others())}")
    for difference, count in sorted(matches.elsewhere(cells).items()):
        noun = "record" if count == 1 else "records"
        step = OTHER_VERSION if "method version" in difference else ""
        notes.append(f"{NOT_USED}: {count} {noun} of these cells with {difference}{step}")
    return notes


def _advise(lines: Sequence[Line], absent: Mapping[str, str], command: str) -> list[str]:
    """Next steps, one per line."""
    without: defaultdict[str, set[str]] = defaultdict(set)
    for line in lines:
        if not line.average:
            without[line.status].add(line.dataset)
    unready = [name for name in absent if name in without["missing"]]
    unfetched = [name for name in unready if absent[name] == NO_DATA]
    other_code = any(line.status == "mixed" and "code" in line.reason for line in lines)
    steps = []
    if command and (without["missing"] | without["incomplete"]) - set(unready):
        steps.append(f"to run what is missing: {command}")
    if unfetched:
        steps.append(no_data(unfetched))
    if command and without["failed"]:
        steps.append(f"to try failed cells again: {command} --retry-failed")
    if without["mixed"]:
        steps.append("mixed cells: keep one kind of records in the store, or use another --store")
    if command and other_code:
        steps.append(f"to compute again what other code has computed: {command}")
    return steps


def no_data(names: Sequence[str]) -> str:
    """Next steps for missing data sets."""
    return (
        f"no data for {', '.join(names)}: 'fsbench data prepare {names[0]}' fetches a data set or "
        "says how to get it"
    )
