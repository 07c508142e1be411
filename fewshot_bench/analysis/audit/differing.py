"""Findings on cells of one comparison that were made under other conditions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fewshot_bench.analysis.audit.findings import Finding, Level, some
from fewshot_bench.analysis.audit.stated import STATED, read_mapping, text
from fewshot_bench.analysis.conditions import (
    IMAGES_ADVICE,
    ONE_PROMPTS,
    ONE_SPLIT,
    ONE_TEST_SET,
    OTHER_IMAGES,
    STALE_ADVICE,
)
from fewshot_bench.analysis.frame import Computed, MustAgree, conflicts, distinct, group
from fewshot_bench.api.spec import CONDITIONS

if TYPE_CHECKING:
    import pandas as pd


class Same(NamedTuple):
    """A fact that must be equal.

    keys: columns that group the records to compare; the first is named in the finding, unless it is
    of `_EVERYWHERE`. value: the column of the fact, empty for records that do not state it. why:
    text appended after the values. most: characters of a value.
    """

    hazard: int
    kind: str
    what: str
    keys: tuple[str, ...]
    value: str
    why: str = ""
    level: Level = "finding"
    most: int = 60


_ALL, _DATASET, _METHOD = (), ("dataset",), ("method",)
# The first of these keys do not tell where, but whose facts are compared.
_EVERYWHERE = ("backbone", "device", "method", "label")
_IMAGES = ("evaluated", "shots", "split_seed")
_POLICY = (*_IMAGES, "val")
# The inputs of a split: digests are only comparable where all of these are equal.
_SPLIT = (*_POLICY, "protocol", "limit", "revision", "own data")
_OTHER = f"{OTHER_IMAGES}; {IMAGES_ADVICE}"
_MORE = "some methods know more than others"
_TIMES = "times cannot be compared"
SAME = (
    Same(3, "validation", "validation labels", _IMAGES, "policy"),
    Same(3, "validation", "numbers of validation labels", _POLICY, "validation labels"),
    Same(4, "templates", "template sets", _DATASET, "prompts"),
    Same(4, "templates", "prompts under one name", ONE_PROMPTS, "templates"),
    Same(4, "text-knowledge", "texts on classes", _ALL, "texts known", _MORE),
    Same(5, "sampling", "sampling protocols", _DATASET, "protocol"),
    # Split digests differ between groups; showing them would give a line for every group.
    Same(5, "split", "splits", _SPLIT, "split", most=0),
    Same(5, "images", "images of one split", ONE_SPLIT, "images", _OTHER, most=12),
    Same(5, "images", "test images", ONE_TEST_SET, "test images", _OTHER, most=12),
    Same(8, "schedule", "schedules", _ALL, "schedule", "", "note"),
    Same(9, "augmentation", "mirroring", _DATASET, "mirrored"),
    Same(12, "precision", "precisions", _ALL, "precision"),
    Same(14, "revision", "lists of images", _DATASET, "revision"),
    Same(14, "own-data", "names, templates or hold-out", _DATASET, "own data"),
    Same(0, "test-knowledge", "knowledge at test time", _ALL, "at test", _MORE, "note"),
    Same(0, "limit", "numbers of test images", _ALL, "limit text"),
    Same(0, "backbone", "backbones", _ALL, "backbone"),
    Same(0, "weights", "weights", ("backbone",), "weights start"),
    Same(0, "device", "devices", _ALL, "device", _TIMES),
    Same(0, "machine", "machines", ("device",), "device_name", _TIMES),
    Same(0, "threads", "numbers of threads", _ALL, "threads", _TIMES, "note"),
    Same(0, "determinism", "modes of determinism", _ALL, "determinism"),
    Same(0, "method-version", "versions of one method", _METHOD, "method_version"),
    Same(0, "method-origin", "packages with one method", _METHOD, "method_origin"),
    Same(
        0, "method-code", "code of one method", ("code_name", "method_version"), "code of done",
        STALE_ADVICE,
    ),
    Same(0, "options", "defaults under one name", ("label", "method_version"), "options digest"),
    Same(0, "versions", "versions of fewshot_bench", _ALL, "fewshot_bench"),
    Same(0, "versions", "commits", _ALL, "commit"),
    Same(0, "versions", "versions of Python", _ALL, "python"),
)  # fmt: skip
# Conditions already covered by `SAME`; all others must be equal everywhere.
_ABOVE = ("protocol", "val", "prompts", "backbone", "precision", "device", "limit", "weights")
_OTHERS = tuple(
    Same(
        *(0, name, f"values of {about.title}", _ALL, f"condition {name}"),
        "tables apart, whose records are lent where they need less" if about.proof else "",
        "note" if about.proof else "finding",
    )
    for name, about in CONDITIONS.items()
    if name not in _ABOVE
)


def find_differences(data: pd.DataFrame) -> Iterator[Finding]:
    """A finding for every fact that differs where it must be equal. data: of `load_stated`."""
    stated = [read_mapping(packages) for (packages,) in distinct(data, "environment.packages")]
    versions = {
        f"version of {name}": Computed(
            ("environment.packages",),
            lambda packages, name=name: text(read_mapping(packages).get(name)),
        )
        for name in sorted({name for packages in stated for name in packages})
    }
    packages = (
        Same(0, "versions", column.replace("version", "versions", 1), _ALL, column)
        for column in versions
    )
    for same in (*SAME, *_OTHERS, *packages):
        if same.value == "condition exif" and len(distinct(data, "exif")) == 1:
            # Their data sets differ, by which `auto` gives this value or another.
            continue
        rule = MustAgree(same.what, same.keys, same.value, (same.value,))
        part = conflicts(data, rule, {**STATED, **versions})
        yield from _describe(part, same) if len(part) else ()


def _describe(part: pd.DataFrame, same: Same) -> Iterator[Finding]:
    """One finding for all groups where the same methods differ in the same way."""
    groups: defaultdict[tuple[object, ...], defaultdict[str, set[str]]]
    groups = defaultdict(lambda: defaultdict(set))
    for *where, value, label in distinct(part, *same.keys, same.value, "label"):
        groups[tuple(where)][str(value)].add(label)
    said = {where: _list_values(labels, same.most) for where, labels in groups.items()}
    numbers, _ = group(part, same.keys)
    texts = np.array([*said.values()], object)[numbers]
    for words in dict.fromkeys(said.values()):
        names = [str(where[0]) for where, own in said.items() if own == words and where]
        on = f" on {some(names)}" if names and same.keys[0] not in _EVERYWHERE else ""
        line = f"different {same.what}{on}: {words}{f': {same.why}' if same.why else ''}"
        records = part["record"].to_numpy()[texts == words].tolist()
        yield Finding(same.level, same.kind, line, same.hazard, records)


def _list_values(labels: Mapping[str, set[str]], most: int) -> str:
    """Text such as `v1 (coop), v2 (clip-lora)`; most: characters of a value."""
    texts = [(value[:most], some(sorted(labels[value]), 4)) for value in sorted(labels)]
    return ", ".join(f"{value} ({names})" if most else f"({names})" for value, names in texts)
