"""Evaluation pixels are those of open_clip's own transform on PIL, bit for bit; so are crops."""

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
from fewshot_bench.crops import draw_crops
from fewshot_bench.image_files import decode
from fewshot_bench.images import ImageSource
from fewshot_bench.rng import generator
from tests.image_cases import tiny
from tests.test_features import Memory

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
GOLDEN = "40cf86c6d58f11988ddd8ec02aecb476827e2b19ad3b9cb61a88e890ff4e75ad"


def scene(seed: int, size: tuple[int, int]) -> Image.Image:
    """Smooth gradients with texture, about as busy as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 5, 3), dtype=np.uint8))
    fine = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    parts = [part.resize(size, Image.Resampling.BICUBIC) for part in (coarse, fine)]
    return Image.blend(parts[0], parts[1], 0.3)


def encoded(seed: int) -> bytes:
    """An image file: kinds, sizes and orientations vary with the seed."""
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


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """All of them are called .jpg, whatever they are."""
    return {f"{seed}.jpg": encoded(seed) for seed in range(COUNT)}


def framed(transform: Any, size: int) -> Any:
    """The backbone's own preprocessing with another model's transform; no weights are needed."""
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
    source = ImageSource(dataset, dataset.items()["train"], backbone, depth=1)
    for start, pixels in enumerate(source.batches(20, range(COUNT), None, None)):
        for row, (file, ours) in enumerate(
            zip(list(files)[20 * start : 20 * (start + 1)], pixels, strict=True)
        ):
            expected = transform(Image.open(io.BytesIO(files[file])))
            assert torch.equal(ours, expected), (file, KINDS[(20 * start + row) % len(KINDS)])


def drawn(files: dict[str, bytes], size: int, stream: torch.Generator) -> torch.Tensor:
    """Two epochs of crops of `tiny`, in batches of `size`."""
    dataset = Memory(files)
    source = ImageSource(dataset, dataset.items()["train"], tiny(), depth=2)
    order = [*range(len(files)), *reversed(range(len(files)))]
    return torch.cat(list(source.batches(size, order, Augment(), stream)))


def test_crops_are_cut_and_resized_by_pil(files: dict[str, bytes]) -> None:
    some = dict(list(files.items())[::9])
    images = [decode(data).convert("RGB") for data in some.values()]
    ours = drawn(some, 4, generator(1, "augment"))
    twice, stream = [*images, *reversed(images)], generator(1, "augment")
    crops = []
    for start in range(0, len(twice), 4):
        crops += draw_crops([part.size for part in twice[start : start + 4]], Augment(), stream)
    assert {crop.mirrored for crop in crops} == {True, False}
    for pixels, image, crop in zip(ours, twice, crops, strict=True):
        part = image.crop(crop.box).resize((32, 32), Image.Resampling.BICUBIC)
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.mirrored else part
        expected = torch.from_numpy(np.array(part)).permute(2, 0, 1).float().div(255)
        assert torch.equal(pixels, expected.sub(0.5).div(0.5))


def test_a_named_stream_always_gives_the_same_crops() -> None:
    sizes = [(500, 375), (375, 500), (224, 224), (1, 300), (640, 2)] * 20
    crops = draw_crops(sizes, Augment(), generator(3, "augment"))
    text = repr([(crop.box, crop.mirrored) for crop in crops])
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN


def test_another_user_of_the_generator_changes_nothing_by_being_there(
    files: dict[str, bytes],
) -> None:
    """Batches that are cut ahead must not take numbers from whoever draws in between."""
    some = dict(list(files.items())[:24])
    dataset = Memory(some)
    source = ImageSource(dataset, dataset.items()["train"], tiny(), depth=2)

    def epochs(lone: bool) -> tuple[torch.Tensor, torch.Tensor]:
        stream, batches, others = torch.Generator().manual_seed(5), [], []
        for _ in range(2):
            order = range(len(some))
            passes = [order[i : i + 4] for i in range(0, len(order), 4)] if lone else [order]
            for part in passes:
                for pixels in source.batches(4, part, Augment(), stream):
                    batches.append(pixels)
                    others.append(torch.rand(3, generator=stream))
        return torch.cat(batches), torch.cat(others)

    for one, other in zip(epochs(lone=True), epochs(lone=False), strict=True):
        assert torch.equal(one, other)
    untouched = torch.Generator().manual_seed(5)
    batches = source.batches(4, range(24), Augment(), untouched)
    next(batches)
    twin = torch.Generator().manual_seed(5)
    next(source.batches(4, range(4), Augment(), twin))
    assert torch.equal(untouched.get_state(), twin.get_state())
