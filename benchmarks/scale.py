"""Time, disk and memory of a whole paper, computed from unit costs; growth curves.

    python -m benchmarks.scale units                  # measures unit costs on one core
    python -m benchmarks.scale paper [--teraflops 60] [--cores 8] [--methods a,b] [--datasets a,b]
    python -m benchmarks.scale curves                 # the other benchmarks, at three sizes each

`paper` runs nothing. Time, disk and memory are those stated by `run --dry-run`. A card's speed is
an assumption: its sustained `--teraflops`, and `--cores` beside it for decoding and crops.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import duplicates
from fewshot_bench import DatasetCard
from fewshot_bench.api.method import configuration
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.backbones.shape import shape_of
from fewshot_bench.engines.expected_time import Machine, Units, Work, encoding, work_of
from fewshot_bench.runner.preflight import compute_needs, count

METHODS = (
    *("clip-adapter", "clip-lora", "coop", "gda", "linear-probe", "lp++", "taskres"),
    *("tip-adapter", "tip-adapter-f", "zero-shot"),
)
SHOTS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)
BACKBONE = "ViT-B-16/openai"


@dataclass(frozen=True)
class Sized:
    """A data set of which only the sizes are known."""

    name: str
    classes: int
    counts: Mapping[str, int]

    def card(self) -> DatasetCard:
        """A card whose class names are numbers."""
        return DatasetCard(self.name, self.name, tuple(map(str, range(self.classes))))

    def items(self) -> Mapping[str, Any]:
        """Pools of which only the lengths matter."""
        return {role: range(self.counts.get(role, 0)) for role in ("train", "val", "test")}

    def read(self, item: object) -> bytes:
        """Raise OSError: there are no images."""
        raise OSError(f"{self.name} has sizes and no images")

    def stamp(self, item: object) -> None:
        """None; the method exists so that the cache of decoded images is counted."""


def eleven() -> list[str]:
    """The eleven data sets used in papers."""
    return registry().datasets.suites()["all"]


def catalog() -> dict[str, Sized]:
    """Sizes of the eleven data sets from the catalog."""
    text = resources.files("fsbench_datasets").joinpath("catalog.toml").read_text("utf-8")
    found = tomllib.loads(text)
    return {name: Sized(name, found[name]["classes"], found[name]["counts"]) for name in eleven()}


def cells(methods: Sequence[str], sets: Sequence[str]) -> list[RunSpec]:
    """Cells of a paper, with default options; `zero-shot` once per data set."""
    plan = []
    for method, name in product(methods, sets):
        options = configuration(registry().method_class(method)())
        settings = product((0,), (1,)) if method == "zero-shot" else product(SHOTS, SEEDS)
        for shots, seed in settings:
            about: dict[str, Any] = {"backbone": BACKBONE, "precision": "bf16", "options": options}
            plan.append(RunSpec(method, name, shots, seed, seed, **about))
    return plan


def paper(arguments: argparse.Namespace) -> None:
    """Print hours by method and machine, then disk and memory."""
    units, sizes = Units(card=arguments.teraflops * 1e12), catalog()
    sets = arguments.datasets.split(",") if arguments.datasets else eleven()
    methods = arguments.methods.split(",") if arguments.methods else list(METHODS)
    plan = cells(methods, sets)
    counts = count(plan, {name: sizes[name] for name in sets})
    works = [work_of(cell, of, units) or Work() for cell, of in zip(plan, counts, strict=True)]
    machines = [Machine(0, 2), *(Machine(n, arguments.cores) for n in (1, 4, 8))]
    print(f"{'hours':<24}{'cells':>6}{'2 cores':>12}" + "".join(f"{n:>9} c" for n in (1, 4, 8)))
    total = encoding(counts, units)
    _row("images, once", 0, total, machines, units)
    for method in methods:
        own = [work for cell, work in zip(plan, works, strict=True) if cell.method == method]
        work = sum(own, Work())
        _row(method, len(own), work, machines, units)
        total += work
    _row("all", len(plan), total, machines, units)
    found = compute_needs(plan, {name: sizes[name] for name in sets})
    gigabytes = {"results": found.results, "features": found.features, "images": found.images}
    print(", ".join(f"{kind} {size / 1e9:,.1f} GB" for kind, size in gigabytes.items()))
    print(", ".join(f"{count:,} of {kind}" for kind, count in found.rows.items()))
    memory = f"memory of a worker with its label process: {found.worker / 1e9:.1f} GB at most"
    print(f"{memory} beside what training keeps")


def _row(name: str, count: int, work: Work, machines: Sequence[Machine], units: Units) -> None:
    hours = [work.seconds(machine, units) / 3600 for machine in machines]
    shown = [f"{hours[0]:>12,.1f}", *(f"{hour:>11,.2f}" for hour in hours[1:])]
    print(f"{name:<24}{count or '':>6}{''.join(shown)}", flush=True)


def measured_units() -> Units:
    """Measure the unit costs of one core here, in CPU seconds."""
    import open_clip

    torch.set_num_threads(1)
    model = open_clip.create_model("ViT-B-16").eval()
    pixels = torch.zeros(4, 3, 224, 224)
    with torch.no_grad():
        image = _seconds(lambda: model.encode_image(pixels)) / len(pixels)
    rng, stream = np.random.default_rng(0), io.BytesIO()
    noise = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    noise.resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    picture = Image.open(io.BytesIO(stream.getvalue())).convert("RGB")
    box = (100, 80, 400, 300)

    def decode() -> Image.Image:
        found = Image.open(io.BytesIO(stream.getvalue())).convert("RGB")
        return found.resize((298, 224), Image.Resampling.BICUBIC)

    def crop() -> Image.Image:
        return picture.resize((224, 224), Image.Resampling.BICUBIC, box)

    flops = shape_of(BACKBONE).image_flops / image
    return Units(flops, decode=_seconds(decode, 50), crop=_seconds(crop, 50))


def _seconds(work: Callable[[], object], times: int = 2) -> float:
    work()
    begun = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - begun) / times


# Benchmarks of costs that grow with the number of rows, files and records.
CURVES = {
    "look-ups of features": ("features_scale", "--rows", "10000,100000,1000000"),
    "folders": ("folders", "--images", "20000,160000,1280000"),
    "records": ("records_scale", "--records", "6250,12500,50000"),
}


def curves() -> None:
    """Run each benchmark at three sizes, and the duplicate search, and print their growth."""
    for title, (module, *arguments) in CURVES.items():
        print(f"== {title}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
        subprocess.run(command, check=True)
    print("== near-duplicates: pictures, CPU s, MB", flush=True)
    for size in (10_000, 100_000, 1_280_000):
        row = duplicates.measured(size, 2)
        print(f"{row.pictures:>10,}{row.cpu:>8,.0f}{row.peak / 1e6:>8,.0f}", flush=True)


def main() -> None:
    """Run the chosen command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("units")
    commands.add_parser("curves")
    asked = commands.add_parser("paper")
    asked.add_argument("--teraflops", type=float, default=60.0, help="that a card sustains")
    asked.add_argument("--cores", type=int, default=8, help="beside each card")
    asked.add_argument("--methods", default="", help="default: the ten of 'Plan a run'")
    asked.add_argument("--datasets", default="", help="default: the eleven of the field")
    arguments = parser.parse_args()
    if arguments.command == "paper":
        paper(arguments)
    elif arguments.command == "curves":
        curves()
    else:
        print(measured_units())


if __name__ == "__main__":
    main()
