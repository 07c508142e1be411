"""The model of a signature line: matrices of cells under conditions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

PREFIX = "fsbench"
FORMAT = 1


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

    `classes` holds `all`, `base`, `new`, and is empty where transfers alone are meant; `targets`
    are the other data sets that each fit is evaluated on. `holdout` and `templates` are a person's
    own; `classnames` is the digest of own class names, `splits` that of all splits. `has` is
    (cells of the table, cells of this matrix) where these are not the same.
    """

    methods: tuple[Choice, ...]
    backbone: Named
    datasets: tuple[Named, ...]
    shots: tuple[int, ...]
    seeds: tuple[Pair, ...]
    val: str = "min4"
    prompts: str = "custom"
    precision: str = "fp32"
    device: str = ""
    protocol: str = "coop"
    limit: int | None = None
    classes: tuple[str, ...] = ("all",)
    targets: tuple[Named, ...] = ()
    holdout: str = ""
    templates: tuple[str, ...] = ()
    classnames: str = ""
    splits: str = ""
    exif: str = "ignore"
    skipped: str = ""
    has: tuple[int, int] | None = None

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
