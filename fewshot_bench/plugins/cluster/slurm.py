"""The engine `slurm`: one job array of workers that claim cells; needs no accounting."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot_bench.engines.base import EngineError, EngineSetup, Settings, StoreSnapshot
from fewshot_bench.engines.distributed import DistributedEngine, Job, State, System
from fewshot_bench.store.store import JOBS, Store
from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.files import write_whole

# Seconds before the time limit at which Slurm signals a worker, which then releases its cells.
NOTICE_SECONDS = 60
ANSWER_SECONDS = 60.0
# How long the controller may be unreachable; workers do not need it.
PATIENCE_SECONDS = 600.0
ARRAY = "#SBATCH --array="
IDS = "slurm.txt"
SCRIPT = "job.sh"
# Characters of a directive: none that ends it, opens another one or is special to sh.
_WORD = re.compile(r"[A-Za-z0-9_.,:@+=\[\]/-]+")
_TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}")
# Options that Slurm calls by another name.
_NAMES = {"cpus": "cpus-per-task"}
# Directives that say how many cores a worker has.
_CPUS = ("--cpus-per-task=", "--cpus-per-gpu=", "--exclusive")
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
# Reasons that last until someone changes the job or the limits of the cluster.
_ENDLESS = re.compile(
    r"Partition(Time|Node)Limit|(QOS|Assoc)Max\w+PerJob(Limit)?|Invalid(Account|QOS)"
)
_GONE = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE")


def make_directives(options: Mapping[str, Any]) -> list[str]:
    """Directives such as `--name=value`; UsageError for a value that is no plain word.

    options: resources of each worker by name; empty values are left to the cluster.
    """
    given = {name: str(value) for name, value in options.items() if name != "sbatch" and value}
    for name, value in [*given.items(), *(("sbatch", text) for text in options.get("sbatch", ()))]:
        if not _WORD.fullmatch(value):
            raise UsageError(
                f"--{name} '{value}': expected letters, digits and any of _ . , : @ + = [ ] / -"
            )
    limit = given.get("time", "")
    if limit and not _TIME.fullmatch(limit):
        raise UsageError(
            f"--time '{limit}': expected minutes, H:MM:SS or D-HH:MM:SS, such as 4:00:00"
        )
    if limit and 0 < _seconds(limit) <= NOTICE_SECONDS:
        raise UsageError(
            f"--time '{limit}': workers stop {NOTICE_SECONDS} s before their time limit, "
            "and would compute nothing; expected more, such as 4:00:00"
        )
    for text in options.get("sbatch", ()):
        if not re.fullmatch(r"--[a-z-]+(=.+)?", text):
            raise UsageError(f"--sbatch '{text}': expected --name or --name=value")
    directives = [f"--{_NAMES.get(name, name)}={value}" for name, value in given.items()]
    return [*directives, *options.get("sbatch", ())]


def _seconds(time_limit: str) -> int:
    """Seconds of a time limit in one of Slurm's forms; 0 stands for no limit."""
    days, dash, rest = time_limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    # With days the first part is hours; without, one or two parts begin with minutes.
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    return 86400 * int(days or 0) + sum(n * unit for n, unit in zip(parts, units, strict=False))


def write_script(job: Job, workers: int, directives: Sequence[str]) -> str:
    """The batch script of a job; UsageError for a path that Slurm cannot be given."""
    for path in (job.folder, job.store.path, Path(sys.executable)):
        if re.search(r"[\n\r\"\\]", str(path)):
            raise UsageError(f"'{path}': Slurm cannot be given a path with quotes or line ends")
    log = str(job.folder).replace("%", "%%")
    lines = [
        "#!/bin/sh",
        f"#SBATCH --job-name=fsbench-{job.name}",
        f"{ARRAY}0-{workers - 1}",
        f'#SBATCH --output="{log}/worker-%a.log"',
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        f"#SBATCH --signal=B:TERM@{NOTICE_SECONDS}",
        "#SBATCH --ntasks=1",
        *(f"#SBATCH {directive}" for directive in directives),
        "",
    ]
    return "\n".join([*lines, f"exec {shlex.join(job.command)}", ""])


