"""Many `fsbench run` of one matrix at once on one store: is every cell computed exactly once?

    python -m benchmarks.crowd [--runs 16] [--cells 60]

The method only waits and appends a line to a file at every fit, so that fits can be counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fewshot_bench.store.store import Store
from tests.support.helpers import install_methods

SECONDS = "0.5"
LONGEST = 900.0


def main() -> None:
    """Start all runs at once, wait for them, and count fits, records and claims."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--cells", type=int, default=60)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, store = Path(name), Path(name) / "store"
        install_methods(folder)
        log = folder / "fits"
        path = os.pathsep.join([str(folder), *sys.path])
        environment = dict(os.environ) | {"PYTHONPATH": path, "FSBENCH_TEST_FITS": str(log)}
        command = [sys.executable, "-m", "fewshot_bench", "run", "-m", "slow", "-d", "digits"]
        command += ["-o", f"seconds={SECONDS}", "--shots", "1", "--seeds", f"1-{asked.cells}"]
        command += ["--limit", "20", "--jobs", "1", "--store", str(store)]
        start = time.perf_counter()
        runs = [
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            for _ in range(asked.runs)
        ]
        codes = [run.wait(LONGEST) for run in runs]
        seconds = time.perf_counter() - start
        fits = len(log.read_text(encoding="utf-8").split())
        records = list(Store(store).records())
        keys = {record.spec.key() for record in records}
        verify = [sys.executable, "-m", "fewshot_bench", "store", "verify", "--store", str(store)]
        sound = subprocess.run(verify, check=False, capture_output=True, text=True)
        claims = len(list((store / "claims").iterdir()))
    print(
        f"{asked.runs} runs of {asked.cells} cells in {seconds:.0f} s: exit codes {set(codes)}, "
        f"{fits} fits, {len(records)} records of {len(keys)} cells, {claims} claims left; "
        f"verify says {sound.stdout.splitlines()[-1:]} (exit code {sound.returncode})"
    )
    right = set(codes) == {0} and fits == len(keys) == asked.cells and sound.returncode == 0
    sys.exit(0 if right and not claims else 1)


if __name__ == "__main__":
    main()
