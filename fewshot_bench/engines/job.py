"""A job: cells that workers on other machines compute, and how one of these machines takes part."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import STORE, Settings, StoreSnapshot
from fewshot_bench.engines.local import LocalEngine
from fewshot_bench.store.leases import FOLDER as CLAIMS
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError, StoreError
from fewshot_bench.utils.files import write_whole
from fewshot_bench.utils.processes import interrupt_on_signals, this_machine

FOLDER = "jobs"
# How long a worker that has nothing left waits for what others hold, in times of a lease.
LINGER_LEASES = 2.0
STOPPED = 143


@dataclass(frozen=True)
class Job:
    """Cells, how they are run, and what the store held of them before, in `jobs/<name>/` there."""

    store: Store
    name: str
    cells: tuple[RunSpec, ...]
    settings: Settings
    before: StoreSnapshot
    # A claim that lives as long as the command which waits for the results.
    _wanted: Leases | None = None

    @classmethod
    def create(cls, before: StoreSnapshot, cells: Sequence[RunSpec], settings: Settings) -> Job:
        """A new job; StoreError where it cannot be written."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        store, stamps = before.store, {cell.key(): before.stamps.get(cell.key()) for cell in cells}
        wanted = Leases(store, name, settings.lease)
        job = cls(store, name, tuple(cells), settings, StoreSnapshot(store, stamps), wanted)
        values = {
            "cells": [cell.to_dict() for cell in cells],
            "settings": dataclasses.asdict(settings),
            "before": job.before.to_dict(),
        }
        try:
            write_whole(job.folder / "job.json", json.dumps(values).encode())
        except OSError as error:
            raise store.cannot_write(job.folder, error) from error
        wanted.claim(job._claim)
        return job

    @classmethod
    def read(cls, store: Store, name: str) -> Job:
        """The job of this name; StoreError where there is none or it is damaged."""
        if not name.replace("-", "").isalnum():
            raise StoreError(f"'{name}' is no name of a job (folders in {store.path / FOLDER})")
        path = store.path / FOLDER / name / "job.json"
        try:
            values: dict[str, Any] = json.loads(path.read_bytes())
            settings = dict(values["settings"])
            settings["devices"] = tuple(settings["devices"])
            cells = tuple(RunSpec.from_dict(cell) for cell in values["cells"])
            stamps = {key: tuple(s) if s else None for key, s in values["before"].items()}
            return cls(store, name, cells, Settings(**settings), StoreSnapshot(store, stamps))
        except FileNotFoundError:
            raise StoreError(f"no job '{name}' in '{store.path}'; give fsbench run again") from None
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            raise StoreError(f"job file '{path}' cannot be used ({error}); run again") from None

    @classmethod
    def finished(cls, store: Store) -> list[Path]:
        """Folders of the jobs of which nothing is left to compute and that nobody waits for."""
        found = []
        leases = Leases(store, "")
        for path in sorted((store.path / FOLDER).glob("*/job.json")):
            with suppress(StoreError):
                job = cls.read(store, path.parent.name)
                if leases.is_free(job._claim) and not job.open_cells():
                    found.append(job.folder)
        return found

    @property
    def folder(self) -> Path:
        """The folder of its files, logs of its workers included."""
        return self.store.path / FOLDER / self.name

    @property
    def command(self) -> list[str]:
        """The command of one worker: it claims open cells until none is left."""
        worker = ["worker", "--store", str(self.store.path), "--job", self.name]
        return [sys.executable, "-m", "fewshot_bench", *worker]

    @property
    def _claim(self) -> str:
        return f"job-{self.name}"

    def taken_over(self, mine: Job) -> Job | None:
        """This job, wanted by this command in place of `mine`, which ends; None if others wait."""
        wanted = Leases(self.store, mine.name, self.settings.lease)
        if wanted.claim(self._claim) is None:
            return None
        mine.remove()
        return dataclasses.replace(self, _wanted=wanted)

    def leave(self) -> None:
        """This command waits for it no longer."""
        if self._wanted is not None:
            self._wanted.close()

    def remove(self) -> None:
        """Remove a job that no worker was started for."""
        self.leave()
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.folder.parent, self.store.path / CLAIMS):
            with suppress(OSError):
                # What others have there stays.
                folder.rmdir()

    def open_cells(self) -> list[RunSpec]:
        """Cells that nobody has settled."""
        return [cell for cell in self.cells if self.before.new_record(cell) is None]

    def trouble(self) -> list[str]:
        """The reasons for which workers have given up."""
        found = []
        for path in sorted(self.folder.glob("trouble-*.txt")):
            with suppress(OSError):
                found.append(path.read_text(encoding="utf-8", errors="replace").strip())
        return list(dict.fromkeys(found))

    def forget_trouble(self) -> None:
        """Before workers are started anew."""
        for path in self.folder.glob("trouble-*.txt"):
            path.unlink(missing_ok=True)


def take_part(job: Job) -> int:
    """Compute what is open of a job, beside others who do the same; returns an exit code.

    Ends when everything is settled, or when others hold the rest and live. SIGTERM (a time limit
    that is near, a job that is preempted) gives claimed cells back.
    """
    interrupt_on_signals()
    try:
        _take_part(job)
    except KeyboardInterrupt:
        print("stopped; what was claimed is free again", flush=True)
        return STOPPED
    except FsbenchError as error:
        print(f"error: {error}", flush=True)
        _leave_word(job, error)
        return error.exit_code
    return 0


def take_part_quietly(job: Job) -> str:
    """As `take_part`, in a process that is not ours; returns what went wrong, or nothing."""
    try:
        _take_part(job)
    except FsbenchError as error:
        _leave_word(job, error)
        return str(error)
    return ""


def _leave_word(job: Job, error: FsbenchError) -> None:
    name = f"trouble-{this_machine()}-{os.getpid()}.txt"
    with suppress(OSError):
        write_whole(job.folder / name, f"{error}\n".encode())


def _take_part(job: Job) -> None:
    os.environ.update({**job.settings.variables, STORE: str(job.store.path)})
    cells = job.open_cells()
    linger = LINGER_LEASES * job.settings.lease
    with LocalEngine(job.store, job.settings, job.before, job.name, linger) as engine:
        for record in engine.run(cells, lambda *_: None):
            print(_line(record), flush=True)


def _line(record: Record) -> str:
    said = record.metrics.get("top1", "") if record.status == "done" else record.error
    return f"{record.spec.describe()}: {record.status} {said}"
