"""Bilinear crops and AugMix: views at test time, by what torchvision and the paper say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import hflip, resized_crop

from fewshot_bench import Augment, ContractError, UsageError
from fewshot_bench.images import augmix
from fewshot_bench.images.augment import NUMBERS, cut, draw_crops, mixing_numbers
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import accounted, image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import Meter
from tests.reference import augmix as reference
from tests.support.image_cases import tiny
from tests.support.image_sets import FILES, Memory, scene

SIZE = (28, 36)
BILINEAR = Augment(interpolation="bilinear")
MIXED = Augment(interpolation="bilinear", augmix=True)


def drawn(augment: Augment, images: list[Image.Image]) -> tuple[Any, np.ndarray]:
    """Crops of the images, and their pixels (n, 3, h, w)."""
    rng = torch.Generator().manual_seed(1)
    numbers = torch.rand(len(images), NUMBERS, dtype=torch.float64, generator=rng)
    crops = draw_crops([image.size for image in images], augment, numbers)
    into = np.empty((len(images), 3, *SIZE), np.uint8)
    cut(images, crops, into, 1)
    return crops, into


def test_bilinear_crops_are_those_of_torchvision() -> None:
    images = [scene(seed, (60 + 9 * seed, 80 - 5 * seed)) for seed in range(8)]
    crops, pixels = drawn(BILINEAR, images)
    assert {crop.mirrored for crop in crops} == {True, False}
    for image, crop, ours in zip(images, crops, pixels, strict=True):
        left, top, right, bottom = crop.box
        box = (top, left, bottom - top, right - left)
        expected = resized_crop(image, *box, list(SIZE), InterpolationMode.BILINEAR)
        expected = hflip(expected) if crop.mirrored else expected
        assert np.array_equal(ours, np.asarray(expected).transpose(2, 0, 1))
    assert not np.array_equal(pixels, drawn(Augment(), images)[1])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("share", [0.011, 0.042, 0.099])
def test_operations_are_those_of_the_paper(share: float, sign: int) -> None:
    image = scene(3, (40, 48))
    for name, operation in zip(reference.NAMES, augmix.OPERATIONS, strict=True):
        ours = np.asarray(operation(image, share, sign)).astype(int)
        gap = np.abs(ours - reference.alter(name, np.asarray(image), share, sign))
        # Places that rounding puts inside or outside of the image differ at its edge.
        assert np.quantile(gap, 0.97) <= 1, name


def test_a_mix_is_the_weighted_mean_of_its_chains() -> None:
    pixels = np.asarray(scene(5, (40, 48)))
    numbers = np.random.default_rng(2).random(augmix.NUMBERS)
    weights = -np.log(1 - numbers[:3])
    weights /= weights.sum()
    expected = numbers[3] * pixels.astype(float)
    for chain in range(3):
        of_chain = numbers[4 + 10 * chain :][:10]
        altered = Image.fromarray(pixels)
        for which, strength, sign in of_chain[1:].reshape(3, 3)[: 1 + int(3 * of_chain[0])]:
            share, sign = (0.1 + 0.9 * strength) / 10, -1 if sign > 0.5 else 1
            altered = augmix.OPERATIONS[int(9 * which)](altered, share, sign)
        expected += (1 - numbers[3]) * weights[chain] * np.asarray(altered)
    gap = np.abs(augmix.mix(pixels, numbers.tolist()) - expected)
    assert gap.max() <= 0.5 + 1e-6
    only = numbers.copy()
    only[3] = 1.0
    assert np.array_equal(augmix.mix(pixels, only.tolist()), pixels)


def test_numbers_of_a_mix_follow_from_its_crop_alone() -> None:
    uniforms = torch.rand(200, NUMBERS, dtype=torch.float64)
    numbers = mixing_numbers(uniforms)
    assert torch.equal(mixing_numbers(uniforms[[7]]), numbers[[7]])
    assert numbers.shape == (200, augmix.NUMBERS)
    assert (numbers.mean(0) - 0.5).abs().max() < 0.1
    # The corners of boxes, which the crop reads, say nothing about how it is mixed.
    both = torch.cat([uniforms[:, -3:], numbers], 1).T.corrcoef()
    assert both[:3, 3:].abs().max() < 0.35


def views(folder: Path | None, augment: Augment, *parts: Any, by_torch: bool = False) -> Any:
    """Three views of some images, (3, n, width), and how many were encoded."""
    dataset, meter, store = Memory(FILES), Meter(torch.device("cpu")), FeatureCache(folder)
    items = dataset.items()["train"]
    source = ImageSource.of(dataset, items, tiny())
    if by_torch:
        source = ImageSource(source._files, len(items), tiny(), by_torch=True)
    images = image_view(source, store, meter, phase="encode_queries")
    with accounted(store, meter), meter.phase("predict"):
        parts = parts or (None,)
        return torch.cat([images.views(3, augment, order=part) for part in parts], 1), meter


def test_views_have_rows_of_their_own_where_they_differ_from_the_defaults(tmp_path: Path) -> None:
    usual, meter = views(tmp_path, Augment())
    made = meter.images_computed
    every = [usual]
    for augment in (BILINEAR, MIXED, Augment(augmix=True)):
        found, meter = views(tmp_path, augment)
        assert meter.images_computed == made
        assert all((found - other).abs().max() > 1e-4 for other in every)
        every.append(found)
    same = Augment(interpolation="bicubic", augmix=False)
    for augment, known in ((same, usual), (MIXED, every[2])):
        again, meter = views(tmp_path, augment)
        assert torch.equal(again, known)
        assert meter.images_computed == 0


def test_mixed_views_in_blocks_are_those_at_once() -> None:
    whole, _ = views(None, MIXED)
    blocks, _ = views(None, MIXED, *torch.arange(whole.shape[1]).split(2))
    assert torch.equal(blocks, whole)


def test_mixed_views_on_a_device_are_refused() -> None:
    assert torch.isfinite(views(None, BILINEAR, by_torch=True)[0]).all()
    with pytest.raises(UsageError, match="run without --augment device"):
        views(None, MIXED, by_torch=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"interpolation": "linear"}, "interpolation is 'linear'.*expected one of"),
        ({"augmix": 1}, "augmix is 1, expected True or False"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Augment(**wrong)
