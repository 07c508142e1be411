"""Folders and files of weights: what they are not, and features of what they were before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fewshot_bench import DatasetCard, Item
from fewshot_bench.backbones import loading
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import accounted, image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.utils.rng import isolated
from tests.helpers import save_image

VISION = {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
TEXT = {"width": 32, "heads": 2, "layers": 2}
MODEL: dict[str, Any] = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
PREPROCESS = {"mean": [0.5] * 3, "std": [0.25] * 3}
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random weights of the small model."""
    with isolated(0):
        module = open_clip.CLIP(**MODEL)
    return {name: 3 * value.clone() for name, value in module.state_dict().items()}


def configure(folder: Path, **changes: Any) -> str:
    """Write the config of the small model with changes; returns the backbone's name."""
    folder.mkdir(exist_ok=True)
    config = {"model_cfg": MODEL | changes, "preprocess_cfg": PREPROCESS}
    (folder / loading.CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return f"local-dir:{folder}"


class Photos:
    """Two images in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for number in range(2):
            save_image(folder / f"{number}.png", number)

    def card(self) -> DatasetCard:
        """A card with two classes."""
        return DatasetCard("photos", "Photos", ("cat", "dog"))

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """Both images in train."""
        items = tuple(Item(f"{n}.png", n, ("cat", "dog")[n]) for n in range(2))
        return {"train": items, "val": (), "test": ()}

    def read(self, item: Item) -> bytes:
        """Bytes of one image."""
        return (self.folder / item.id).read_bytes()


def cached(name: str, photos: Photos, folder: Path) -> tuple[Tensor, Tensor]:
    """Features of the photos and of a prompt, from the cache in a folder or written into it."""
    backbone, meter, store = loading.load(name), Meter(torch.device("cpu")), FeatureCache(folder)
    source = ImageSource.of(photos, photos.items()["train"], backbone)
    with accounted(store, meter), meter.phase("fit"):
        images = image_view(source, store, meter, phase="encode_support").raw_features
        return images, backbone.encode_text(["a photo of a CAT"])


@pytest.mark.parametrize(
    ("changes", "images", "texts"),
    [
        ({"quick_gelu": True}, True, True),
        ({"vision_cfg": VISION | {"head_width": 8}}, True, False),
        ({"vision_cfg": VISION | {"norm_kwargs": {"eps": 0.1}}}, True, False),
        ({"text_cfg": TEXT | {"tokenizer_kwargs": {"clean": "whitespace"}}}, False, True),
    ],
)
def test_a_changed_config_of_equal_weights_has_features_of_its_own(
    weights: dict[str, Tensor], tmp_path: Path, changes: Any, images: bool, texts: bool
) -> None:
    photos, store = Photos(tmp_path / "photos"), tmp_path / "features"
    name = configure(tmp_path / "model")
    save_file(weights, tmp_path / "model" / WEIGHTS)
    first = cached(name, photos, store)
    configure(tmp_path / "model", **changes)
    second, plain = cached(name, photos, store), cached(name, photos, tmp_path / "other")
    for found, expected, before, changed in zip(second, plain, first, (images, texts), strict=True):
        assert torch.equal(found, expected)
        assert torch.equal(found, before) is not changed
