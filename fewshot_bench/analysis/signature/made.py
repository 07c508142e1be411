"""The signature of records."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Any

from fewshot_bench.analysis.signature.boxes import Box, boxes, hull, is_product
from fewshot_bench.analysis.signature.digests import revision_digest, short
from fewshot_bench.analysis.signature.fields import CONDITIONS
from fewshot_bench.analysis.signature.line import write
from fewshot_bench.analysis.signature.model import UNSIGNED, Choice, Matrix, Named, Pair, Signature
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CLASSES, RunSpec

# More parts than this are given as one product around the cells, with their number.
MOST_PARTS = 6
_Variant = tuple[str, str, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
# A method as configured, data set, all that is asked, shots, seeds.
_Fit = tuple[Any, Any, frozenset[Any], Any, Any]


def signature_of(records: Sequence[Record]) -> str:
    """The line that stands under a table of these records; empty when there are none.

    It says which cells they are of, whatever their status, and under which conditions, so that
    `parse` and `commands` give the command that computes them. Digests are the first six
    hexadecimal digits: of a data set's revision (SHA-256 of its text), of the backbone's weights,
    and of all splits (`splits_digest`).
    """
    if not records:
        return ""
    splits = splits_digest(records)
    groups = _by_conditions(map(_loaded, records))
    return write(Signature(tuple(matrix for specs in groups for matrix in _few(specs, splits))))


def splits_digest(records: Iterable[Record]) -> str:
    """The first digits of the SHA-256 over the lines `evaluated shots split-seed digest`.

    Equal for two tables exactly when they are over the same images; empty where no split is known.
    """
    lines = {
        f"{r.spec.evaluated}\t{r.spec.shots}\t{r.spec.split_seed}\t{r.split['digest']}"
        for r in records
        if r.split.get("digest")
    }
    return short("\n".join(sorted(lines))) if lines else ""


def matrices(specs: Iterable[RunSpec]) -> list[Matrix]:
    """Products of cells that together hold every one of these exactly once, and no other."""
    return [
        _matrix(members[0], box)
        for members in _by_conditions(specs)
        for box in _boxes(_points(members))
    ]


def _by_conditions(specs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    groups: defaultdict[Hashable, list[RunSpec]] = defaultdict(list)
    for spec in specs:
        groups[tuple(take(spec) for _, take, _ in CONDITIONS)].append(spec)
    return [groups[key] for key in sorted(groups, key=repr)]


def _loaded(record: Record) -> RunSpec:
    """The specification; where it names no weights, with those that were loaded."""
    loaded = str(record.environment.get("weights_digest") or "")
    if record.spec.weights or not loaded:
        return record.spec
    return dataclasses.replace(record.spec, weights=loaded)


def _few(specs: Sequence[RunSpec], splits: str) -> list[Matrix]:
    """As `matrices` under one set of conditions, or one around the cells instead of many."""
    points = _points(specs)
    found = _boxes(points)
    if len(found) <= MOST_PARTS:
        made = [_matrix(specs[0], box) for box in found]
    else:
        around = _matrix(specs[0], hull(points))
        count = sum(len(point[2]) for point in points)
        made = [dataclasses.replace(around, has=(count, around.count))]
    return [dataclasses.replace(matrix, splits=splits) for matrix in made]


def _boxes(points: Collection[_Fit]) -> list[Box]:
    return sorted(boxes(points), key=_order)


def _order(box: Box) -> str:
    return repr([sorted(map(repr, values)) for values in box])


def _points(specs: Iterable[RunSpec]) -> set[_Fit]:
    """Fits, each with all that it is asked: no fit stands in two products."""
    known: dict[Hashable, _Variant] = {}
    asked: defaultdict[tuple[Hashable, ...], set[Named | str]] = defaultdict(set)
    for spec in specs:
        # As text, for equal numbers of other types are other text: 1, 1.0 and True.
        key = (spec.method, spec.method_version, repr(spec.overrides), repr(spec.options))
        if key not in known:
            known[key] = _variant(spec)
        dataset = Named(spec.dataset, revision_digest(spec.revision))
        seeds = Pair(spec.split_seed, spec.train_seed)
        half = spec.classes != "all"
        asked[known[key], dataset, half, spec.shots, seeds].add(_asked(spec))
    return {
        (variant, dataset, frozenset(found), shots, seeds)
        for (variant, dataset, _, shots, seeds), found in asked.items()
    }


def _asked(spec: RunSpec) -> Named | str:
    """The evaluated part: another data set, or a part of the classes."""
    if not spec.target:
        return spec.classes
    return Named(spec.target, revision_digest(spec.target_revision))


def _variant(spec: RunSpec) -> _Variant:
    """Method, version, overrides, and all options; values as text."""
    overrides = {name: value_text(value) for name, value in spec.overrides.items()}
    options = {name: value_text(value) for name, value in spec.options.items()} | overrides
    parts = tuple(sorted(overrides.items())), tuple(sorted(options.items()))
    return (spec.method, spec.method_version, *parts)


def value_text(value: Any) -> str:
    """A hyper-parameter's value as `-o` reads it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _matrix(spec: RunSpec, box: Box) -> Matrix:
    """The product of a box under the conditions of a specification."""
    variants, datasets, groups, shots, seeds = box
    asked = frozenset().union(*groups)
    taken = {part: take(spec) for part, take, _ in CONDITIONS}
    return Matrix(
        methods=tuple(_choices(variants)),
        datasets=tuple(sorted(datasets)),
        shots=tuple(sorted(shots)),
        seeds=tuple(sorted(seeds)),
        classes=tuple(name for name in CLASSES if name in asked),
        targets=tuple(sorted(value for value in asked if isinstance(value, Named))),
        conditions={name: taken.pop(name) for name in UNSIGNED},
        **taken,
    )


def _choices(variants: Collection[Any]) -> list[Choice]:
    """The fewest choices for these variants: all of a method as one where they are a product."""
    groups: defaultdict[tuple[str, str], list[_Variant]] = defaultdict(list)
    for variant in variants:
        groups[variant[0], variant[1]].append(variant)
    found: list[Choice] = []
    for (method, version), members in sorted(groups.items()):
        names = sorted({name for member in members for name, _ in member[2]})
        rows = [tuple(dict(member[3]).get(name) for name in names) for member in members]
        whole = not any(value is None for row in rows for value in row)
        if whole and len(set(rows)) == len(rows) and is_product(rows):
            columns = [_sorted({str(row[i]) for row in rows}) for i in range(len(names))]
            options = tuple(zip(names, columns, strict=True))
            found.append(Choice(method, version, options))
        else:
            single = sorted(member[2] for member in members)
            found += [Choice(method, version, tuple((n, (v,)) for n, v in o)) for o in single]
    return found


def _sorted(values: Iterable[str]) -> tuple[str, ...]:
    """Numbers by size, then text."""

    def key(text: str) -> tuple[bool, float, str]:
        try:
            return False, float(text), text
        except ValueError:
            return True, 0.0, text

    return tuple(sorted(values, key=key))
