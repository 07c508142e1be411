"""The signature of records: cells as few products of methods, data sets, shots and seeds.

`signature_of` is the entry; `matrices` gives products that together hold every cell exactly once.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from fewshot_bench.analysis.signature.line import FIELDS, SHARED, revision_digest, short, write
from fewshot_bench.analysis.signature.parsed import UNSIGNED, Choice, Matrix, Named, Pair, Signature
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CLASSES, RunSpec

Point = tuple[Hashable, ...]
Box = tuple[frozenset[Any], ...]


def boxes(points: Collection[Point]) -> list[Box]:
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
    return min((_merge(firsts[first], rest) for first, *rest in _orders(len(whole))), key=len)


def _orders(count: int) -> list[list[int]]:
    """Some orders of the axes: all rotations, forward and reversed."""
    axes = range(count)
    orders = [[*axes[start:], *axes[:start]] for start in axes]
    return orders + [order[::-1] for order in orders]


def _merge(parts: list[Box], order: Sequence[int]) -> list[Box]:
    for axis in order:
        groups: defaultdict[Box, list[frozenset[Any]]] = defaultdict(list)
        for box in parts:
            groups[box[:axis] + box[axis + 1 :]].append(box[axis])
        parts = [
            (*key[:axis], frozenset().union(*values), *key[axis:]) for key, values in groups.items()
        ]
    return parts


def hull(points: Collection[Point]) -> Box:
    """The smallest product that holds all points; it may hold others too."""
    return tuple(frozenset(values) for values in zip(*points, strict=True))


def is_product(rows: Collection[Point]) -> bool:
    """True when these distinct rows are all combinations of their columns' values."""
    return set(rows) == set(itertools.product(*hull(rows))) if rows else True


