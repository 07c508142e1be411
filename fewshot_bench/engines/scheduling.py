"""Scheduling: cells that go to a worker as one group, and the group that suits a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewshot_bench.api.spec import RunSpec

# How far ahead a worker looks for what suits it.
LOOKED_AT = 400
# With so few support sets left for each worker, those with the most shots come first.
LAST_DRAWS = 2
# Cells of one fit go to one worker, which fits once.
Group = list[RunSpec]


def by_fit(cells: Sequence[RunSpec]) -> list[Group]:
    """Cells in groups that share a fit, in the order of each group's first cell."""
    groups: dict[str, Group] = {}
    for cell in cells:
        groups.setdefault(cell.fit_key(), []).append(cell)
    return list(groups.values())


def held_by(cell: RunSpec) -> tuple[Any, Any]:
    """The keys of data that a worker holds after a cell: backbone, data set, support set.

    Cells with an equal second part find their support images decoded and encoded in the worker.
    """
    loaded = cell.backbone, cell.precision, cell.dataset, tuple(sorted(map(str, cell.data.items())))
    half = "all" if cell.classes == "all" else "half"
    drawn = cell.protocol, cell.shots, cell.split_seed, cell.val, half, cell.picks
    return loaded, (loaded, drawn)


class Choice:
    """Cache-aware scheduling: groups whose data this worker holds, then those no other holds.

    Near the end those with the most shots come before others of the same data set: their fits take
    longest, and one that starts last keeps one worker busy while the others have nothing to do.
    """

    def __init__(self) -> None:
        self._held: dict[object, tuple[Any, Any]] = {}

    def took(self, worker: object, group: Group) -> None:
        """A worker computes a group and holds its data from now on."""
        self._held[worker] = held_by(group[0])

    def gone(self, worker: object) -> None:
        """A worker has ended."""
        self._held.pop(worker, None)

    def index(self, worker: object, waiting: Sequence[Group], avoid: Sequence[bool]) -> int:
        """The place in `waiting` of the group that suits best; earlier ones win where equal.

        avoid: per group, whether it was lost in the place where this worker runs.
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
