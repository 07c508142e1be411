"""Images per second: reading and decoding, the disk cache, and training crops.

    python -m benchmarks.images [--folder DIR] [--count N]

Everything is measured in one run, on the same images: those below DIR, or synthetic photographs of
500 x 375 pixels in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torchvision.transforms import (
    Compose,
    InterpolationMode,
    RandomHorizontalFlip,
    RandomResizedCrop,
)
from torchvision.transforms.functional import pil_to_tensor

from fewshot_bench import Augment, DatasetCard, Item
from fewshot_bench.api.sources import Stamp, file_stamp
from fewshot_bench.images.augment import draw_passes
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.utils import prefetch as ahead

SUFFIXES = (".jpg", ".jpeg", ".png")
SIZE = 224
BICUBIC = Image.Resampling.BICUBIC
BATCH = 64
THREADS = 4
WARM_PASSES = 3


@dataclass(frozen=True)
class Folder:
    """The images below a folder, without classes."""

    paths: tuple[Path, ...]

    def card(self) -> DatasetCard:
        """A card with one class."""
        return DatasetCard("benchmark", "Benchmark", ("image",))

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """All images as test images."""
        test = tuple(Item(str(index), 0, "image") for index in range(len(self.paths)))
        return {"train": (), "val": (), "test": test}

    def read(self, item: Item) -> bytes:
        """Bytes of one file."""
        return self.paths[int(item.id)].read_bytes()

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of one file."""
        return file_stamp(self.paths[int(item.id)])


class Transform:
    """A backbone for `ImageSource`, with the transform of ViT-B-16 and no weights.

    Pixels stay uint8: normalization is done on the device.
    """

    image_size = (SIZE, SIZE)

    def __init__(self) -> None:
        self._steps = image_transform_v2(PreprocessCfg(size=SIZE), is_train=False).transforms[:-2]

    def preprocess(self, image: Any) -> Any:
        """Apply the PIL steps of the transform."""
        for step in self._steps:
            image = step(image)
        return image

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return the pixels unchanged."""
        return pixels


def photograph(seed: int, width: int = 500, height: int = 375) -> Image.Image:
    """Smooth gradients overlaid with texture, which compress about as well as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    fine = Image.fromarray(rng.integers(0, 255, (height // 3, width // 3, 3), dtype=np.uint8))
    smooth, texture = (part.resize((width, height), BICUBIC) for part in (coarse, fine))
    return Image.blend(smooth, texture, 0.25)


def reference(paths: Sequence[Path], steps: Callable[[Any], Any]) -> None:
    """Plain loop over images with PIL and torchvision."""
    for start in range(0, len(paths), BATCH):
        images = [steps(Image.open(path).convert("RGB")) for path in paths[start : start + BATCH]]
        torch.stack([pil_to_tensor(image) for image in images])


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds of one call of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measured(paths: Sequence[Path], scratch: Path) -> Iterator[tuple[str, float]]:
    """Yield (name of a measurement, seconds for all images)."""
    backbone, dataset = Transform(), Folder(tuple(paths))
    items = dataset.items()["test"]
    order = range(len(items))

    def source(threads: int, depth: int = 0) -> ImageSource:
        return ImageSource.of(dataset, items, backbone, threads, depth)  # type: ignore[arg-type]

    def evaluate(threads: int, busy: float = 0.0, depth: int = 0) -> None:
        """Read all images; `busy`: seconds per image that a device computes, with the CPU idle."""
        for batch in source(threads, depth).batches(BATCH, order):
            time.sleep(busy * len(batch))

    def train(images: ImageSource, stream: torch.Generator) -> None:
        for _ in images.batches(BATCH, order, Augment(), draw_passes(1, stream)):
            pass

    reference(paths[:BATCH], backbone.preprocess)
    yield "PIL and torchvision, 1 thread", seconds(lambda: reference(paths, backbone.preprocess))
    for threads in (1, THREADS):
        with mock.patch.dict(os.environ, {"FSBENCH_CACHE": str(scratch / str(threads))}):
            first = seconds(partial(evaluate, threads))
        yield f"first run, {threads} threads", first
    with mock.patch.dict(os.environ, {"FSBENCH_CACHE": str(scratch / str(THREADS))}):
        runs = [seconds(lambda: evaluate(THREADS)) for _ in range(WARM_PASSES)]
    yield "later runs, from the cache", min(runs)
    busy = first / len(paths)
    for depth, name in ((0, "not read ahead"), (ahead.DEPTH, "read ahead")):
        with mock.patch.dict(os.environ, {"FSBENCH_CACHE": str(scratch / name)}):
            taken = seconds(partial(evaluate, THREADS, busy, depth))
        yield f"first run with a device, {name}", taken
    crops = Compose(
        [RandomResizedCrop(SIZE, interpolation=InterpolationMode.BICUBIC), RandomHorizontalFlip()]
    )
    yield "crops, PIL and torchvision, 1 thread", seconds(lambda: reference(paths, crops))
    images, stream = source(THREADS), torch.Generator().manual_seed(0)
    yield f"crops, first epoch, {THREADS} threads", seconds(lambda: train(images, stream))
    yield f"crops, later epochs, {THREADS} threads", seconds(lambda: train(images, stream))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.images", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, help="images to use (default: made up)")
    parser.add_argument("--count", type=int, default=1000, help="how many (default: 1000)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = arguments.folder or scratch / "photographs"
        if arguments.folder is None:
            folder.mkdir()
            for index in range(arguments.count):
                photograph(index).save(folder / f"{index}.jpg", quality=90)
            # Digests of files modified within the last two seconds are not cached.
            time.sleep(2.1)
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        random.Random(0).shuffle(paths)
        paths = paths[: arguments.count]
        if not paths:
            parser.error(f"no images {', '.join(SUFFIXES)} below {folder}")
        print(f"{len(paths)} images, {ahead.cores()} cores, to {SIZE} x {SIZE} pixels\n")
        print(f"{'':<42}{'images/s':>10}{'ratio':>8}")
        base = 0.0
        for what, taken in measured(paths, scratch):
            base = taken if "torchvision" in what else base
            print(f"{what:<42}{len(paths) / taken:>10,.0f}{base / taken:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
