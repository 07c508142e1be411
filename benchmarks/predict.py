"""Prediction by kept models compared with encoding alone: `python -m benchmarks.predict`.

CPU seconds, in pairs. Both read, decode and encode the same files; nothing is cached in between.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import in_pairs
from fewshot_bench.analysis.model import Model, load_model
from fewshot_bench.api.registry import registry
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import ENCODE_BATCH, encode
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.runner.fit import Fitted, fit_within_memory
from fewshot_bench.runner.session import Session
from fewshot_bench.store.kept_models import config_of, write_model
from tests.support.helpers import cells, quick

CLASSES, SHOTS = 10, 2


def drawn(folder: Path, images: int) -> None:
    """Write smooth JPEGs of 256 x 256 pixels in 10 classes, 2 of each for training."""
    rng = np.random.default_rng(0)
    for role, count in (("train", SHOTS), ("test", images // CLASSES)):
        for label in range(CLASSES):
            place = folder / role / f"class {label}"
            place.mkdir(parents=True)
            for number in range(count):
                small = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
                small.resize((256, 256)).save(place / f"{number}.jpg", quality=90)


def kept(method: str, backbone: str, photos: Path, folder: Path) -> Model:
    """Fit a model on the images with the tests' quick settings, keep it, and load it."""
    asked = {"datasets": (f"folder:{photos}",), "limit": None, "backbone": backbone}
    (spec,) = cells(method, options=quick((method,)), **asked)
    session = Session()
    cell = session.resolve(spec)
    fitted = fit_within_memory(cell, session, None, lambda: False)
    assert isinstance(fitted, Fitted), fitted
    config = config_of(method, cell.method, fitted.backbone, cell.lists.fitted)
    write_model(folder, config, fitted.classifier.tensors(), "")
    return load_model(folder)


def main() -> None:
    """Measure and print a line per method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--methods", default="zero-shot,linear-probe,tip-adapter,coop,clip-lora")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        drawn(photos, asked.images)
        dataset = registry().dataset(f"folder:{photos}")
        items = dataset.items()["test"]
        paths = sorted((photos / "test").rglob("*.jpg"))
        for method in asked.methods.split(","):
            model = kept(method, asked.backbone, photos, Path(name) / method)

            def predict(model: Model = model) -> None:
                fresh = dataclasses.replace(model, _features=FeatureCache(None))
                assert not any(one.problem for one in fresh.stream(paths))

            def encoded(model: Model = model) -> None:
                source = ImageSource.of(dataset, items, model.backbone)
                # Bypass the cache of decoded images.
                source._files.stamped = False
                with torch.no_grad():
                    encode(source, source.batches(ENCODE_BATCH, range(len(items))))

            found = in_pairs(predict, encoded, asked.pairs, clock=time.process_time)
            print(
                f"{method}: predict {found.ours:.2f} s, encode {found.official:.2f} s of CPU, "
                f"{found.ours / found.official:.2f} times",
                flush=True,
            )


if __name__ == "__main__":
    main()
