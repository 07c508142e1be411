"""Retry policy for cells whose worker died: another slot, less memory, or a failed record."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import TRIES, EngineError, Settings, lost
from fewshot_bench.engines.process import Worker
from fewshot_bench.engines.scheduling import Group

# Workers in a row that end before they are ready: then something is wrong with all of them.
STILLBORN = 20
# The same for workers that hang, each of which takes its time.
STUCK = 3


def killed_for_memory() -> int:
    """The number of processes that this machine's kernel ended for lack of memory, if it counts."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    counts = [int(line.split()[1]) for line in lines if line.startswith("oom_kill ")]
    return counts[0] if counts else 0


@dataclass
class Losses:
    """The workers that were lost in one run, and what follows for their cells."""

    settings: Settings
    _tries: dict[str, int] = field(default_factory=dict)
    _parts: dict[str, int] = field(default_factory=dict)
    _places: dict[str, str] = field(default_factory=dict)
    _incidents: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    _memory_kills: int = field(default_factory=killed_for_memory)
    _stillborn: int = 0

    def parts(self, cells: Group) -> int:
        """Into how many parts a fit is divided from the start, for the sake of memory."""
        return self._parts.get(cells[0].fit_key(), 1)

    def incidents(self, cells: Group) -> Mapping[str, list[dict[str, str]]]:
        """By key, what happened to these cells before."""
        keys = [cell.key() for cell in cells]
        return {key: self._incidents[key] for key in keys if key in self._incidents}

    def happened_at(self, group: Group, place: str) -> bool:
        """True when a worker was lost in this slot with this group."""
        return self._places.get(group[0].key()) == place

    def started(self) -> None:
        """A worker is ready: whatever ended others before they were is over."""
        self._stillborn = 0

    def stillborn(self, worker: Worker) -> None:
        """A worker ended before it was ready; EngineError when it is no accident."""
        self._stillborn += -(-STILLBORN // STUCK) if worker.ended else 1
        code = worker.process.returncode
        if self._stillborn >= STILLBORN or (code is not None and code > 0):
            said = " ".join(worker.tail.split())[-500:]
            raise EngineError(
                f"worker processes cannot start ({self._how(worker)}): {said or 'no message'}"
            )

    def judge(self, worker: Worker, fitted: Collection[str]) -> tuple[list[Record], Group]:
        """Records of cells that have failed, and the cells to try once more.

        fitted: fits of which a cell was finished. Where none was, the fit itself is taken for the
        reason, and all its cells fail.
        """
        cell, cells = worker.cells[0], worker.cells
        key, how = cell.key(), self._how(worker)
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        failed: list[Record] = []
        if worker.ended == "timeout" or tries >= TRIES:
            count = 1 if cell.fit_key() in fitted else len(cells)
            kind = "TimeLimit" if worker.ended == "timeout" else "WorkerLost"
            times = "" if kind == "TimeLimit" else f" {tries} times in this cell"
            text = f"the worker process was {how}{times}"
            failed = [lost(one, text, worker.tail, kind=kind) for one in cells[:count]]
            cells = cells[count:]
        elif self._killed_for_memory():
            self._parts[cell.fit_key()] = 2 * worker.parts
            how += "; tried again with less memory"
        for left in cells:
            self._happened(left, how)
        self._places[key] = worker.slot.name
        return failed, cells

    def _happened(self, cell: RunSpec, how: str) -> None:
        incident = {"kind": "retried", "text": f"the worker process was {how}"}
        self._incidents.setdefault(cell.key(), []).append(incident)

    def _killed_for_memory(self) -> bool:
        before, self._memory_kills = self._memory_kills, killed_for_memory()
        return self._memory_kills > before

    def _how(self, worker: Worker) -> str:
        if worker.ended == "timeout":
            return f"ended after the time limit of {self.settings.timeout:g} s for a cell"
        if worker.ended == "hang":
            return "ended because it gave no sign of life"
        return worker.how_it_ended()