# The fields of a specification that are equal in all cells of a matrix, but own data.
_conditions_of = attrgetter(
    *sorted({name for field in FIELDS if field.take for name in field.of} - {"data"})
)
# With more products than this, write a single product around the cells, and their number.
MOST_PARTS = 6
_Variant = tuple[str, str, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
# Name and revision of a data set, and whether only half of its classes is fitted.
_Data = tuple[str, str, bool]
# Places of a method as configured and of a data set in `_Fits`, set of evaluations, shots, seeds.
_Fit = tuple[int, int, frozenset[Any], int, Pair]


def signature_of(records: Sequence[Record]) -> str:
    """The signature line below a table of these records; empty without records.

    It encodes their cells, whatever the status, and conditions, so that `parse` and `commands`
    yield the commands that compute them; `has` counts those that did not fail. Digests are the
    first six hexadecimal digits: of a data set's revision (SHA-256 of its text), of the backbone's
    weights, and of all splits (`splits_digest`).
    """
    if not records:
        return ""
    splits = splits_digest(records)
    is_named = all(record.spec.weights for record in records)
    specs = [record.spec for record in records] if is_named else _with_weights(records)
    failed = {id(spec) for spec, r in zip(specs, records, strict=True) if r.status == "failed"}
    groups = _by_conditions(specs)
    return write(Signature(tuple(m for group in groups for m in _few(group, failed, splits))))


def splits_digest(records: Sequence[Record]) -> str:
    """The first digits of the SHA-256 over the lines `evaluated shots split-seed digest`.

    Equal for two tables exactly when they are over the same images; empty where no split is known.
    """
    digests = Record.entries(records, "split", "digest")
    specs = (record.spec for record in records)
    lines = {
        f"{spec.evaluated}\t{spec.shots}\t{spec.split_seed}\t{digest}"
        for spec, (digest,) in zip(specs, digests, strict=True)
        if digest
    }
    return short("\n".join(sorted(lines))) if lines else ""


def matrices(specs: Iterable[RunSpec]) -> list[Matrix]:
    """Products that together contain exactly these cells, each once."""
    products = []
    for members in _by_conditions(specs):
        fits = _Fits()
        products += [_matrix(members[0], whole) for whole, _ in fits.boxes(fits.of(members))]
    return products


def _by_conditions(specs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    alike: defaultdict[Hashable, list[RunSpec]] = defaultdict(list)
    for spec in specs:
        alike[_conditions_of(spec), id(spec.data)].append(spec)
    groups: defaultdict[Hashable, list[RunSpec]] = defaultdict(list)
    for members in alike.values():
        groups[tuple(take(members[0]) for _, take, _ in SHARED)] += members
    return [groups[key] for key in sorted(groups, key=repr)]


def _with_weights(records: Sequence[Record]) -> list[RunSpec]:
    """The specifications; those that name no weights with the digest of the loaded ones."""
    digests = Record.entries(records, "environment", "weights_digest")
    return [
        dataclasses.replace(record.spec, weights=str(digest))
        if digest and not record.spec.weights
        else record.spec
        for record, (digest,) in zip(records, digests, strict=True)
    ]


def _few(specs: Sequence[RunSpec], failed: Collection[int], splits: str) -> list[Matrix]:
    """As `matrices` for one set of conditions, but one enclosing matrix instead of too many.

    failed: ids of specifications whose cells have no result.
    """
    fits = _Fits()
    points = fits.of(specs)
    lost = fits.of(spec for spec in specs if id(spec) in failed)
    products = fits.boxes(points)
    if len(products) > MOST_PARTS:
        whole = hull(points)
        products = [(fits.read(whole), whole)]
    made = []
    for values, box in products:
        matrix = _matrix(specs[0], values)
        some = _cells(points, box) - _cells(lost, box)
        has = (some, matrix.count) if some < matrix.count else None
        made.append(dataclasses.replace(matrix, has=has, splits=splits))
    return made


def _cells(points: Iterable[_Fit], box: Box) -> int:
    """The number of cells of these fits within a box, whose evaluations are those of its fits."""
    variants, datasets, _, shots, seeds = box
    return sum(
        len(asked)
        for variant, data, asked, k, pair in points
        if variant in variants and data in datasets and k in shots and pair in seeds
    )


class _Fits:
    """Fits of cells as points; numbers stand for methods and data sets, which are slow to hash."""

    def __init__(self) -> None:
        self._variants: dict[_Variant, int] = {}
        self._data: dict[_Data, int] = {}
        # By the identity of options, which records share.
        self._known: dict[Hashable, tuple[int, RunSpec]] = {}

    def of(self, specs: Iterable[RunSpec]) -> set[_Fit]:
        """Fits, each with all its evaluations, so that no fit occurs in two products."""
        asked: defaultdict[tuple[int, int, int, int, int], set[Named | str]] = defaultdict(set)
        for spec in specs:
            data = spec.dataset, spec.revision, spec.classes != "all"
            number = self._data.setdefault(data, len(self._data))
            fit = self._variant(spec), number, spec.shots, spec.split_seed, spec.train_seed
            asked[fit].add(_target(spec) if spec.target else spec.classes)
        return {
            (variant, data, frozenset(evaluations), shots, Pair(split, train))
            for (variant, data, shots, split, train), evaluations in asked.items()
        }

    def _variant(self, spec: RunSpec) -> int:
        objects = spec.method, spec.method_version, id(spec.overrides), id(spec.options)
        if objects not in self._known:
            number = self._variants.setdefault(_variant(spec), len(self._variants))
            # Keep the specification alive, so that the ids are not reused.
            self._known[objects] = number, spec
        return self._known[objects][0]

    def boxes(self, points: Collection[_Fit]) -> list[tuple[Box, Box]]:
        """Disjoint products of all points, each with its methods and data sets, and as numbers."""
        products = [(self.read(box), box) for box in boxes(points)]
        return sorted(products, key=lambda pair: _order(pair[0]))

    def read(self, box: Box) -> Box:
        """The product with the methods and data sets for their numbers."""
        variants, datasets, *others = box
        methods, data = list(self._variants), list(self._data)
        named = (data[number] for number in datasets)
        return (
            frozenset(map(methods.__getitem__, variants)),
            frozenset(Named(name, revision_digest(revision)) for name, revision, _ in named),
            *others,
        )


def _order(box: Box) -> str:
    return repr([sorted(map(_stable, values)) for values in box])


def _stable(value: Any) -> str:
    """The text of a value; that of a set has another order in every process."""
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _target(spec: RunSpec) -> Named:
    """The target data set of a transfer."""
    return Named(spec.target, revision_digest(spec.target_revision))


def _variant(spec: RunSpec) -> _Variant:
    """Method, version, overrides, and all options; values as text."""
    overrides = {name: value_text(value) for name, value in spec.overrides.items()}
    # Published values follow from the data set and shots.
    stated = {} if spec.published else spec.options
    options = {name: value_text(value) for name, value in stated.items()} | overrides
    parts = tuple(sorted(overrides.items())), tuple(sorted(options.items()))
    return (spec.method, spec.method_version, *parts)


def value_text(value: Any) -> str:
    """A hyper-parameter's value in the notation of `-o`."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _matrix(spec: RunSpec, box: Box) -> Matrix:
    """The product of a box under the conditions of a specification."""
    variants, datasets, groups, shots, seeds = box
    asked = frozenset().union(*groups)
    taken = {part: take(spec) for part, take, _ in SHARED}
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
    """Choices for these variants: one per method if its variants form a product, else one each."""
    groups: defaultdict[tuple[str, str], list[_Variant]] = defaultdict(list)
    for variant in variants:
        groups[variant[0], variant[1]].append(variant)
    choices: list[Choice] = []
    for (method, version), members in sorted(groups.items()):
        names = sorted({name for member in members for name, _ in member[2]})
        rows = [tuple(dict(member[3]).get(name) for name in names) for member in members]
        whole = not any(value is None for row in rows for value in row)
        if whole and len(set(rows)) == len(rows) and is_product(rows):
            columns = [_sort_texts({str(row[i]) for row in rows}) for i in range(len(names))]
            options = tuple(zip(names, columns, strict=True))
            choices.append(Choice(method, version, options))
        else:
            single = sorted(member[2] for member in members)
            choices += [Choice(method, version, tuple((n, (v,)) for n, v in o)) for o in single]
    return choices


def _sort_texts(values: Iterable[str]) -> tuple[str, ...]:
    """Sort numbers by value, then text."""

    def key(text: str) -> tuple[bool, float, str]:
        try:
            return False, float(text), text
        except ValueError:
            return True, 0.0, text

    return tuple(sorted(values, key=key))


# A long line is broken after `|`, `,` and `;`, or anywhere in a piece longer than a line.
_PIECES = re.compile(r"[^|,;]*[|,;]+|[^|,;]+")


def break_line(line: str, width: int) -> list[str]:
    """Break a signature into lines of at most `width` characters (0: one line).

    Broken lines can be pasted as they are: `parse` ignores blanks and line breaks.
    """
    if not line or width <= 0:
        return [line] if line else []
    pieces = [
        piece[start : start + width]
        for piece in _PIECES.findall(line)
        for start in range(0, len(piece), width)
    ]
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return lines
