"""Memory of a process that streams views within a budget: a small version of CoOp's 1,000 classes.

`benchmarks/features_run.py` measures the same with workers and a fit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fewshot_bench.images.feature_files import kept_row_bytes

EPOCHS, IMAGES, WIDTH = 60, 500, 256
SCRIPT = f"""
import hashlib, json, os, resource, sys
from pathlib import Path
import torch
from fewshot_bench.images import feature_cache
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.feature_files import Origin
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.training import batches

torch.set_num_threads(1)
batches.VIEW_BYTES, feature_cache.MEMORY = 2**20, 2**20
folder, origin = Path(sys.argv[1]), Origin("set", "views of seed 1", passing=True)
cache, meter, computed = FeatureCache(folder), Meter(torch.device("cpu")), 0

class Images:
    def __len__(self):
        return {IMAGES}

    def views(self, count, augment, rng=None, normalize=True, start=0, projected=True):
        numbers = range(start * {IMAGES}, (start + count) * {IMAGES})

        def compute(places):
            global computed
            computed += len(places)
            # Below one half, so that no sum is rounded up to the next number.
            return torch.tensor([numbers[p] for p in places]).view(-1, 1) + torch.rand({WIDTH}) / 2

        keys = [hashlib.sha256(str(number).encode()).digest() for number in numbers]
        with meter.phase("encode_support"):
            rows = cache.rows({{"a": 1}}, keys, compute, meter, origin)
        return rows.view(count, {IMAGES}, {WIDTH})

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def streamed(epochs):
    for number, views in enumerate(batches.epoch_views(Images(), epochs, None, {WIDTH})):
        assert (views[:, 0].int() == torch.arange({IMAGES}) + number * {IMAGES}).all()

streamed(4)
before = peak()
streamed({EPOCHS})
streamed({EPOCHS})
kept = sum(path.stat().st_size for path in folder.rglob("*.views"))
print(json.dumps([peak() - before, kept, computed]))
"""


def test_streaming_takes_neither_memory_nor_more_disk_than_the_budget(tmp_path: Path) -> None:
    budget = 10_000_000
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={"FSBENCH_FEATURE_BUDGET": str(budget), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    grown, kept, computed = json.loads(said.stdout)
    rows = EPOCHS * IMAGES
    assert 4 * WIDTH * rows > 3 * budget
    assert grown < 15_000_000
    assert budget / 2 < kept <= budget
    # The second pass does not recompute what was kept.
    assert rows < computed <= 2 * rows - kept // kept_row_bytes(WIDTH, "fp32")
