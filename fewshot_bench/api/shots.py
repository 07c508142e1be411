"""Numbers of shots: images per class, or `all` images of each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST_NUMBER = 18


class AllShots(int):
    """All train images of every class: greater than any number of shots, and written `all`.

    An int, so that code that sorts or takes minima needs no special case; it has one digit more
    than any accepted number, and is the text `all` in records and JSON.
    """

    def __str__(self) -> str:
        return "all"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return "all"


ALL_SHOTS = AllShots(10**LONGEST_NUMBER)
WORD = str(ALL_SHOTS)


def per_class(shots: int, images: int, classes: int) -> int:
    """Shots as a finite number; for all shots, the rounded mean class size, at least 1."""
    return max(1, round(images / classes)) if shots == ALL_SHOTS else shots


def read_shots(value: Any) -> Any:
    """Shots from a JSON value: the word `all` becomes `ALL_SHOTS`, other values pass unchanged."""
    return ALL_SHOTS if value == WORD else value


def plain(value: Any) -> Any:
    """A value for JSON: `ALL_SHOTS` becomes the word `all`, in lists and mappings too."""
    if isinstance(value, AllShots):
        return WORD
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
