"""Scheduling: groups of cells that go to a worker together, and the best group for a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewshot_bench.api.spec import RunSpec

# Number of waiting groups among which the best one for a worker is searched.
LOOKED_AT = 400
# With at most this many support sets per worker left, groups with the most shots come first.
LAST_DRAWS = 2
# Cells that share a fit go to one worker, which fits once.
Group = list[RunSpec]


def by_fit(cells: Sequence[RunSpec]) -> list[Group]:
    """Cells in groups that share a fit, in the order of each group's first cell."""
    groups: dict[str, Group] = {}
    for cell in cells:
        groups.setdefault(cell.fit_key(), []).append(cell)
    return list(groups.values())


def held_by(cell: RunSpec) -> tuple[Any, Any]:
    """Keys of the data in a worker's memory after a cell: (backbone, data set), support set.

    For cells with an equal second key, the worker has support images decoded and encoded.
    """
    loaded = cell.backbone, cell.precision, cell.dataset, tuple(sorted(map(str, cell.data.items())))
    half = "all" if cell.classes == "all" else "half"
    drawn = cell.protocol, cell.shots, cell.split_seed, cell.val, half, cell.picks
    return loaded, (loaded, drawn)


class Choice:
    """Cache-aware scheduling: prefers groups whose data this worker, else no other worker holds.

    Near the end, groups with the most shots go before others of the same data set: their fits take
    longest, and one that starts last keeps one worker busy while the others are idle.
    """

    def __init__(self) -> None:
        self._held: dict[object, tuple[Any, Any]] = {}

    def took(self, worker: object, group: Group) -> None:
        """Record that a worker computes a group, and holds its data from now on."""
        self._held[worker] = held_by(group[0])

    def gone(self, worker: object) -> None:
        """Forget a worker that has ended."""
        self._held.pop(worker, None)

    def index(self, worker: object, waiting: Sequence[Group], avoid: Sequence[bool]) -> int:
        """The index in `waiting` of the best group for a worker; ties go to the earlier one.

        avoid: per group, True if it lost a worker in this worker's slot.
        """
        mine, my_draw = self._held.get(worker, (None, None))
        others = {drawn for who, (_, drawn) in self._held.items() if who is not worker}
        ahead = [held_by(group[0]) for group in waiting[:LOOKED_AT]]
        workers = len(self._held.keys() | {worker})
        last = len({drawn for _, drawn in ahead}) <= LAST_DRAWS * workers

        def rank(place: int) -> tuple[bool, int, int, bool, int]:
            loaded, drawn = ahead[place]
            if drawn == my_draw:
                tier = 0
            else:
                tier = 2 if drawn in others else 1
            shots = waiting[place][0].shots if last else 0
            return avoid[place], tier, -shots, loaded != mine, place

        return min(range(len(ahead)), key=rank)
