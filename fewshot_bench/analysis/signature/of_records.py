"""The signature of records: cells as few products of methods, data sets, shots and seeds.

`signature_of` is the entry; `matrices_of` gives products that together hold every cell once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from fewshot_bench.analysis.signature.line import UNSIGNED, Choice, Matrix, Named, Pair, write
from fewshot_bench.api.dataset import SKIPPED
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CLASSES, CONDITIONS, RunSpec, canonical_json
from fewshot_bench.utils.text import digest_of

# With more products than this, write a single product around the cells, and their number.
MOST_PARTS = 6
DIGITS = 6
Box = tuple[frozenset[Any], ...]
# Method as configured, data set, set of evaluations, shots, seeds.
_Fit = tuple["_Variant", "_Dataset", frozenset[Any], int, Pair]


@dataclasses.dataclass(frozen=True, eq=False)
class _Variant:
    """A method as configured, values as text; equal ones are one object, which is fast to hash."""

    method: str
    version: str
    overrides: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Dataset:
    """A data set, and whether only half of its classes is fitted; equal ones are one object."""

    named: Named
    half: bool


def signature_of(records: Sequence[Record]) -> str:
    """The signature line below a table of these records; empty without records.

    It encodes their cells, whatever the status, and conditions; `has` counts those that did not
    fail. Digests are the
    first six hexadecimal digits: of a data set's revision (SHA-256 of its text), of the backbone's
    weights, and of all splits (`splits_digest`).
    """
    if not records:
        return ""
    specs = _with_weights(records)
    failed = {id(spec) for spec, r in zip(specs, records, strict=True) if r.status == "failed"}
    matrices = matrices_of(specs, failed, MOST_PARTS)
    splits = splits_digest(records)
    return write([dataclasses.replace(matrix, splits=splits) for matrix in matrices])


def splits_digest(records: Sequence[Record]) -> str:
    """The first digits of the SHA-256 over the lines `evaluated shots split-seed digest`.

    Equal for two tables exactly when they are over the same images; empty where no split is known.
    """
    digests = Record.entries(records, "split", "digest")
    lines = {
        f"{record.spec.evaluated}\t{record.spec.shots}\t{record.spec.split_seed}\t{digest}"
        for record, (digest,) in zip(records, digests, strict=True)
        if digest
    }
    return _short("\n".join(sorted(lines)))


def _with_weights(records: Sequence[Record]) -> list[RunSpec]:
    """The specifications; those that name no weights with the digest of the loaded ones."""
    if all(record.spec.weights for record in records):
        return [record.spec for record in records]
    digests = Record.entries(records, "environment", "weights_digest")
    return [
        dataclasses.replace(record.spec, weights=str(digest))
        if digest and not record.spec.weights
        else record.spec
        for record, (digest,) in zip(records, digests, strict=True)
    ]


def matrices_of(
    specs: Iterable[RunSpec], failed: Collection[int] = (), most: int | None = None
) -> list[Matrix]:
    """Products that together contain exactly these cells, each once.

    failed: ids of specifications without a result, which `has` does not count. most: with more
    products than this for one set of conditions, it is a single one that holds other cells too.
    """
    matrices = []
    for members in _group_by_conditions(specs):
        fits = _count_fits(members, failed)
        products = sorted(boxes(fits), key=_order)
        if most and len(products) > most:
            products = [hull(fits)]
        for box in products:
            matrix = _make_matrix(members[0], box)
            inside = (n for fit, n in fits.items() if all(map(_is_in, fit, box)))
            some = sum(inside)
            has = (some, matrix.count) if some < matrix.count else None
            matrices.append(dataclasses.replace(matrix, has=has))
    return matrices


def _is_in(value: object, values: frozenset[Any]) -> bool:
    return value in values


_conditions_of = attrgetter("backbone", "weights", *UNSIGNED)


def _group_by_conditions(specs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    alike: defaultdict[Hashable, list[RunSpec]] = defaultdict(list)
    for spec in specs:
        alike[_conditions_of(spec), id(spec.data)].append(spec)
    groups: defaultdict[str, list[RunSpec]] = defaultdict(list)
    for members in alike.values():
        groups[repr(_read_shared(members[0]))] += members
    return [groups[key] for key in sorted(groups)]


def _read_shared(spec: RunSpec) -> dict[str, Any]:
    """The parts of a matrix that are equal in all its cells."""
    weights = spec.weights[:DIGITS]
    if not set(weights) <= set("0123456789abcdef"):
        weights = _short(spec.weights)
    classnames, skipped = spec.data.get("classnames"), spec.data.get(SKIPPED)
    return {
        "backbone": Named(spec.backbone, weights),
        "conditions": {name: CONDITIONS[name].of(spec) for name in UNSIGNED},
        "holdout": str(spec.data.get("holdout") or ""),
        "templates": tuple(spec.data.get("templates") or ()),
        "classnames": "" if classnames is None else _short(canonical_json(classnames)),
        "skipped": _short(canonical_json(skipped)) if skipped else "",
    }


@functools.lru_cache(maxsize=4096)
def _short(text: str) -> str:
    """The first digits of the SHA-256 of a text; empty for none."""
    return digest_of(text, DIGITS) if text else ""


def _count_fits(specs: Iterable[RunSpec], failed: Collection[int]) -> dict[_Fit, int]:
    """Fits, each with all its evaluations, and how many of these have a result.

    So no fit occurs in two products.
    """
    variants: dict[Hashable, _Variant] = {}
    datasets: dict[Hashable, _Dataset] = {}
    asked: defaultdict[tuple[Any, ...], dict[Named | str, bool]] = defaultdict(dict)
    for spec in specs:
        # Records of a store share equal options.
        same = spec.method, spec.method_version, id(spec.overrides), id(spec.options)
        if same not in variants:
            variant = _read_variant(spec)
            parts = dataclasses.astuple(variant)
            variants[same] = variants.setdefault(parts, variant)
        key = spec.dataset, spec.revision, spec.classes != "all"
        if key not in datasets:
            datasets[key] = _Dataset(Named(spec.dataset, _short(spec.revision)), key[2])
        fit = variants[same], datasets[key], spec.shots, spec.split_seed, spec.train_seed
        target = Named(spec.target, _short(spec.target_revision))
        asked[fit][target if spec.target else spec.classes] = id(spec) not in failed
    return {
        (variant, dataset, frozenset(states), shots, Pair(split, train)): sum(states.values())
        for (variant, dataset, shots, split, train), states in asked.items()
    }


def _read_variant(spec: RunSpec) -> _Variant:
    overrides = {name: _value_text(value) for name, value in spec.variant.items()}
    # Published values follow from the data set and shots.
    stated = {} if spec.published else spec.options
    options = {name: _value_text(value) for name, value in stated.items()} | overrides
    parts = tuple(sorted(overrides.items())), tuple(sorted(options.items()))
    return _Variant(spec.method, spec.method_version, *parts)


def _value_text(value: Any) -> str:
    """A hyper-parameter's value in the notation of `-o`."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def boxes(points: Collection[tuple[Any, ...]]) -> list[Box]:
    """Partition points into disjoint products; the fewest of a few attempts.

    Every point has the same number of axes. Points that agree on all other axes are merged along
    one axis after the other; the order of the axes determines how many products remain.
    """
    if not points:
        return []
    whole = hull(points)
    if math.prod(map(len, whole)) == len(set(points)):
        return [whole]
    alone = {value: frozenset([value]) for value in set().union(*points)}
    single: list[Box] = [tuple(map(alone.__getitem__, point)) for point in points]
    firsts = [_merge(single, [axis]) for axis in range(len(whole))]
    axes = range(len(whole))
    rotations = [[*axes[start:], *axes[:start]] for start in axes]
    orders = rotations + [order[::-1] for order in rotations]
    return min((_merge(firsts[first], rest) for first, *rest in orders), key=len)


