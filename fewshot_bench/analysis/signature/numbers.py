"""Whole numbers and pairs of seeds as text, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from fewshot_bench.analysis.signature.model import Pair
from fewshot_bench.api.shots import ALL_SHOTS, LONGEST_NUMBER, WORD
from fewshot_bench.api.spec import MOST_NUMBERS


def numbers(values: Iterable[int]) -> str:
    """`1,2,4` and `1-3`: ranges from three numbers on."""
    runs = []
    for _, run in groupby(enumerate(sorted(values)), key=lambda pair: pair[1] - pair[0]):
        found = [value for _, value in run]
        long = len(found) > 2
        runs += [f"{found[0]}-{found[-1]}"] if long else list(map(str, found))
    return ",".join(runs)


def read_numbers(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = [first, last] if dash else [first]
        if not all(end.isascii() and end.isdigit() and len(end) <= LONGEST_NUMBER for end in ends):
            raise ValueError("whole numbers such as 1,2,4 or 1-3")
        start, stop = int(ends[0]), int(ends[-1])
        if not start <= stop < start + MOST_NUMBERS - len(found):
            raise ValueError(f"ranges of at most {MOST_NUMBERS:,} numbers in all")
        found += range(start, stop + 1)
    return distinct(found)


def shots_text(shots: Iterable[int]) -> str:
    """Numbers, and `all` last."""
    shots = set(shots)
    counted = numbers(shots - {ALL_SHOTS})
    return ",".join([*([counted] if counted else []), *([WORD] if ALL_SHOTS in shots else [])])


def read_shots(text: str) -> tuple[int, ...]:
    counted, comma, last = text.rpartition(",")
    if last != WORD:
        return read_numbers(text)
    return (*(read_numbers(counted) if comma else ()), ALL_SHOTS)


def read_number(text: str) -> int:
    found = read_numbers(text)
    if len(found) > 1:
        raise ValueError("one whole number")
    return found[0]


def pairs_text(pairs: Sequence[Pair]) -> str:
    """Equal seeds as numbers; else `SPLIT/TRAIN`, the training seeds joined by `+`."""
    by_split = {split: sorted(p.train for p in run) for split, run in _by_split(pairs)}
    equal = [split for split, trains in by_split.items() if trains == [split]]
    parts = [numbers(equal)] if equal else []
    parts += [
        f"{split}/{numbers(trains).replace(',', '+')}"
        for split, trains in by_split.items()
        if trains != [split]
    ]
    return ",".join(parts)


def _by_split(pairs: Iterable[Pair]) -> Iterator[tuple[int, Iterable[Pair]]]:
    return groupby(sorted(pairs), key=lambda pair: pair.split)


def read_pairs(text: str) -> tuple[Pair, ...]:
    found = []
    for part in text.split(","):
        split, slash, trains = part.partition("/")
        if not slash:
            found += [Pair(seed, seed) for seed in read_numbers(split)]
            continue
        number = read_number(split)
        found += [Pair(number, seed) for seed in read_numbers(trains.replace("+", ","))]
    return distinct(sorted(found))


def distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each value once")
    return tuple(values)
