"""Subjects of fuzzing: a reader, valid files for it, and its share of the cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Seed:
    """A valid file: its path below the subject's folder, its content, and its format.

    place: maps changed content to another path, for files that are named by their content.
    """

    path: str
    content: bytes
    kind: str = ""
    place: Callable[[bytes], str | None] = lambda content: None


@dataclass(frozen=True)
class Subject:
    """A reader. `build` makes its folder and returns the files that are changed in turn.

    read: takes the folder and the changed file; True if the file was used, False if it was passed
    over; raises an error of `refusals` (or FsbenchError) if it was refused.
    """

    name: str
    weight: float
    build: Callable[[Path], Sequence[Seed]]
    read: Callable[[Path, Path], bool]
    refusals: tuple[type[BaseException], ...] = ()


def seeds_in(folder: Path, *kinds: tuple[str, str]) -> list[Seed]:
    """Files of a folder as seeds, by pattern and format."""
    return [
        Seed(path.relative_to(folder).as_posix(), path.read_bytes(), kind)
        for pattern, kind in kinds
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    ]