def _merge(parts: list[Box], order: Sequence[int]) -> list[Box]:
    for axis in order:
        groups: defaultdict[Box, list[frozenset[Any]]] = defaultdict(list)
        for box in parts:
            groups[box[:axis] + box[axis + 1 :]].append(box[axis])
        parts = [
            (*key[:axis], frozenset().union(*values), *key[axis:]) for key, values in groups.items()
        ]
    return parts


def hull(points: Collection[tuple[Any, ...]]) -> Box:
    """The smallest product that holds all points; it may hold others too."""
    return tuple(frozenset(values) for values in zip(*points, strict=True))


def _order(box: Box) -> str:
    return repr([sorted(map(_stable, values)) for values in box])


def _stable(value: Any) -> str:
    """The text of a value; that of a set has another order in every process."""
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _make_matrix(spec: RunSpec, box: Box) -> Matrix:
    """The product of a box under the conditions of a specification."""
    variants, datasets, groups, shots, seeds = box
    asked = frozenset().union(*groups)
    return Matrix(
        methods=tuple(_choices(variants)),
        datasets=tuple(sorted({dataset.named for dataset in datasets})),
        shots=tuple(sorted(shots)),
        seeds=tuple(sorted(seeds)),
        classes=tuple(name for name in CLASSES if name in asked),
        targets=tuple(sorted(value for value in asked if isinstance(value, Named))),
        **_read_shared(spec),
    )


def _choices(variants: Collection[_Variant]) -> list[Choice]:
    """Choices for these variants: one per method if its variants form a product, else one each."""
    groups: defaultdict[tuple[str, str], list[_Variant]] = defaultdict(list)
    for variant in variants:
        groups[variant.method, variant.version].append(variant)
    choices: list[Choice] = []
    for (method, version), members in sorted(groups.items()):
        names = sorted({name for member in members for name, _ in member.overrides})
        options: list[Mapping[str, str]] = [dict(member.options) for member in members]
        rows = [tuple(own.get(name) for name in names) for own in options]
        columns = hull(rows)
        is_whole = None not in frozenset().union(*columns)
        if is_whole and len({*rows}) == len(rows) == math.prod(map(len, columns)):
            values = [tuple(sorted(map(str, column), key=_number_first)) for column in columns]
            choices.append(Choice(method, version, tuple(zip(names, values, strict=True))))
        else:
            single = sorted(member.overrides for member in members)
            choices += [Choice(method, version, tuple((n, (v,)) for n, v in o)) for o in single]
    return choices


def _number_first(text: str) -> tuple[bool, float, str]:
    """Sort key: numbers by value, then text."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


# A long line is broken after `|`, `,` and `;`, or anywhere in a piece longer than a line.
_PIECES = re.compile(r"[^|,;]*[|,;]+|[^|,;]+")


def break_line(line: str, width: int) -> list[str]:
    """Break a signature into lines of at most `width` characters (0: one line)."""
    if not line or width <= 0:
        return [line] if line else []
    lines = [""]
    for piece in _PIECES.findall(line):
        for start in range(0, len(piece), width):
            part = piece[start : start + width]
            if lines[-1] and len(lines[-1]) + len(part) > width:
                lines.append("")
            lines[-1] += part
    return lines
