"""The distributed engine: how it watches the store while workers elsewhere compute."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fewshot_bench.engines import distributed
from fewshot_bench.engines.base import EngineSetup, lost
from fewshot_bench.engines.distributed import POLL_SECONDS, DistributedEngine, Job, State, System
from fewshot_bench.store.store import Store
from tests.support.helpers import cells


@dataclass
class Clock:
    """A clock that stands still but for sleeps, and for what advances it."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        """The time in seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Advance; a run that does not end fails."""
        assert len(self.slept) < 100
        self.slept.append(seconds)
        self.now += seconds

    strftime = staticmethod(time.strftime)


@dataclass
class SlowSystem(System):
    """Takes 30 seconds to start; its worker has stored a record when its state is asked for."""

    clock: Clock
    name = "slow"
    job: Job | None = None

    def start(self, job: Job, workers: int) -> Job:
        """Connect slowly."""
        self.clock.now += 30
        self.job = job
        return job

    def state(self) -> State:
        """One worker, which has computed every cell."""
        assert self.job is not None
        for cell in self.job.cells:
            self.job.store.write(lost(cell, "elsewhere"))
        return State(1)

    def cancel(self) -> None:
        """Nothing runs."""


def test_a_slow_start_makes_no_slow_watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, store = Clock(), Store(tmp_path)
    store.create()
    monkeypatch.setattr(distributed, "time", clock)
    with DistributedEngine(EngineSetup(store), SlowSystem(clock)) as engine:
        assert len(list(engine.run(cells("zero-shot"), lambda *_: None))) == 1
    assert clock.slept == [POLL_SECONDS] * 2
