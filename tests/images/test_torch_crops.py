"""`--augment device`: the crops of Pillow up to a level or two, cut by torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fewshot_bench import Augment
from fewshot_bench.images import torch_crops
from fewshot_bench.images.augment import NUMBERS, Crop, draw_crops
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.store.store import Store
from tests.reference.crops import stack_crops
from tests.support.answers import stored_arrays
from tests.support.helpers import flags, fsbench, image_folder, quick
from tests.support.image_cases import tiny
from tests.support.image_sets import FILES, Memory, scene

CPU = torch.device("cpu")
SIZE = (48, 40)
SHAPES = [(500, 375), (30, 40), (64, 48), (40, 48), (1, 1), (3, 200), (200, 2), (700, 90)]


def drawn(interpolation: Any = "bicubic") -> tuple[list[Image.Image], list[Crop]]:
    """Images of very different sizes, two crops of each, some of them mirrored."""
    images = [scene(seed, size) for seed, size in enumerate(SHAPES)] * 2
    numbers = torch.rand(len(images), NUMBERS, dtype=torch.float64, generator=torch.manual_seed(0))
    augment = Augment(interpolation=interpolation)
    return images, draw_crops([image.size for image in images], augment, numbers)


def by_threads(images: list[Any], crops: list[Crop]) -> Tensor:
    into = torch.empty(len(images), 3, *SIZE, dtype=torch.uint8)
    torch_crops.cut(images, crops, into, 2)
    return into


def by_products(images: list[Any], crops: list[Crop]) -> Tensor:
    return torch_crops.resize(torch_crops.pack(images, crops, CPU, 2), SIZE, CPU)


@pytest.mark.parametrize("way", [by_threads, by_products])
# Halves, which a bilinear kernel makes more often, are rounded up by Pillow and to even by torch.
@pytest.mark.parametrize(("interpolation", "share"), [("bicubic", 0.02), ("bilinear", 0.05)])
def test_crops_are_those_of_pillow_up_to_rounding(
    way: Any, interpolation: Any, share: float
) -> None:
    images, crops = drawn(interpolation)
    expected = stack_crops(images, crops, SIZE).int()
    gap = (way([np.array(image) for image in images], crops).int() - expected).abs()
    assert gap.max() <= 2
    assert (gap > 0).float().mean() < share


def test_large_crops_are_resized_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images, crops = drawn()
    arrays: list[Any] = [np.array(image) for image in images]
    whole = by_products(arrays, crops)
    monkeypatch.setattr(torch_crops, "LARGEST", 3 * 200 * 200)
    packed = torch_crops.pack(arrays, crops, CPU, 2)
    assert 2 < len(packed) < len(images)
    assert sum(len(part.pixels) for part in packed) == len(images)
    assert all(len(part.pixels) == 1 or part.pixels.numel() <= 120_000 for part in packed)
    assert (by_products(arrays, crops).int() - whole.int()).abs().max() <= 1


def view_of(*, by_torch: bool, store: FeatureCache) -> Any:
    dataset = Memory(FILES)
    items = dataset.items()["train"]
    files = ImageSource.of(dataset, items, tiny())._files
    source = ImageSource(files, len(items), tiny(), by_torch=by_torch)
    return image_view(source, store, Meter(CPU), phase="fit")


def test_views_of_either_way_are_kept_apart() -> None:
    store = FeatureCache(None)
    host = view_of(by_torch=False, store=store).views(2, Augment())
    device = view_of(by_torch=True, store=store).views(2, Augment())
    assert not torch.equal(host, device)
    assert (host - device).abs().max() < 0.1
    assert torch.equal(view_of(by_torch=False, store=store).views(2, Augment()), host)
    whole = [view_of(by_torch=way, store=store).features for way in (False, True)]
    assert torch.equal(*whole)


@pytest.mark.parametrize("method", ["clip-lora", "coop"])
def test_the_two_ways_are_conditions_that_do_not_mix(tmp_path: Path, method: str) -> None:
    store = tmp_path / "store"
    words = ("-m", method, *flags(quick([method])), "-d", f"folder:{image_folder(tmp_path / 'a')}")
    for way in ("host", "device"):
        done = fsbench(
            *("run", *words, "--backbone", "tiny", "--shots", 1, "--seeds", 1),
            *("--augment", way, "--store", store),
        )
        assert (done.code, "0 done already" in done.out) == (0, True), done.err
    found = {record.spec.augment: record for record in Store(store).records()}
    assert set(found) == {"host", "device"}
    logits = [stored_arrays(Store(store), r.spec.key())["logits"] for r in found.values()]
    assert not np.array_equal(*logits)
    images = found["device"].timings["images"]
    assert images["batches"] == images["late"] > 0
    blocks = fsbench("compare", "--store", store)
    assert (blocks.code, blocks.out.count(" of 2: augment ")) == (0, 2)
