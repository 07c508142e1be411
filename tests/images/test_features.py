"""The feature cache: contents of its keys, damage, and read-only disks."""

from __future__ import annotations

import dataclasses
import io
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fewshot_bench import Augment, DatasetCard
from fewshot_bench.backbones.embedded import load_tiny
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import accounted, image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner.fit import Context
from fewshot_bench.training.batches import pixel_batches, view_batches
from fewshot_bench.utils import environment
from tests.support.image_sets import Memory

CPU = torch.device("cpu")
SMALL = Augment(scale=(0.3, 0.6))


def png(shade: int) -> bytes:
    """A PNG with a diagonal gradient."""
    stream = io.BytesIO()
    ramp = np.add.outer(np.arange(40), np.arange(40)).astype(np.uint8)
    pixels = np.stack([ramp, ramp // 2, np.full_like(ramp, shade)], axis=2)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def backbone() -> object:
    """The embedded backbone."""
    return load_tiny()


def source(backbone: object, shades: tuple[int, ...] = (10, 200)) -> ImageSource:
    """An image source of squares, one per shade."""
    dataset = Memory({str(index): png(shade) for index, shade in enumerate(shades)})
    return ImageSource.of(dataset, dataset.items()["train"], backbone)  # type: ignore[arg-type]


def encoded(images: ImageSource, folder: Path | None, order: list[int] | None = None) -> Tensor:
    """Raw features through a fresh store on `folder`; `encoded.images` is the number encoded."""
    meter = Meter(CPU)
    view = image_view(images, FeatureCache(folder), meter, phase="encode_support", order=order)
    with meter.phase("fit"):
        features = view.raw_features
    encoded.images = meter.images_computed  # type: ignore[attr-defined]
    return features


def taken() -> int:
    """Number of images that the last `encoded` call had to encode."""
    return int(encoded.images)  # type: ignore[attr-defined]


def test_features_are_encoded_once_and_in_the_order_of_the_view(
    backbone: object, tmp_path: Path
) -> None:
    first = encoded(source(backbone), tmp_path)
    assert taken() == 2
    second = encoded(source(backbone), tmp_path, order=[1, 0, 1])
    assert taken() == 0
    assert torch.equal(second, first[[1, 0, 1]])


def test_other_bytes_or_settings_have_other_keys(tmp_path: Path) -> None:
    encoded(source(load_tiny()), tmp_path)
    encoded(source(load_tiny(), (10, 201)), tmp_path)
    assert taken() == 1
    encoded(source(load_tiny(), (200, 10)), tmp_path)
    assert taken() == 0
    encoded(source(load_tiny(precision="bf16")), tmp_path)
    assert taken() == 2
    changed = load_tiny()
    changed._mean = [0.4, 0.5, 0.5]
    encoded(source(changed), tmp_path)
    assert taken() == 2
    other = load_tiny()
    other.weights_digest = "0" * 64
    encoded(source(other), tmp_path)
    assert taken() == 2
    assert len(list(tmp_path.rglob("*.rows"))) == 4


def test_rows_belong_to_a_model_of_device_not_to_a_number_of_threads(
    backbone: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    for name, count, computed in (("T4", 1, 2), ("T4", 2, 0), ("H100", 2, 2), ("T4", 1, 0)):
        monkeypatch.setattr(environment, "name_of", lambda _, name=name: name)
        torch.set_num_threads(count)
        try:
            encoded(source(backbone), tmp_path)
        finally:
            torch.set_num_threads(threads)
        assert taken() == computed
    made_on = set()
    for path in tmp_path.rglob("*.rows"):
        with closing(sqlite3.connect(path)) as base:
            made_on |= set(base.execute("select device from computation"))
    assert made_on == {("T4",), ("H100",)}


def test_views_are_cached_under_what_was_drawn(backbone: object) -> None:
    store, meter, images = FeatureCache(None), Meter(CPU), source(backbone)
    view = image_view(images, store, meter, phase="encode_support")

    def views(seed: int, augment: Augment) -> Tensor:
        with meter.phase("fit"):
            return view.views(3, augment, torch.Generator().manual_seed(seed))

    first = views(1, Augment())
    assert first.shape[:2] == (3, 2)
    assert torch.equal(first, views(1, Augment()))
    assert meter.images_encoded == 6
    assert not torch.equal(first, views(2, Augment()))
    assert not torch.equal(first, views(1, Augment(scale=(0.5, 1.0))))
    assert meter.images_encoded == 18
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(3, 2))


def test_features_encoded_ahead_are_those_of_the_crops_that_a_method_trains_on(
    backbone: Any,
) -> None:
    store, meter, images = FeatureCache(None), Meter(CPU), source(backbone, (10, 60, 110, 160, 200))
    train: Any = image_view(images, store, meter, phase="encode_support", labeled=True)
    how: Any = {"augment": SMALL, "drop_last": True, "epochs": 3}
    ctx: Any = Context(3, CPU)
    with meter.phase("fit"):
        pixels = list(pixel_batches(train, 2, CPU, ctx, **how))
        features = [
            rows
            for rows, _ in view_batches(train, 2, backbone.embed_dim, ctx, as_pixels=True, **how)
        ]
    assert len(pixels) == len(features) == 6
    for (crops, _), ahead in zip(pixels, features, strict=True):
        again = torch.nn.functional.normalize(backbone.encode_image(crops), dim=-1)
        torch.testing.assert_close(ahead, again, atol=1e-5, rtol=0)
    assert meter.images_encoded == 15


def test_seeds_have_views_of_their_own(backbone: object, tmp_path: Path) -> None:
    store, meter = FeatureCache(tmp_path), Meter(CPU)

    def views(seed: int) -> Tensor:
        view = image_view(source(backbone), store, meter, phase="encode_support", seed=seed)
        with accounted(store, meter), meter.phase("fit"):
            return view.views(3, SMALL)

    first = views(1)
    assert not torch.equal(first, views(2))
    assert torch.equal(first, views(1))
    assert meter.images_computed == 2 * first.shape[0] * first.shape[1]


def test_fixed_views_follow_from_the_image_and_are_encoded_once(
    backbone: object, tmp_path: Path
) -> None:
    store, meter = FeatureCache(tmp_path), Meter(CPU)

    def views(
        shades: tuple[int, ...], count: int, augment: Augment = SMALL, **order: Any
    ) -> Tensor:
        view = image_view(source(backbone, shades), store, meter, phase="encode_support", **order)
        with accounted(store, meter), meter.phase("fit"):
            return view.views(count, augment)

    first = views((10, 200), 3)
    assert (first.shape[:2], meter.images_computed) == ((3, 2), 6)
    assert not torch.equal(first[0], first[1])
    # Another list, another order, more views: cached features are not encoded again.
    other = views((60, 200, 10), 4, order=[2, 1, 0])
    assert meter.images_computed == 6 + 2 + 4
    assert torch.equal(other[:3, :2], first)
    views((10, 200), 3, Augment(scale=(0.9, 1.0)))
    assert meter.images_computed == 18
    # Small batches are padded to 16; padding is not billed.
    assert meter.work()["computed"]["images"] == 3 * 16
    assert meter.work()["billed"]["images"] == 18
    # A cell is billed once per image.
    assert meter.images_encoded == 18
    again = Meter(CPU)
    view = image_view(source(backbone), FeatureCache(tmp_path), again, phase="encode_support")
    with again.phase("fit"):
        assert torch.equal(view.views(3, SMALL), first)
    assert (again.images_computed, again.images_encoded) == (0, 6)
    work = again.work()
    assert work["computed"] == {"images": 0, "text_tokens": 0, "flops": 0}
    assert work["billed"]["images"] == 6
    assert (work["billed"]["flops"] or 0) > 0


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_views_in_blocks_are_those_at_once(
    backbone: object, tmp_path: Path, size: int, drawn: bool, on_disk: bool
) -> None:
    shades, listed = tuple(range(0, 200, 10)), list(reversed(range(20)))

    def rng() -> torch.Generator | None:
        return torch.Generator().manual_seed(3) if drawn else None

    def views(name: str, *parts: Any) -> tuple[Tensor, Meter]:
        store, meter = FeatureCache(tmp_path / name if on_disk else None), Meter(CPU)
        images = source(backbone, shades)
        view = image_view(images, store, meter, phase="encode_queries", order=listed)
        with accounted(store, meter), meter.phase("predict"):
            return torch.cat([view.views(5, SMALL, rng(), order=one) for one in parts], 1), meter

    whole, meter = views("whole", None)
    parts = torch.arange(20).split(size)
    blocks, other = views("blocks", *parts)
    assert torch.equal(blocks, whole)
    assert meter.images_encoded == other.images_encoded == other.images_computed == 100
    assert other.work()["billed"] == meter.work()["billed"]
    # Any order, with repeats; own views of an image that is known cost nothing more.
    again, other = views("blocks", *parts, torch.tensor([4, -1, 4, 0]))
    assert torch.equal(again[:, 20:], whole[:, [4, 19, 4, 0]])
    assert other.images_encoded == (115 if drawn else 100)


@pytest.mark.parametrize("count", [1, 5, 31, 40])
def test_features_do_not_depend_on_who_else_is_encoded(backbone: object, count: int) -> None:
    shades = tuple(range(40))
    whole = encoded(source(backbone, shades), None)
    assert torch.equal(encoded(source(backbone, shades[:count]), None), whole[:count])


def test_a_set_without_mirror_images_is_never_flipped(backbone: object) -> None:
    class Text(Memory):
        """A set whose images change meaning when mirrored."""

        def card(self) -> DatasetCard:
            return dataclasses.replace(super().card(), mirrored=False)

    def pixels(kind: type[Memory], flip: float) -> Tensor:
        gradient = Image.fromarray(np.tile(np.arange(48, dtype=np.uint8) * 5, (48, 1)))
        buffer = io.BytesIO()
        gradient.save(buffer, "PNG")
        dataset = kind({"a": buffer.getvalue()})
        images = ImageSource.of(dataset, dataset.items()["train"], backbone)  # type: ignore[arg-type]
        augment = Augment(flip=flip)
        return next(iter(images.batches(1, [0], augment, [1])))

    assert torch.equal(pixels(Text, 1.0), pixels(Memory, 0.0))
    assert torch.equal(pixels(Memory, 1.0), pixels(Memory, 0.0).flip(-1))


def test_rows_before_the_projection_are_rows_of_their_own(tmp_path: Path) -> None:
    backbone, store, meter = load_tiny(), FeatureCache(tmp_path), Meter(CPU)
    view = image_view(source(backbone), store, meter, phase="encode_support")
    projection = backbone.image_tower().projection  # type: ignore[attr-defined]
    with accounted(store, meter), meter.phase("fit"):
        raw, rows = view.raw_features, view.unprojected
        assert rows.shape == (2, backbone.image_tower().width)
        assert torch.allclose(rows @ projection, raw, atol=1e-5)
        drawn = [
            view.views(3, SMALL, normalize=False, projected=projected)
            for projected in (True, False)
        ]
        assert torch.allclose(drawn[1] @ projection, drawn[0], atol=1e-5)
        before = meter.images_computed
        assert torch.equal(view.unprojected, rows)
        assert torch.equal(view.views(3, SMALL, projected=False), drawn[1])
        assert torch.equal(view.raw_features, raw)
        assert meter.images_computed == before
