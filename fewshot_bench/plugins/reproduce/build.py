"""Lines of a published table beside ours, and the next steps to what is missing.

`build` is the entry; `advice` follows from the lines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import TOY, TOY_NOTE
from fewshot_bench.plugins.reproduce.cells import Cell, Wanted
from fewshot_bench.plugins.reproduce.judge import (
    Circumstances,
    Judged,
    Line,
    Report,
    average,
    judge,
)
from fewshot_bench.plugins.reproduce.matching import Matches
from fewshot_bench.plugins.reproduce.published import Reproduction

OTHER_VERSION = " (--method NAME@VERSION --only-existing shows another version)"
SAME_SETS = "means are over the data sets that both sides have, as the line says"


def backbone_of(table: Reproduction, wanted: Wanted) -> str:
    """The backbone that cells are run with."""
    return wanted.backbone or table.backbone


def is_other_backbone(table: Reproduction, wanted: Wanted) -> bool:
    """True when it is not the paper's; a local file of the same model and tag is taken for it."""
    return backbone_of(table, wanted).partition("@")[0] != table.backbone


def build(
    table: Reproduction,
    wanted: Wanted,
    cells: Sequence[Cell],
    records: Iterable[Record],
    counts: Mapping[str, Mapping[str, int]],
    absent: Collection[str],
) -> Report:
    """The lines row by row, by shots, each block with its mean last, and what to say about them.

    counts: images per role of each published data set. absent: data sets without data.
    """
    matches = Matches(records, wanted, backbone_of(table, wanted))
    around = Circumstances(wanted.seeds, _other(table, wanted), counts, absent)
    blocks: defaultdict[tuple[str, int], list[Judged]] = defaultdict(list)
    for cell in cells:
        blocks[cell.label, cell.shots].append(judge(cell, matches.of(cell), around))
    lines = []
    for (label, shots), judged in blocks.items():
        lines += [one.line for one in judged]
        if len(judged) > 1:
            lines.append(average(judged, label, shots))
    return Report(
        name=table.name,
        title=table.title,
        sources=[f"{s.citation}, {s.place}: {s.url}" for s in table.sources()],
        backbone=backbone_of(table, wanted),
        conditions=_conditions(table, wanted, cells),
        differences=_differences(table, wanted, cells),
        lines=lines,
        notes=[*_data_notes(lines, counts), *_notes(table, cells, matches)],
    )


def _other(table: Reproduction, wanted: Wanted) -> tuple[str, ...]:
    found = ["backbone"] if is_other_backbone(table, wanted) else []
    return tuple(found + (["limit"] if wanted.limit is not None else []))


def _conditions(table: Reproduction, wanted: Wanted, cells: Sequence[Cell]) -> list[str]:
    seeds = ",".join(map(str, wanted.seeds))
    lines = [f"backbone {backbone_of(table, wanted)}, {wanted.precision}, seeds {seeds}"]
    for setting in {cell.setting.method: cell.setting for cell in cells}.values():
        words = [f"support set as in protocol {setting.protocol}", f"val {setting.val}"]
        if not setting.random:
            words = ["no support set"]
        words.append(f"prompts {setting.prompts}")
        if setting.ensemble:
            words.append(f"ensemble on {', '.join(setting.ensemble)}")
        if setting.by_dataset:
            words.append("options by data set as in the paper's code")
        lines.append(f"{setting.method}: {', '.join(words)}")
    return lines


def _differences(table: Reproduction, wanted: Wanted, cells: Sequence[Cell]) -> list[str]:
    found = []
    if is_other_backbone(table, wanted):
        found.append(
            f"backbone {backbone_of(table, wanted)}: NOT the paper's {table.backbone}, so that "
            "nothing is compared"
        )
        found += [TOY_NOTE] if wanted.backbone == TOY else []
    elif "@" in wanted.backbone:
        found.append(f"backbone {wanted.backbone}: a local file, taken for the paper's weights")
    if wanted.precision != table.precision:
        found.append(f"precision {wanted.precision}, the paper: {table.precision}")
    if any(cell.changed for cell in cells):
        found.append(f"options {' '.join(wanted.options)}: not the paper's")
    if wanted.limit is not None:
        found.append(f"at most {wanted.limit:,} test images: not the paper's test sets")
    for setting in {cell.setting.method: cell.setting for cell in cells}.values():
        found += [f"{setting.method}: {text}" for text in setting.differences()]
    assumed = {
        f"{cell.label}: {cell.number.note}" for cell in cells if cell.number.label == "assumed"
    }
    return found + sorted(assumed)


def _data_notes(lines: Sequence[Line], counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Data sets that are not the published ones, by the number of test images."""
    images = {
        line.dataset: line.images
        for line in lines
        if line.status == "not compared" and "data" in line.reason and not line.average
    }
    return [
        f"{name} is not the published data set, or has other lists: {count:,} test images, "
        f"{counts[name].get('test', 0):,} are published"
        for name, count in images.items()
    ]


def _notes(table: Reproduction, cells: Sequence[Cell], matches: Matches) -> list[str]:
    notes = [SAME_SETS]
    if table.others():
        notes.append(f"rows of methods that are not here: {', '.join(table.others())}")
    for difference, count in sorted(matches.elsewhere(cells).items()):
        noun = "record" if count == 1 else "records"
        step = OTHER_VERSION if "method version" in difference else ""
        notes.append(f"not used: {count} {noun} of these cells with {difference}{step}")
    return notes


def advice(lines: Sequence[Line], absent: Collection[str], command: str) -> list[str]:
    """One line per thing to do.

    absent: data sets without data. command: the call that would run what is missing.
    """
    without: defaultdict[str, set[str]] = defaultdict(set)
    for line in lines:
        if not line.average:
            without[line.status].add(line.dataset)
    unready = [name for name in absent if name in without["missing"]]
    ready = {name for status in ("missing", "incomplete") for name in without[status]}
    found = []
    if ready - set(unready):
        found.append(f"to run what is missing: {command}")
    if unready:
        found.append(no_data(unready))
    if without["failed"]:
        found.append(f"to try failed cells again: {command} --retry-failed")
    if without["mixed"]:
        found.append("mixed cells: keep one kind of records in the store, or use another --store")
    if any(line.status == "mixed" and "code" in line.reason for line in lines):
        found.append(f"to compute again what other code has computed: {command}")
    return found


def no_data(names: Sequence[str]) -> str:
    """Next steps for missing data sets."""
    return (
        f"no data for {', '.join(names)}: 'fsbench data prepare {names[0]}' fetches a data set or "
        "says how to get it"
    )
