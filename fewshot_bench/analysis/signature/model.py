"""The model of a signature line: matrices of cells under conditions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fewshot_bench.api.spec import CONDITIONS

PREFIX = "fsbench"
FORMAT = 1
# Conditions that are fields of a line, with what a line without them stands for.
UNSIGNED = {name: about.unsigned for name, about in CONDITIONS.items() if about.short}


@dataclass(frozen=True, order=True, slots=True)
class Named:
    """A data set or a backbone, and the first digits of the digest of its lists or weights.

    `digest` is empty where none is known.
    """

    name: str
    digest: str = ""


@dataclass(frozen=True, order=True, slots=True)
class Choice:
    """A method of one version with the values of the options that are not all defaults.

    `options` holds names with values as text; every combination of the values is meant.
    """

    method: str
    version: str = ""
    options: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def count(self) -> int:
        """The number of configurations it stands for."""
        return math.prod(len(values) for _, values in self.options)


@dataclass(frozen=True, order=True, slots=True)
class Pair:
    """A split seed and a training seed."""

    split: int
    train: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """Every combination of methods, data sets, shots, seeds and what is evaluated.

    `conditions` holds those of `UNSIGNED`. `classes` holds `all`, `base`, `new`, and is empty
    where transfers alone are meant; `targets` are the other data sets that each fit is evaluated
    on. `holdout` and `templates` are a person's own; `classnames` is the digest of own class names,
    `splits` that of all splits. `has` is (cells of the table, cells of this matrix) where these are
    not the same.
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
        """A condition, or a field."""
        return self.conditions[name] if name in UNSIGNED else getattr(self, name)

    @property
    def count(self) -> int:
        """The number of its cells; a data set is never a target of itself."""
        configurations = sum(choice.count for choice in self.methods)
        return configurations * len(self.shots) * len(self.seeds) * sum(1 for _ in self.evaluated())

    def evaluated(self) -> Iterator[tuple[str, str, str]]:
        """Data set, part of the classes, target: what each fit is asked."""
        for dataset in self.datasets:
            for part in self.classes:
                yield dataset.name, part, ""
            for target in self.targets:
                if target.name != dataset.name:
                    yield dataset.name, "all", target.name


@dataclass(frozen=True, slots=True)
class Signature:
    """All matrices of a line."""

    matrices: tuple[Matrix, ...]


def default_of(part: str) -> Any:
    """The value of a part of a matrix whose line does not name it."""
    if part in UNSIGNED:
        return UNSIGNED[part]
    return next(one.default for one in fields(Matrix) if one.name == part)
