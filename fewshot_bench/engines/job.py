"""A job: cells for workers on other machines (`Job`), and a worker's part in it (`take_part`)."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fewshot_bench.api.registry import hosting
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.asking import hook_environment
from fewshot_bench.engines.base import Settings, StoreSnapshot
from fewshot_bench.engines.local import LocalEngine
from fewshot_bench.engines.reporting import outcome
from fewshot_bench.store.leases import FOLDER as CLAIMS
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.store import JOBS, Store
from fewshot_bench.utils.errors import FsbenchError, StoreError
from fewshot_bench.utils.files import write_whole
from fewshot_bench.utils.processes import interrupt_on_signals, this_machine

# Lease durations that a worker without cells of its own waits for cells claimed by others.
LINGER_LEASES = 2.0
STOPPED = 143
TROUBLE = "trouble-{}.txt"


class _Saved(msgspec.Struct):
    """The content of a job's file."""

    cells: list[dict[str, Any]]
    settings: Settings
    # Stamps of the store before, by key.
    before: Mapping[str, bytes]


@dataclass(frozen=True)
class Job:
    """Cells, settings and a snapshot of the store before, saved in the store's `jobs/<name>/`."""

    store: Store
    name: str
    cells: tuple[RunSpec, ...]
    settings: Settings
    before: StoreSnapshot
    # Holds a claim as long as the command that waits for the results runs.
    _wanted: Leases | None = None

    @classmethod
    def create(cls, before: StoreSnapshot, cells: Sequence[RunSpec], settings: Settings) -> Job:
        """Create and claim a new job; StoreError if it cannot be written."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        store = before.store
        wanted = Leases(store, name, settings.lease)
        job = cls(store, name, tuple(cells), settings, before.only(cells), wanted)
        saved = _Saved([cell.to_dict() for cell in cells], settings, job.before.stamps)
        try:
            # Names of files may hold what UTF-8 cannot.
            text = json.dumps(msgspec.to_builtins(saved))
            write_whole(job.folder / "job.json", text.encode())
        except OSError as error:
            raise store.cannot_write(job.folder, error) from error
        wanted.claim(job._claim)
        return job

    @classmethod
    def read(cls, store: Store, name: str) -> Job:
        """The job of this name; StoreError if it does not exist or is damaged."""
        if not name.replace("-", "").isalnum():
            raise StoreError(f"'{name}' is no name of a job (folders in {store.path / JOBS})")
        path = store.path / JOBS / name / "job.json"
        try:
            saved = msgspec.convert(json.loads(path.read_bytes()), _Saved)
            cells = tuple(map(RunSpec.from_dict, saved.cells))
            return cls(store, name, cells, saved.settings, StoreSnapshot(store, saved.before))
        except FileNotFoundError:
            raise StoreError(f"no job '{name}' in '{store.path}'; give fsbench run again") from None
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise StoreError(f"job file '{path}' cannot be used ({error}); run again") from None

    @classmethod
    def list_finished(cls, store: Store) -> list[Path]:
        """Folders of jobs without open cells that no command waits for."""
        folders = []
        leases = Leases(store, "")
        for path in sorted((store.path / JOBS).glob("*/job.json")):
            with suppress(StoreError):
                job = cls.read(store, path.parent.name)
                if leases.is_free(job._claim) and not job.open_cells():
                    folders.append(job.folder)
        return folders

    @property
    def folder(self) -> Path:
        """The folder of the job's files, including logs of its workers."""
        return self.store.path / JOBS / self.name

    @property
    def command(self) -> list[str]:
        """The command of one worker: it claims open cells until none is left."""
        worker = ["worker", "--store", str(self.store.path), "--job", self.name]
        return [sys.executable, "-m", "fewshot_bench", *worker]

    @property
    def _claim(self) -> str:
        return f"job-{self.name}"

    def take_over(self, mine: Job) -> Job | None:
        """This job, claimed by this command in place of `mine`, which is removed.

        None if another command waits for this job.
        """
        wanted = Leases(self.store, mine.name, self.settings.lease)
        if wanted.claim(self._claim) is None:
            return None
        mine.remove()
        return dataclasses.replace(self, _wanted=wanted)

    def leave(self) -> None:
        """Release this command's claim on the job."""
        if self._wanted is not None:
            self._wanted.close()

    def remove(self) -> None:
        """Remove a job for which no worker was started."""
        self.leave()
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.folder.parent, self.store.path / CLAIMS):
            with suppress(OSError):
                # Fails, as intended, if the folder holds files of others.
                folder.rmdir()

    def open_cells(self) -> list[RunSpec]:
        """Cells without a new record."""
        return [cell for cell in self.cells if self.before.new_record(cell) is None]

    def trouble(self) -> list[str]:
        """The reasons why workers have given up."""
        reasons = []
        for path in sorted(self.folder.glob(TROUBLE.format("*"))):
            with suppress(OSError):
                reasons.append(path.read_text(encoding="utf-8", errors="replace").strip())
        return list(dict.fromkeys(reasons))

    def note_trouble(self, text: str) -> None:
        """Write down why this worker gives up."""
        name = TROUBLE.format(f"{this_machine()}-{os.getpid()}")
        with suppress(OSError):
            write_whole(self.folder / name, f"{text}\n".encode())

    def forget_trouble(self) -> None:
        """Remove recorded reasons before workers are restarted."""
        for path in self.folder.glob(TROUBLE.format("*")):
            path.unlink(missing_ok=True)

    def compute(self) -> None:
        """Compute the open cells, concurrently with other workers; FsbenchErrors are noted, too.

        Ends when all cells are settled, or when live workers hold the remaining ones.
        """
        linger = LINGER_LEASES * self.settings.lease
        try:
            with (
                hosting(),
                hook_environment(self.store.path, self.settings.variables),
                LocalEngine(self.store, self.settings, self.before, self.name, linger) as engine,
            ):
                for record in engine.run(self.open_cells(), lambda *_: None):
                    print(outcome(record), flush=True)
                    if record.transient and self.before.new_record(record.spec) is None:
                        # The earlier result is kept: the store says nothing of this failure.
                        error = record.error or {}
                        self.note_trouble(f"{record.spec.describe()}: {error['message']}")
        except FsbenchError as error:
            self.note_trouble(str(error))
            raise


def take_part(job: Job) -> int:
    """`Job.compute` as a command; returns an exit code.

    SIGTERM (a time limit is near, the job is preempted) releases claimed cells.
    """
    interrupt_on_signals()
    try:
        job.compute()
    except KeyboardInterrupt:
        print("stopped; what was claimed is free again", flush=True)
        return STOPPED
    except FsbenchError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    return 0