@dataclass
class Slurm(System):
    """Workers of one job as one or more job arrays."""

    store: Store
    directives: Sequence[str] = ()
    name: str = "slurm"
    ids: list[str] = field(default_factory=list)
    _heard: float = 0.0

    def start(self, job: Job, workers: int) -> Job:
        """Submit an array, or take over one that an earlier call submitted for these cells."""
        self._heard = time.monotonic()
        if not self.ids:
            earlier, self.ids = self._take_over_queued(job)
            if earlier is not None:
                return earlier
        text = write_script(job, workers, self.directives)
        path = job.folder / SCRIPT
        try:
            write_whole(path, text.encode())
        except OSError as error:
            raise self.store.cannot_write(path, error) from error
        said = _ask("sbatch", "--parsable", str(path))
        number = said.strip().partition(";")[0]
        if not number.isdigit():
            raise EngineError(f"sbatch answered '{said.strip()[:200]}', expected a job's number")
        self.ids.append(number)
        with suppress(OSError):
            write_whole(job.folder / IDS, "\n".join(self.ids).encode())
        return job

    def state(self) -> State:
        """State from squeue; tasks that it no longer lists have ended."""
        name = f"job {','.join(self.ids)}"
        try:
            rows = _queue(self.ids)
        except EngineError as error:
            if time.monotonic() - self._heard > PATIENCE_SECONDS:
                raise EngineError(
                    f"{error}, for {PATIENCE_SECONDS / 60:g} minutes now; {name} was left as it "
                    "is, and the same command again follows it"
                ) from error
            return State(1, f"{name}: not known at the moment ({error})")
        self._heard = time.monotonic()
        self._refuse_endless(name, [row for row in rows if row[0] not in _GONE])
        counts = Counter(state for state, _ in rows if state not in _GONE)
        reasons = sorted({reason for state, reason in rows if state in _WAITING and reason})
        text = ", ".join(f"{count} {state.lower()}" for state, count in sorted(counts.items()))
        waits = [reason for reason in reasons if reason not in ("None", "Priority", "Resources")]
        if waits:
            text += f" ({', '.join(waits)})"
        alive = sum(counts.values())
        return State(alive, f"{name}: {text}" if text else "", () if alive else self._why())

    def _refuse_endless(self, name: str, rows: Sequence[tuple[str, str]]) -> None:
        """EngineError if all tasks ask for more than they can get; the arrays are cancelled.

        Of several partitions, the reason of one says nothing about the others.
        """
        partitions = [text for text in self.directives if text.startswith("--partition=")]
        several = any("," in text for text in partitions)
        endless = [state in _WAITING and _ENDLESS.fullmatch(reason) for state, reason in rows]
        if several or not endless or not all(endless):
            return
        self.cancel()
        reasons = ", ".join(sorted({reason for _, reason in rows}))
        raise EngineError(
            f"{name} would wait without end ({reasons}) and was cancelled: ask for less, such as a "
            "shorter --time, or for another --partition; 'scontrol show partition' shows the limits"
        )

    def preview(self, workers: int) -> str:
        """The batch script."""
        if not workers:
            return ""
        job = Job(self.store, "NAME", (), Settings(), StoreSnapshot(self.store))
        return write_script(job, workers, self.directives)

    def cancel(self) -> None:
        """Cancel all submitted arrays."""
        if self.ids:
            with suppress(EngineError):
                _ask("scancel", *self.ids)

    def _why(self) -> tuple[str, ...]:
        """End states of the jobs, as long as Slurm keeps them."""
        reasons = []
        for number in self.ids:
            with suppress(EngineError):
                for line in _ask("scontrol", "show", "job", number, "-o").splitlines():
                    words = dict(word.partition("=")[::2] for word in line.split())
                    state, reason = words.get("JobState", ""), words.get("Reason", "None")
                    if state and state != "COMPLETED":
                        code = words.get("ExitCode", "")
                        reasons.append(f"{state.lower()}, reason {reason}, exit code {code}")
        return tuple(dict.fromkeys(reasons))

    def _take_over_queued(self, job: Job) -> tuple[Job | None, list[str]]:
        """A queued job for all of these cells, submitted alike, to take over, and its arrays."""
        if job.settings.force:
            return None, []
        for path in sorted((self.store.path / JOBS).glob(f"*/{IDS}"), reverse=True):
            # ValueError for a text that is no UTF-8.
            with suppress(FsbenchError, OSError, ValueError):
                earlier = Job.read(self.store, path.parent.name)
                numbers = path.read_text(encoding="ascii").split()
                there = {cell.key() for cell in earlier.open_cells()}
                scripts = (
                    write_script(earlier, 1, self.directives),
                    (earlier.folder / SCRIPT).read_text(encoding="utf-8"),
                )
                # As this one would be submitted, except for the number of workers.
                ours, theirs = (re.sub(f"{ARRAY}.*", "", text) for text in scripts)
                if (
                    earlier.settings == job.settings
                    # Ours is read second, since the workers of the earlier job go on.
                    and there >= {cell.key() for cell in job.open_cells()}
                    and ours == theirs
                    and any(state not in _GONE for state, _ in _queue(numbers))
                    and (taken := earlier.take_over(job)) is not None
                ):
                    return taken, numbers
        return None, []


def _queue(ids: Sequence[str]) -> list[tuple[str, str]]:
    """State and reason of every task of the jobs that Slurm still has."""
    rows = []
    for number in ids:
        if not number.isdigit():
            continue
        try:
            said = _ask("squeue", "--noheader", "--array", f"--jobs={number}", "--format=%T|%r")
        except EngineError as error:
            if "nvalid job id" in str(error):
                continue
            raise
        for line in said.splitlines():
            state, _, reason = line.strip().partition("|")
            if state:
                rows.append((state, reason))
    return rows


def _ask(*command: str) -> str:
    """Output of a Slurm command; EngineError with its reason if it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        raise EngineError(
            f"'{command[0]}' is not installed here; --engine slurm needs a machine of the cluster "
            "(or leave --engine out)"
        ) from None
    except subprocess.TimeoutExpired:
        raise EngineError(f"{command[0]} gave no answer in {ANSWER_SECONDS:g} s") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[:400]
        raise EngineError(f"{command[0]} failed: {said or f'exit code {done.returncode}'}")
    return done.stdout


def build(setup: EngineSetup) -> DistributedEngine:
    """The engine of these options; UsageError for values that no directive can hold.

    Also under --offline, since the commands of Slurm ask its controller over the network.
    """
    if offline.is_on():
        raise UsageError(
            "--engine slurm talks over the network, which --offline forbids: leave --offline out, "
            f"and give --sbatch --export=ALL,{offline.VARIABLE}=1 to have it in the jobs"
        )
    options = dict(setup.options)
    most = options.pop("array")
    if not any(text.startswith(_CPUS) for text in options["sbatch"]):
        options["cpus"] = options["cpus"] or setup.cores
    directives = make_directives(options)
    stated = (text.partition("=")[2] for text in directives if text.startswith("--cpus-per-task="))
    cores = next((int(number) for number in stated if number.isdigit()), setup.cores)
    return DistributedEngine(setup, Slurm(setup.store, directives), most, cores)
