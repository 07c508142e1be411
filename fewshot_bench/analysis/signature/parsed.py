"""Matrices of cells that a signature encodes, and conversion of numbers to text and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any, NamedTuple

from fewshot_bench.api.spec import ALL_SHOTS, CONDITIONS, LONGEST_NUMBER, MOST_NUMBERS, WORD

PREFIX = "fsbench"
FORMAT = 1
# Conditions that are fields of a line, with the value assumed if the field is absent.
UNSIGNED = {name: about.unsigned for name, about in CONDITIONS.items() if about.short}


class Named(NamedTuple):
    """A data set or a backbone, and the first digits of the digest of its lists or weights.

    `digest` is empty where none is known.
    """

    name: str
    digest: str = ""


@dataclass(frozen=True, order=True, slots=True)
class Choice:
    """A method in one version, with the options that are not at their defaults in all cells.

    `options` holds names with values as text and stands for every combination of the values.
    """

    method: str
    version: str = ""
    options: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def count(self) -> int:
        """The number of configurations."""
        return math.prod(len(values) for _, values in self.options)


class Pair(NamedTuple):
    """A split seed and a training seed."""

    split: int
    train: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """Every combination of methods, data sets, shots, seeds and evaluations.

    `conditions` holds the conditions in `UNSIGNED`. `classes` holds `all`, `base`, `new`, and is
    empty if there are only transfers; `targets` are the other data sets that each fit is evaluated
    on. `holdout` and `templates` are the user's own; `classnames`, `skipped` and `splits` are
    digests of own class names, skipped images and all splits. `has` is (cells of the table, cells
    of this matrix) if these differ.
    """

    methods: tuple[Choice, ...]
    backbone: Named
    datasets: tuple[Named, ...]
    shots: tuple[int, ...]
    seeds: tuple[Pair, ...]
    conditions: Mapping[str, Any] = field(default_factory=lambda: UNSIGNED)
    classes: tuple[str, ...] = ("all",)
    targets: tuple[Named, ...] = ()
    holdout: str = ""
    templates: tuple[str, ...] = ()
    classnames: str = ""
    splits: str = ""
    skipped: str = ""
    has: tuple[int, int] | None = None

    def part(self, name: str) -> Any:
        """The value of a condition or of a field."""
        return self.conditions[name] if name in UNSIGNED else getattr(self, name)

    @property
    def count(self) -> int:
        """The number of its cells; a data set is never a target of itself."""
        configurations = sum(choice.count for choice in self.methods)
        return configurations * len(self.shots) * len(self.seeds) * sum(1 for _ in self.evaluated())

    def evaluated(self) -> Iterator[tuple[str, str, str]]:
        """The (data set, classes, target) of every evaluation."""
        for dataset in self.datasets:
            for part in self.classes:
                yield dataset.name, part, ""
            for target in self.targets:
                if target.name != dataset.name:
                    yield dataset.name, "all", target.name


@dataclass(frozen=True, slots=True)
class Signature:
    """A parsed line: its matrices."""

    matrices: tuple[Matrix, ...]


def default_of(part: str) -> Any:
    """The value of a matrix part that a line leaves out."""
    if part in UNSIGNED:
        return UNSIGNED[part]
    return next(field.default for field in fields(Matrix) if field.name == part)


def numbers(values: Iterable[int]) -> str:
    """Sorted numbers as text, `1,2,4` or `1-3`; three or more consecutive ones form a range."""
    runs = []
    for _, run in groupby(enumerate(sorted(values)), key=lambda pair: pair[1] - pair[0]):
        own = [value for _, value in run]
        long = len(own) > 2
        runs += [f"{own[0]}-{own[-1]}"] if long else list(map(str, own))
    return ",".join(runs)


def read_numbers(text: str) -> tuple[int, ...]:
    values: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = [first, last] if dash else [first]
        if not all(end.isascii() and end.isdigit() and len(end) <= LONGEST_NUMBER for end in ends):
            raise ValueError("whole numbers such as 1,2,4 or 1-3")
        start, stop = int(ends[0]), int(ends[-1])
        if not start <= stop < start + MOST_NUMBERS - len(values):
            raise ValueError(f"ranges of at most {MOST_NUMBERS:,} numbers in all")
        values += range(start, stop + 1)
    return distinct(values)


def shots_text(shots: Iterable[int]) -> str:
    """Shots as text: numbers, then `all`."""
    shots = set(shots)
    counted = numbers(shots - {ALL_SHOTS})
    return ",".join([*([counted] if counted else []), *([WORD] if ALL_SHOTS in shots else [])])


def read_shots(text: str) -> tuple[int, ...]:
    counted, comma, last = text.rpartition(",")
    if last != WORD:
        return read_numbers(text)
    return (*(read_numbers(counted) if comma else ()), ALL_SHOTS)


def read_number(text: str) -> int:
    values = read_numbers(text)
    if len(values) > 1:
        raise ValueError("one whole number")
    return values[0]


def pairs_text(pairs: Sequence[Pair]) -> str:
    """Seeds as text: numbers if equal, else `SPLIT/TRAIN` with training seeds joined by `+`."""
    by_split = trains_by_split(pairs)
    equal = [split for split, trains in by_split.items() if trains == [split]]
    parts = [numbers(equal)] if equal else []
    parts += [
        f"{split}/{numbers(trains).replace(',', '+')}"
        for split, trains in by_split.items()
        if trains != [split]
    ]
    return ",".join(parts)


def trains_by_split(pairs: Iterable[Pair]) -> dict[int, list[int]]:
    """The training seeds of each split seed, both sorted."""
    groups = groupby(sorted(pairs), key=lambda pair: pair.split)
    return {split: [pair.train for pair in group] for split, group in groups}


def read_pairs(text: str) -> tuple[Pair, ...]:
    pairs = []
    for part in text.split(","):
        split, slash, trains = part.partition("/")
        if not slash:
            pairs += [Pair(seed, seed) for seed in read_numbers(split)]
            continue
        number = read_number(split)
        pairs += [Pair(number, seed) for seed in read_numbers(trains.replace("+", ","))]
    return distinct(sorted(pairs))


def distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each value once")
    return tuple(values)
