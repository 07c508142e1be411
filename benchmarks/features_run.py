"""CoOp with 1,000 classes and 16 shots in two workers, with and without a feature budget.

    python -m benchmarks.features_run [--epochs 200] [--batch 32] [--budget 2GB] [--classes 1000]

Images of 16 x 16 pixels go through a random one-layer image encoder with features of 512 values,
prompts through a text encoder of width 32, so that the harness dominates the cost. Prints the
largest resident set of a worker, the peak disk use of features, and whether accuracy, logits and
billed work equal those of a run with an unlimited budget. CoOp's schedule is `--epochs 200 --batch
32`, which is 100,000 steps; a larger batch draws the same views in fewer steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from safetensors.torch import save_file

from fewshot_bench.store.store import Store
from fewshot_bench.utils.text import size_text

# `folder:` data sets take validation images from the training images.
SHOTS, TRAIN, TEST, SIDE = 16, 24, 1, 16
CONFIG = {
    "model_cfg": {
        "embed_dim": 512,
        "vision_cfg": {
            "image_size": SIDE,
            "patch_size": SIDE,
            "width": 64,
            "head_width": 32,
            "layers": 1,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 1,
            "layers": 1,
        },
    },
    "preprocess_cfg": {},
}
LOOK_SECONDS = 0.1


def make_images(folder: Path, classes: int) -> None:
    """Write images of a shade and a texture per class, with noise."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        center = rng.integers(40, 216, (SIDE, SIDE, 3))
        for role, count in (("train", TRAIN), ("test", TEST)):
            target = folder / role / f"thing {label:04}"
            target.mkdir(parents=True)
            for number in range(count):
                noise = rng.normal(0, 30, (SIDE, SIDE, 3))
                pixels = (center + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(target / f"{number:02}.png")


def make_backbone(folder: Path) -> None:
    """Write a CLIP with random weights, as a folder that `local-dir:` reads."""
    from open_clip import CLIP

    folder.mkdir()
    torch.manual_seed(0)
    model = CLIP(**CONFIG["model_cfg"])
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")


@dataclass
class Seen:
    """Peak resident set of a worker, and peak size of features on disk, both in bytes."""

    worker: int = 0
    disk: int = 0

    def look(self, process: psutil.Process, features: Path) -> None:
        """Update both peaks from the processes and files that exist now."""
        for child in process.children(recursive=True):
            with suppress(psutil.Error):
                if any("engines.worker" in word for word in child.cmdline()):
                    self.worker = max(self.worker, child.memory_info().rss)
        sizes = 0
        for path in features.rglob("*"):
            with suppress(OSError):
                sizes += path.stat().st_size if path.is_file() else 0
        self.disk = max(self.disk, sizes)


def run(folder: Path, store: Path, budget: str, options: argparse.Namespace) -> tuple[Seen, object]:
    """Run two seeds in two workers; return peaks and results that must not depend on the budget."""
    command = [sys.executable, "-m", "fewshot_bench", "run", "-m", "coop", "--shots", str(SHOTS)]
    command += ["-d", f"folder:{folder / 'images'}", "--backbone", f"local-dir:{folder / 'clip'}"]
    command += ["--seeds", "1,2", "--jobs", "2", "--threads", "1", "--val", "none"]
    command += ["-o", f"coop.epochs={options.epochs}", "-o", f"coop.batch_size={options.batch}"]
    command += ["--store", str(store), "--feature-budget", budget]
    environment = {**os.environ, "FSBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    begun, seen = time.perf_counter(), Seen()
    with psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            seen.look(process, store / "cache" / "features")
            time.sleep(LOOK_SECONDS)
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}")
    found = []
    for record in sorted(Store(store).records(), key=lambda record: record.spec.key()):
        work = record.footprint["work"]
        found.append((record.metrics["top1"], record.digests["logits"], work["billed"]))
        print(
            f"budget {budget}: seed {record.spec.train_seed} top1 {record.metrics['top1']}, "
            f"{work['billed']['images']:,} images billed, {work['computed']['images']:,} computed"
        )
    print(
        f"budget {budget}: {time.perf_counter() - begun:,.0f} s, worker {size_text(seen.worker)}, "
        f"features on disk {size_text(seen.disk)} at most",
        flush=True,
    )
    return seen, found


def main() -> None:
    """Make the data and backbone, run with and without a budget, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--budget", default="2GB")
    parser.add_argument("--folder", help="where images and stores are put, and removed again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_images(folder / "images", options.classes)
        make_backbone(folder / "clip")
        _, bounded = run(folder, folder / "bounded", options.budget, options)
        _, free = run(folder, folder / "free", "100TB", options)
    print(f"equal accuracy, logits and bills: {bounded == free}")


if __name__ == "__main__":
    main()
