"""The signature: cells of a table as one line of text. `write` and `parse` are the entries.

    fsbench:1|m:clip-lora@1[rank=2/4]|b:ViT-B-16/openai#a1b2|d:dtd#9f3c|k:16|s:1-3|val:min4|p:bf16

A line has the fields of a matrix (`FIELDS`); of several matrices first those that all share, then
after each `||` those of one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from fewshot_bench.api.spec import (
    ALL_SHOTS,
    CLASSES,
    CONDITIONS,
    LONGEST_NUMBER,
    MOST_NUMBERS,
    WORD,
    YES_NO,
    Condition,
)
from fewshot_bench.utils.errors import UsageError

_START = "fsbench:1"
LONGEST_LINE = 1_000_000
# Conditions that are fields of a line, with the text that is assumed if the field is absent.
UNSIGNED = {name: about.text(about.unsigned) for name, about in CONDITIONS.items() if about.short}
_CHOICE = re.compile(r"([^@\[\]]+)(?:@([^\[\]]*))?(?:\[([^\[\]]*)\])?")
_DIGEST = re.compile(r"[0-9a-f]*")


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


unescape = partial(unquote, errors="surrogatepass")


def _write_named(value: Named) -> str:
    return escape(value.name, "/:@") + (f"#{value.digest}" if value.digest else "")


def _read_named(text: str) -> Named:
    name, _, digest = text.partition("#")
    if not name or not _DIGEST.fullmatch(digest):
        raise ValueError("NAME#DIGEST, the digest in hexadecimal digits")
    return Named(unescape(name), digest)


def _write_choice(value: Choice) -> str:
    version = f"@{escape(value.version)}" if value.version else ""
    options = [f"{escape(name)}={'/'.join(map(escape, texts))}" for name, texts in value.options]
    return escape(value.method, "/:") + version + (f"[{';'.join(options)}]" if options else "")


def _read_choice(text: str) -> Choice:
    match = _CHOICE.fullmatch(text)
    if match is None:
        raise ValueError("METHOD@VERSION[OPTION=VALUE/VALUE;OPTION=VALUE]")
    method, version, inner = match.groups()
    options = {}
    for part in inner.split(";") if inner else []:
        name, equals, values = part.partition("=")
        if not name or not equals or unescape(name) in options:
            raise ValueError("options as NAME=VALUE/VALUE, each once")
        options[unescape(name)] = tuple(map(unescape, values.split("/")))
    return Choice(unescape(method), unescape(version or ""), tuple(options.items()))


def _write_list(write: Callable[[Any], str], values: Iterable[Any]) -> str:
    return ",".join(map(write, values))


def _read_list(read: Callable[[str], Any], text: str) -> tuple[Any, ...]:
    return _distinct([read(part) for part in text.split(",")] if text else [])


def _read_word(words: Sequence[str], text: str) -> str:
    if words and text not in words:
        raise ValueError(f"one of {', '.join(words)}")
    return unescape(text)


def _read_condition(about: Condition, text: str) -> str:
    if about.kind is int and text != about.text(None):
        _read_number(text)
    return _read_word(YES_NO if about.kind is bool else about.words, text)


def _read_has(text: str) -> tuple[int, int]:
    some, _, total = text.partition("/")
    return _read_number(some), _read_number(total)


def _read_share(text: str) -> str:
    if text and not 0 < float(text) < 1:
        raise ValueError("a share above 0 and below 1")
    return text


def _read_digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise ValueError("hexadecimal digits")
    return text


def numbers(values: Iterable[int]) -> str:
    """Sorted numbers as text, `1,2,4` or `1-3`; three or more consecutive ones form a range."""
    runs = []
    for _, run in groupby(enumerate(sorted(values)), key=lambda pair: pair[1] - pair[0]):
        own = [value for _, value in run]
        runs += [f"{own[0]}-{own[-1]}"] if len(own) > 2 else list(map(str, own))
    return ",".join(runs)


def _read_numbers(text: str) -> tuple[int, ...]:
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
    return _distinct(values)


def _read_number(text: str) -> int:
    values = _read_numbers(text)
    if len(values) > 1:
        raise ValueError("one whole number")
    return values[0]


def shots_text(shots: Iterable[int]) -> str:
    """Shots as text: numbers, then `all`."""
    shots = set(shots)
    counted = numbers(shots - {ALL_SHOTS})
    return ",".join(filter(None, [counted, WORD if ALL_SHOTS in shots else ""]))


def _read_shots(text: str) -> tuple[int, ...]:
    counted, comma, last = text.rpartition(",")
    if last != WORD:
        return _read_numbers(text)
    return (*(_read_numbers(counted) if comma else ()), ALL_SHOTS)


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


def _read_pairs(text: str) -> tuple[Pair, ...]:
    pairs = []
    for part in text.split(","):
        split, slash, trains = part.partition("/")
        if slash:
            number = _read_number(split)
            pairs += [Pair(number, seed) for seed in _read_numbers(trains.replace("+", ","))]
        else:
            pairs += [Pair(seed, seed) for seed in _read_numbers(split)]
    return _distinct(sorted(pairs))


def _distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each value once")
    return tuple(values)


class Field(NamedTuple):
    """A part of a matrix in a line.

    name: in the line. part: in `Matrix`. read: raises ValueError with what it expects.
    """

    name: str
    part: str
    write: Callable[[Any], str]
    read: Callable[[str], Any]


_NAMES = partial(_write_list, _write_named), partial(_read_list, _read_named)
# A condition that declares a `short` name is a field.
FIELDS = (
    Field("m", "methods", partial(_write_list, _write_choice), partial(_read_list, _read_choice)),
    Field("b", "backbone", _write_named, _read_named),
    Field("d", "datasets", *_NAMES),
    Field("k", "shots", shots_text, _read_shots),
    Field("s", "seeds", pairs_text, _read_pairs),
    *(
        Field(CONDITIONS[name].short, name, escape, partial(_read_condition, CONDITIONS[name]))
        for name in UNSIGNED
    ),
    Field("c", "classes", ",".join, partial(_read_list, partial(_read_word, CLASSES))),
    Field("to", "targets", *_NAMES),
    Field("hold", "holdout", str, _read_share),
    Field(
        *("own", "templates"),
        partial(_write_list, partial(escape, safe="{}")),
        partial(_read_list, unescape),
    ),
    Field("names", "classnames", str, _read_digest),
    Field("skip", "skipped", str, _read_digest),
    Field("x", "splits", str, _read_digest),
    Field("has", "has", lambda pair: f"{pair[0]}/{pair[1]}", _read_has),
)
_REQUIRED = ("m", "b", "d", "k", "s")
_BY_NAME = {field.name: field for field in FIELDS}
_ALWAYS = {*_REQUIRED, *(about.short for about in CONDITIONS.values() if about.signed)}
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
    for name, part, write_part, _ in FIELDS:
        value = matrix.conditions[part] if part in UNSIGNED else getattr(matrix, part)
        if name in _ALWAYS or value != _DEFAULTS[part]:
            yield name, write_part(value)


def parse(text: str) -> tuple[Matrix, ...]:
    """The matrices of a line; UsageError names the part that cannot be read.

    Blanks and line breaks are ignored: names with blanks are escaped.
    """
    if len(text) > LONGEST_LINE:
        raise UsageError(f"signature of {len(text):,} characters: expected one line")
    first, *blocks = "".join(text.split()).split("||")
    start, _, head = first.partition("|")
    if start != _START:
        raise UsageError(
            f"'{start:.40}' begins no signature: expected {_START}|m:METHOD|... "
            "(a larger number is written by a newer fewshot_bench)"
        )
    shared = _read_fields(head, {})
    return tuple(_make_matrix(_read_fields(block, shared)) for block in blocks or [""])


def _read_fields(block: str, shared: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a block's fields by name, and those that all blocks share."""
    values = dict(shared)
    for part in filter(None, block.split("|")):
        name, colon, text = part.partition(":")
        if name not in _BY_NAME or not colon:
            names = ", ".join(_BY_NAME)
            raise UsageError(f"signature: unknown field '{part:.40}': expected one of {names}")
        if name in values:
            what = "for all parts and for one of them" if name in shared else "twice in one part"
            raise UsageError(f"signature: field '{name}' stands {what}")
        try:
            values[name] = _BY_NAME[name].read(text)
        except ValueError as error:
            raise UsageError(
                f"signature: field '{name}:{text:.80}': expected {error} "
                "(docs/reference/protocols.md)"
            ) from None
    return values


def _make_matrix(values: Mapping[str, Any]) -> Matrix:
    for name in _REQUIRED:
        if not values.get(name):
            what = "empty" if name in values else "missing"
            raise UsageError(f"signature: field '{name}' is {what} (docs/reference/protocols.md)")
    parts = {_BY_NAME[name].part: value for name, value in values.items()}
    conditions = {name: parts.pop(name, default) for name, default in UNSIGNED.items()}
    return Matrix(**parts, conditions=conditions)
