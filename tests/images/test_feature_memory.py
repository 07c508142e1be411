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

    def views(self, count, augment, rng=None, normalize=True, start=0, projected=True, order=None):
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


VIEWS, QUERIES, BLOCK, WIDE = 4, 200, 10, 1 << 15
BLOCKS = f"""
import json, resource, sys
from pathlib import Path
import torch
from fewshot_bench import Augment
from fewshot_bench.images import feature_cache
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.testing.toy import dataset_of

torch.set_num_threads(1)
feature_cache.MEMORY = 2**22
shape = {QUERIES}, 3, 32, 32
pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).byte()
dataset, items = dataset_of(pixels, [0] * {QUERIES})

class Wide:
    device, weights_digest, image_size = torch.device("cpu"), "wide", (32, 32)

    def preprocess(self, image):
        return image.convert("RGB")

    def normalize(self, pixels):
        return pixels.float() / 255

    def encode_image(self, pixels):
        return pixels.mean(dim=(1, 2, 3))[:, None] + torch.arange({WIDE}) / {WIDE}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def encode_blocks(end):
    for part in torch.arange(end).split({BLOCK}):
        with meter.phase("predict"):
            views = queries.views({VIEWS}, Augment(), order=part)
        assert views.shape == ({VIEWS}, {BLOCK}, {WIDE})

meter, backbone = Meter(Wide.device), Wide()
images, cache = ImageSource.of(dataset, items, backbone), FeatureCache(None)
queries = image_view(images, cache, meter, phase="encode_queries")
encode_blocks(2 * {BLOCK})
before = peak()
encode_blocks({QUERIES})
print(json.dumps([peak() - before, meter.images_encoded]))
"""


def test_views_of_many_queries_take_the_memory_of_a_block() -> None:
    said = subprocess.run(
        [sys.executable, "-c", BLOCKS],
        env={"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    grown, encoded = json.loads(said.stdout)
    assert encoded == VIEWS * QUERIES
    assert 4 * WIDE * VIEWS * QUERIES > 100_000_000
    assert grown < 25_000_000
