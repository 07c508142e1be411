"""The signature: cells of a table as one line of text. `write` is the entry.

    fsbench:1|m:clip-lora@1[rank=2/4]|b:ViT-B-16/openai#a1b2|d:dtd#9f3c|k:16|s:1-3|val:min4|p:bf16

A line has the fields of a matrix (`FIELDS`); of several matrices first those that all share, then
after each `||` those of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple
from urllib.parse import quote

from fewshot_bench.api.spec import (
    ALL_SHOTS,
    CONDITIONS,
    WORD,
)

_START = "fsbench:1"
# Conditions that are fields of a line, with the text that is assumed if the field is absent.
UNSIGNED = {name: about.text(about.unsigned) for name, about in CONDITIONS.items() if about.short}


class Named(NamedTuple):
    """A data set or a backbone, and the first digits of the digest of its lists or weights.

    `digest` is empty where none is known.
    """

    name: str
    digest: str = ""


class Choice(NamedTuple):
    """A method in one version, with the options that are not at their defaults in all cells.

    `options` holds names with values as text and stands for every combination of the values.
    """

    method: str
    version: str = ""
    options: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Pair(NamedTuple):
    """A split seed and a training seed."""

    split: int
    train: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """Every combination of methods, data sets, shots, seeds and evaluations.

    `conditions` holds the texts of the conditions in `UNSIGNED`. `classes` holds `all`, `base`,
    `new`, and is empty if there are only transfers; `targets` are the other data sets that each fit
    is evaluated on. `holdout` and `templates` are the user's own; `classnames`, `skipped` and
    `splits` are digests of own class names, skipped images and all splits. `has` is (cells of the
    table, cells of this matrix) if these differ.
    """

    methods: tuple[Choice, ...]
    backbone: Named
    datasets: tuple[Named, ...]
    shots: tuple[int, ...]
    seeds: tuple[Pair, ...]
    conditions: Mapping[str, str] = field(default_factory=lambda: UNSIGNED)
    classes: tuple[str, ...] = ("all",)
    targets: tuple[Named, ...] = ()
    holdout: str = ""
    templates: tuple[str, ...] = ()
    classnames: str = ""
    splits: str = ""
    skipped: str = ""
    has: tuple[int, int] | None = None

    @property
    def count(self) -> int:
        """The number of its cells; a data set is never a target of itself."""
        options = [[len(values) for _, values in choice.options] for choice in self.methods]
        fits = sum(map(math.prod, options)) * len(self.shots) * len(self.seeds)
        targets = [target.name for target in self.targets]
        evaluated = [len(targets) - targets.count(dataset.name) for dataset in self.datasets]
        return fits * (len(self.classes) * len(self.datasets) + sum(evaluated))


def escape(text: str, safe: str = "") -> str:
    """Percent-encode all but letters, digits, `_ . - ~` and `safe`, as in a URL."""
    return quote(text, safe=safe, errors="surrogatepass")


def _write_named(value: Named) -> str:
    return escape(value.name, "/:@") + (f"#{value.digest}" if value.digest else "")


def _write_choice(value: Choice) -> str:
    version = f"@{escape(value.version)}" if value.version else ""
    options = [f"{escape(name)}={'/'.join(map(escape, texts))}" for name, texts in value.options]
    return escape(value.method, "/:") + version + (f"[{';'.join(options)}]" if options else "")


def _write_list(write: Callable[[Any], str], values: Iterable[Any]) -> str:
    return ",".join(map(write, values))


def numbers(values: Iterable[int]) -> str:
    """Sorted numbers as text, `1,2,4` or `1-3`; three or more consecutive ones form a range."""
    runs = []
    for _, run in groupby(enumerate(sorted(values)), key=lambda pair: pair[1] - pair[0]):
        own = [value for _, value in run]
        runs += [f"{own[0]}-{own[-1]}"] if len(own) > 2 else list(map(str, own))
    return ",".join(runs)


def shots_text(shots: Iterable[int]) -> str:
    """Shots as text: numbers, then `all`."""
    shots = set(shots)
    counted = numbers(shots - {ALL_SHOTS})
    return ",".join(filter(None, [counted, WORD if ALL_SHOTS in shots else ""]))


def pairs_text(pairs: Iterable[Pair]) -> str:
    """Seeds as text: numbers if equal, else `SPLIT/TRAIN` with training seeds joined by `+`."""
    equal, crossed = split_pairs(pairs)
    parts = [numbers(equal)] if equal else []
    parts += [f"{split}/{numbers(own).replace(',', '+')}" for split, own in crossed.items()]
    return ",".join(parts)


def split_pairs(pairs: Iterable[Pair]) -> tuple[list[int], dict[int, list[int]]]:
    """The seeds that split and train alike, and the training seeds of each other split seed."""
    groups = groupby(sorted(pairs), key=lambda pair: pair.split)
    trains = {split: [pair.train for pair in group] for split, group in groups}
    equal = [split for split, own in trains.items() if own == [split]]
    return equal, {split: own for split, own in trains.items() if own != [split]}


_write_names = partial(_write_list, _write_named)
# The parts of a matrix by their names in a line, and how each is written. A condition that declares
# a `short` name is one.
FIELDS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "m": ("methods", partial(_write_list, _write_choice)),
    "b": ("backbone", _write_named),
    "d": ("datasets", _write_names),
    "k": ("shots", shots_text),
    "s": ("seeds", pairs_text),
    **{CONDITIONS[name].short: (name, escape) for name in UNSIGNED},
    "c": ("classes", ",".join),
    "to": ("targets", _write_names),
    "hold": ("holdout", str),
    "own": ("templates", partial(_write_list, partial(escape, safe="{}"))),
    "names": ("classnames", str),
    "skip": ("skipped", str),
    "x": ("splits", str),
    "has": ("has", lambda pair: f"{pair[0]}/{pair[1]}"),
}
_ALWAYS = {*"mbdks", *(about.short for about in CONDITIONS.values() if about.signed)}
_DEFAULTS = {each.name: each.default for each in fields(Matrix)} | UNSIGNED


def write(matrices: Sequence[Matrix]) -> str:
    """The line of these matrices."""
    texts = [dict(_write_fields(matrix)) for matrix in matrices]
    shared = dict(set.intersection(*(set(text.items()) for text in texts)))
    # In the order of the fields.
    first = {name: text for name, text in texts[0].items() if name in shared}
    blocks = [first, *({k: v for k, v in text.items() if k not in shared} for text in texts)]
    parts = ["|".join(f"{name}:{text}" for name, text in block.items()) for block in blocks]
    head = "|".join(filter(None, [_START, parts[0]]))
    return head if len(texts) < 2 else "||".join([head, *parts[1:]])


def _write_fields(matrix: Matrix) -> Iterator[tuple[str, str]]:
    """Names and texts of the fields, without those at a default that need not be written."""
    for name, (part, write_part) in FIELDS.items():
        value = matrix.conditions[part] if part in UNSIGNED else getattr(matrix, part)
        if name in _ALWAYS or value != _DEFAULTS[part]:
            yield name, write_part(value)
