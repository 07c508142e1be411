"""Random `kill -9` of workers, of the parent, and of both, while a matrix runs.

    python -m benchmarks.kills [--kills 200] [--random 0]

A matrix of 60 cells runs undisturbed. Then it is started in another store and processes are killed
at random moments; whenever the parent is dead, the same command is started again. Once it
completes, the store is verified and its metrics and logits are compared with the undisturbed ones;
while kills remain, the next matrix begins.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from fewshot_bench.store.store import Store
from tests.support.helpers import flags, is_running

METHODS = "zero-shot,linear-probe,tip-adapter,tip-adapter-f,coop,clip-lora"
SEEDS = 10
OPTIONS = (
    "clip-lora.iterations=40",
    "coop.epochs=5",
    "coop.context_tokens=4",
    "tip-adapter-f.epochs=5",
    "linear-probe.search_steps=1",
)
CELLS = len(METHODS.split(",")) * SEEDS
# Seconds between the start of a run, or the last kill, and the next kill.
LONGEST = 10.0
LAST_RUN = 900.0
# Time for orphans to exit: a new worker checks for its parent only once Python has started.
WORKERS_END = 10.0


def start(store: Path) -> subprocess.Popen[bytes]:
    """Start the run whose processes are killed."""
    command = [sys.executable, "-m", "fewshot_bench", "run", "-m", METHODS, "-d", "digits"]
    few = ["--shots", "1", "--seeds", f"1-{SEEDS}", "--limit", "40", "--jobs", "2"]
    return subprocess.Popen(
        [*command, *few, *flags(OPTIONS), "--store", str(store)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )


def results(store: Path) -> dict[str, object]:
    """Status, metrics and logits digest by key, equal between runs; SystemExit for a double key."""
    found: dict[str, object] = {}
    for record in Store(store).records():
        key = record.spec.key()
        if key in found:
            raise SystemExit(f"{record.spec.describe()} is there twice")
        found[key] = record.status, record.metrics, record.digests["logits"]
    return found


def workers(parent: int) -> list[int]:
    """Process ids of the workers of a run."""
    import psutil

    with suppress(psutil.Error):
        return [child.pid for child in psutil.Process(parent).children()]
    return []


def strike(parent: int, rng: random.Random, counts: Counter[str]) -> None:
    """Kill a random choice of one worker, the parent, or the parent and all workers."""
    living = workers(parent)
    whom = rng.choice(["worker", "worker", "parent", "both"])
    victims = {"worker": rng.sample(living, min(1, len(living))), "parent": [parent]}
    for pid in victims.get(whom, [parent, *living]):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            counts[f"pid of {whom}"] += 1
    counts[whom] += bool(living) or whom != "worker"


def disturbed(store: Path, rng: random.Random, kills: int, counts: Counter[str]) -> None:
    """Restart the run until it completes, with up to `kills` kills in all matrices together."""
    while True:
        process = start(store)
        before = set(workers(process.pid))
        while process.poll() is None and total(counts) < kills:
            end = time.monotonic() + rng.uniform(0.5, LONGEST)
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
                before |= set(workers(process.pid))
            if process.poll() is None:
                strike(process.pid, rng, counts)
                time.sleep(0.1)
        code = process.wait(LAST_RUN)
        end = time.monotonic() + WORKERS_END
        while (left := [pid for pid in before if is_running(pid)]) and time.monotonic() < end:
            time.sleep(0.1)
        if left:
            raise SystemExit(f"workers {left} live on without their parent")
        if code == 0:
            return


def total(counts: Counter[str]) -> int:
    """Number of kills so far."""
    return counts["worker"] + counts["parent"] + counts["both"]


def verify(store: Path, expected: dict[str, object]) -> None:
    """Raise SystemExit unless the store verifies and equals the undisturbed one."""
    command = [sys.executable, "-m", "fewshot_bench", "store", "verify", "--store", str(store)]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    if said.returncode:
        raise SystemExit(said.stdout + said.stderr)
    found = results(store)
    if found != expected:
        keys = {key for key in expected | found if expected.get(key) != found.get(key)}
        raise SystemExit(f"{len(keys)} cells differ in {store}: {sorted(keys)[:5]}")


def main() -> None:
    """Run undisturbed, then with kills; compare the results and print counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--random", type=int, default=0)
    asked = parser.parse_args()
    rng, counts, matrices = random.Random(asked.random), Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if start(folder / "undisturbed").wait(LAST_RUN):
            raise SystemExit("the undisturbed run failed")
        expected = results(folder / "undisturbed")
        if len(expected) != CELLS:
            raise SystemExit(f"{len(expected)} cells, expected {CELLS}")
        while total(counts) < asked.kills:
            matrices += 1
            store = folder / f"disturbed-{matrices}"
            disturbed(store, rng, asked.kills, counts)
            verify(store, expected)
            print(f"{matrices} matrices of {CELLS} cells, kills so far: {dict(counts)}", flush=True)
    print(f"{total(counts)} kills: every cell there once, valid, and equal to an undisturbed run's")


if __name__ == "__main__":
    main()
