"""Work of a whole matrix on one data set compared with that of the official scripts.

    python -m benchmarks.matrix [--classes 100] [--shots 1,2,4,8,16] [--seeds 1,2,3] [--store DIR]

Synthetic images in class folders are run with the backbone `tiny` through the command line, and the
work counted in the records is summed. The official scripts' work is computed: every cell by itself,
77 tokens, the image encoder in every step. `--store` reads a finished run instead.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fsbench_methods.coop import CoOp
from PIL import Image

from fewshot_bench.api.record import Record
from fewshot_bench.backbones.block_flops import block_flops
from fewshot_bench.backbones.embedded import load_tiny
from fewshot_bench.backbones.packing import Layout
from fewshot_bench.backbones.transformer import Block
from fewshot_bench.backbones.vision_tower import VisionTower
from fewshot_bench.profiling.cost import Cost
from fewshot_bench.store.store import Store

METHODS = ("zero-shot", "linear-probe", "tip-adapter", "coop", "clip-lora")
CONTEXT, BATCH, VIEWS, ITERATIONS = 77, 32, 10, 500
TRAIN, VAL = 20, 4


@dataclass(frozen=True)
class Model:
    """FLOPs of one image, and of one prompt of 77 tokens, through the full encoders."""

    image: int
    prompt: int

    @classmethod
    def of(cls, backbone: object) -> Model:
        """Count FLOPs from the towers, with every token in every block."""
        vision: VisionTower = backbone.image_tower()  # type: ignore[attr-defined]
        text = backbone.text_tower()  # type: ignore[attr-defined]
        one = torch.zeros(1, dtype=torch.long)
        patches = 2 * (vision.tokens - 1) * vision.patch_weight.numel()
        return cls(
            patches + _blocks(vision.blocks, Layout(0, ((1, vision.tokens),), False, one)),
            _blocks(text.blocks, Layout(0, ((1, CONTEXT),), True, one)),
        )


def _blocks(blocks: Iterable[Block], layout: Layout) -> int:
    return sum(block_flops(block, layout, pooled=False) for block in blocks)


def official(method: str, shots: int, classes: int, queries: int, model: Model) -> Cost:
    """Work of one run of the official scripts."""
    support, validation = classes * shots, classes * min(shots, 4)
    images, prompts, trained_images, trained_prompts = queries, classes, 0, 0
    if method == "linear-probe":
        images, prompts = queries + support + validation, 0
    elif method == "tip-adapter":
        images = queries + VIEWS * support + validation
    elif method == "coop":
        steps = CoOp().epochs_for(shots) * max(1, support // BATCH)
        images, trained_prompts = queries + steps * min(BATCH, support), steps * classes
    elif method == "clip-lora":
        steps = ITERATIONS * shots
        epochs, rest = divmod(steps, math.ceil(support / BATCH))
        trained_images = epochs * support + min(support, rest * BATCH)
        trained_prompts = steps * classes
    # The backward pass through frozen weights costs as much as the forward pass.
    flops = (images + 2 * trained_images) * model.image
    flops += (prompts + 2 * trained_prompts) * model.prompt
    tokens = CONTEXT * (prompts + trained_prompts)
    return Cost(images + trained_images, tokens, flops)


def made_up(folder: Path, classes: int, queries: int) -> None:
    """Write class folders of noise around one color per class."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        color = rng.integers(0, 255, 3)
        for role, count in (("train", TRAIN), ("val", VAL), ("test", queries // classes)):
            place = folder / role / f"kind {label}"
            place.mkdir(parents=True)
            for index in range(count):
                noise = rng.normal(color, 60, (40, 40, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(place / f"{index}.jpg")


def run(folder: Path, store: Path, shots: str, seeds: str) -> None:
    """Run the matrix through the command line."""
    command = [sys.executable, "-c", "from fewshot_bench.cli.main import main; main()", "run"]
    command += ["-m", ",".join(METHODS), "-d", f"folder:{folder}", "--shots", shots]
    subprocess.run([*command, "--seeds", seeds, "--store", str(store)], check=True)


def report(records: list[Record]) -> None:
    """Print sums per method, for all frozen-encoder methods, and for all methods."""
    model = Model.of(load_tiny())
    print(
        f"{'method':<16}{'images':>24}{'text tokens':>30}{'GFLOP':>22}   (ours / official, ratio)"
    )
    ours, theirs = {}, {}
    for method in METHODS:
        ours[method], theirs[method] = Cost(), Cost()
        for record in (record for record in records if record.spec.method == method):
            done = record.footprint["work"]["computed"]
            ours[method].add(Cost(done["images"], done["text_tokens"], done["flops"]))
            split = record.split
            counts = record.spec.shots, split["classes"], split["test"]
            theirs[method].add(official(method, *counts, model))
        print(_line(method, ours[method], theirs[method]))
    frozen = METHODS[:4]
    print(_line("frozen encoder", _sum(ours, frozen), _sum(theirs, frozen)))
    print(_line("all", _sum(ours, METHODS), _sum(theirs, METHODS)))


def _sum(parts: dict[str, Cost], names: Iterable[str]) -> Cost:
    total = Cost()
    for name in names:
        total.add(parts[name])
    return total


def _line(name: str, ours: Cost, theirs: Cost) -> str:
    pairs = (
        (ours.images, theirs.images),
        (ours.text_tokens, theirs.text_tokens),
        (ours.flops / 1e9, theirs.flops / 1e9),
    )
    cells = []
    for width, (mine, other) in zip((24, 30, 22), pairs, strict=True):
        ratio = f"{other / mine:.1f}" if mine else "-"
        cells.append(f"{f'{mine:,.0f}/{other:,.0f} {ratio}':>{width}}")
    return f"{name:<16}" + "".join(cells)


def main() -> None:
    """Run the matrix, or read a finished run, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.matrix", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--shots", default="1,2,4,8,16")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--store", type=Path, help="a finished run of one data set")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store = arguments.store or Path(name) / "store"
        if arguments.store is None:
            made_up(Path(name) / "kinds", arguments.classes, 25 * arguments.classes)
            run(Path(name) / "kinds", store, arguments.shots, arguments.seeds)
        report([record for record in Store(store).records() if record.status == "done"])


if __name__ == "__main__":
    main()
