"""Evaluation pixels and crops equal open_clip's own transform on PIL, bit for bit."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import image_transform
from PIL import Image

from fewshot_bench import Augment
from fewshot_bench.backbones.embedded import load_tiny
from fewshot_bench.images.augment import Uniforms, draw_crops, draw_passes
from fewshot_bench.images.decode import decode, deep_problem, shrink, upright
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.utils.rng import generator
from tests.support.image_cases import tiny
from tests.support.image_sets import Memory, scene

HALF = (0.5, 0.5, 0.5)
KINDS = (
    ("RGB", "JPEG"),
    ("L", "JPEG"),
    ("CMYK", "JPEG"),
    ("RGB", "PNG"),
    ("RGBA", "PNG"),
    ("LA", "PNG"),
    ("P", "PNG"),
    ("1", "PNG"),
    ("I;16", "PNG"),
    ("P", "GIF"),
    ("RGB", "WEBP"),
)
COUNT = 220
GOLDEN = "5608a1df5ba68c8c84c1dc413adf25d99d75fc26515398e1e6c9ed64fd4342f7"


def encoded(seed: int) -> bytes:
    """An image file whose format, size and orientation vary with the seed."""
    mode, kind = KINDS[seed % len(KINDS)]
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(2, 320, 2))
    narrow = {3: (1, height), 4: (width, 1), 5: (1, 1), 6: (224, 224), 7: (32, 32)}
    size = narrow.get(seed // len(KINDS), (width, height))
    image = scene(seed, size)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode != "RGB":
        image = image.convert(mode)
    options: dict[str, Any] = {}
    if kind == "JPEG":
        options = {"exif": Image.Exif(), "quality": int(rng.integers(40, 96))}
        options["exif"][0x0112] = seed % 8 + 1
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def scaled(image: Image.Image) -> Image.Image:
    """The 8 highest bits that a gray image of 16 bits, or of 9 to 12, makes use of."""
    values = np.asarray(image).astype(float)
    steps = [size for size in (2.0, 4.0, 8.0, 16.0) if values.max() < 256 * size] or [256.0]
    return Image.fromarray((values / steps[0]).astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(("highest", "brightest"), [(65535, 255), (20000, 78), (4095, 255)])
def test_gray_values_of_16_bits_are_scaled(kind: str, highest: int, brightest: int) -> None:
    values = np.linspace(0, highest, 64 * 64).reshape(64, 64).astype(np.uint16)
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(stream, kind, exif=exif)
    image = decode(stream.getvalue())
    assert (image.mode, image.format) == ("L", kind)
    assert deep_problem(image) is None
    assert image.getextrema() == (0, brightest)
    turned = np.asarray(upright(image))
    assert (np.diff(turned[0].astype(int)) <= 0).all()
    assert np.asarray(Image.open(io.BytesIO(shrink(stream.getvalue())))).max() >= brightest - 8


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Image files of several formats, all named .jpg."""
    return {f"{seed}.jpg": encoded(seed) for seed in range(COUNT)}


def framed(transform: Any, size: int) -> Any:
    """The embedded backbone with another model's transform, without its weights."""
    backbone = load_tiny()
    backbone.image_size = (size, size)
    backbone._steps = transform.transforms[:-2]
    backbone._mean, backbone._std = transform.transforms[-1].mean, transform.transforms[-1].std
    return backbone


TRANSFORMS = {
    "tiny": (32, {"mean": HALF, "std": HALF}),
    "ViT-B-16": (224, {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD}),
    "SigLIP": (224, {"mean": HALF, "std": HALF, "resize_mode": "squash"}),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_pixels_equal_those_of_open_clip_on_many_files(name: str, files: dict[str, bytes]) -> None:
    size, options = TRANSFORMS[name]
    transform = image_transform(size, is_train=False, **options)
    backbone = tiny() if name == "tiny" else framed(transform, size)
    dataset = Memory(files)
    source = ImageSource.of(dataset, dataset.items()["train"], backbone, depth=1)
    for start, pixels in enumerate(source.batches(20, range(COUNT))):
        for row, (file, ours) in enumerate(
            zip(list(files)[20 * start : 20 * (start + 1)], pixels, strict=True)
        ):
            image = Image.open(io.BytesIO(files[file]))
            expected = transform(scaled(image) if image.mode == "I;16" else image)
            assert torch.equal(ours, expected), (file, KINDS[(20 * start + row) % len(KINDS)])


def view_of(files: dict[str, bytes]) -> Any:
    dataset = Memory(files)
    source = ImageSource.of(dataset, dataset.items()["train"], tiny(), depth=2)
    return image_view(source, FeatureCache(None), Meter(torch.device("cpu")), phase="fit")


def drawn(view: Any, orders: list[list[int]], size: int) -> torch.Tensor:
    """Crops (n, 3, h, w) of the images in `orders`, one call each, from the stream `augment`."""
    stream = generator(1, "augment")
    batches = [
        pixels
        for order in orders
        for pixels in view.batches(size, order=torch.tensor(order), augment=Augment(), rng=stream)
    ]
    return torch.cat(batches)


def test_crops_are_cut_and_resized_by_pil(files: dict[str, bytes]) -> None:
    some = dict(list(files.items())[::9])
    images = [decode(data).convert("RGB") for data in some.values()]
    count = len(images)
    backwards = list(reversed(range(count)))
    uniforms = Uniforms(count, draw_passes(2, generator(1, "augment")))
    order = [*range(count), *backwards]
    numbers = uniforms.of(order, [0] * count + [1] * count)
    crops = draw_crops([images[i].size for i in order], Augment(), numbers)
    assert {crop.mirrored for crop in crops} == {True, False}
    ours = drawn(view_of(some), [order], 4)
    for pixels, index, crop in zip(ours, order, crops, strict=True):
        part = images[index].crop(crop.box).resize((32, 32), Image.Resampling.BICUBIC)
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.mirrored else part
        expected = torch.from_numpy(np.array(part)).permute(2, 0, 1).float().div(255)
        assert torch.equal(pixels, expected.sub(0.5).div(0.5))


def test_crops_depend_on_the_pass_and_the_image_not_on_batches_or_order(
    files: dict[str, bytes],
) -> None:
    """Methods with other batch sizes, and views encoded ahead, therefore use the same crops."""
    some = dict(list(files.items())[:24])
    forth, back = list(range(24)), list(reversed(range(24)))
    view = view_of(some)
    first = drawn(view, [forth, forth], 24)
    assert not torch.equal(first[:24], first[24:])
    assert torch.equal(drawn(view, [forth + forth], 5), first)
    mixed = drawn(view, [back, forth], 7)
    assert torch.equal(mixed[:24].flip(0), first[:24])
    assert torch.equal(mixed[24:], first[24:])
    backbone = tiny()
    views = view.views(2, Augment(), generator(1, "augment"), normalize=False)
    expected = backbone.encode_image(first)
    torch.testing.assert_close(views.flatten(0, 1), expected)


def test_a_named_stream_always_gives_the_same_crops() -> None:
    sizes = [(500, 375), (375, 500), (224, 224), (1, 300), (640, 2)] * 20
    uniforms = Uniforms(len(sizes), draw_passes(1, generator(3, "augment")))
    numbers = uniforms.of(range(len(sizes)), [0] * len(sizes))
    crops = draw_crops(sizes, Augment(), numbers)
    text = repr([(crop.box, crop.mirrored) for crop in crops])
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN
