"""Numbers of shots: so many images of every class, or `all` that a class has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST_NUMBER = 18


class AllShots(int):
    """All train images of every class: more than any number of shots, and written `all`.

    A number, so that what sorts and takes minima needs to know nothing of it; it has one digit more
    than any number that is accepted, and stands as the text `all` in records and in JSON.
    """

    def __str__(self) -> str:
        return "all"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return "all"


ALL_SHOTS = AllShots(10**LONGEST_NUMBER)
WORD = str(ALL_SHOTS)


def per_class(shots: int, images: int, classes: int) -> int:
    """Shots as a finite number: for all shots the mean size of a class, rounded, at least 1."""
    return max(1, round(images / classes)) if shots == ALL_SHOTS else shots


def read_shots(value: Any) -> Any:
    """A value from JSON as shots; anything but the word `all` as it is."""
    return ALL_SHOTS if value == WORD else value


def plain(value: Any) -> Any:
    """A value for JSON: all shots as the word, in lists and mappings too."""
    if isinstance(value, AllShots):
        return WORD
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
