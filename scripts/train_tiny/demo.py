"""Render the two demo data sets, in styles that the training images do not have."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .fonts import Font, describe, find_fonts, rasterize
from .shapes import draw_shape
from .textures import draw_texture

SIZE, LARGE = 32, 64
PER_SPLIT = (24, 8, 40)
LETTERS = "ABDEGHKMNPRSTWXZ"
SHAPES = (
    "star",
    "cross",
    "heart",
    "arrow",
    "crescent",
    "circle",
    "square",
    "triangle",
    "ring",
    "lightning bolt",
)
PATTERNS = ("chequered", "striped", "dotted", "woven", "marbled", "blotchy", "zigzagged", "swirly")
TEMPLATES = {"letters": "a photo of the letter {}.", "shapes": "a photo of a {}."}
Rng = np.random.Generator
log = logging.getLogger(__name__)


def color(rng: Rng, light: bool) -> tuple[int, int, int]:
    """Return a random light or dark color."""
    low, high = (145, 256) if light else (0, 110)
    red, green, blue = rng.integers(low, high, 3)
    return int(red), int(green), int(blue)


def clutter(rng: Rng, light: bool) -> Image.Image:
    """Return a background of blots, bars and arcs in colors of one lightness."""
    image = Image.new("RGB", (LARGE, LARGE), color(rng, light))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 8))):
        x, y = rng.uniform(-10, LARGE, 2)
        width, height = rng.uniform(8, 45, 2)
        box, fill = [x, y, x + width, y + height], color(rng, light)
        kind = rng.integers(4)
        if kind == 0:
            draw.ellipse(box, fill=fill)
        elif kind == 1:
            draw.rectangle(box, fill=fill)
        elif kind == 2:
            draw.line([x, y, *rng.uniform(0, LARGE, 2)], fill=fill, width=int(rng.integers(2, 7)))
        else:
            draw.arc(box, *rng.uniform(0, 360, 2), fill=fill, width=int(rng.integers(2, 5)))
    return image


def patterned(rng: Rng, light: bool) -> Image.Image:
    """Return a two-colored texture in colors of one lightness."""
    name = PATTERNS[rng.integers(len(PATTERNS))]
    tile = Image.fromarray(draw_texture(name, rng)).resize((LARGE, LARGE), Image.Resampling.BICUBIC)
    first = Image.new("RGB", (LARGE, LARGE), color(rng, light))
    return Image.composite(Image.new("RGB", (LARGE, LARGE), color(rng, light)), first, tile)


def placed(ink: np.ndarray, rng: Rng, turn: float, fill: tuple[float, float]) -> Image.Image:
    """Return a mask with the ink turned, scaled and put somewhere in the frame."""
    image = Image.fromarray(ink).rotate(turn, Image.Resampling.BICUBIC, expand=True)
    image = image.crop(image.getbbox())
    scale = LARGE * rng.uniform(*fill) / max(image.size)
    size = tuple(max(3, round(side * scale)) for side in image.size)
    mask = Image.new("L", (LARGE, LARGE), 0)
    corner = tuple(int(rng.integers(0, max(1, LARGE - side + 1))) for side in size)
    mask.paste(image.resize(size, Image.Resampling.BOX), corner)
    return mask


def finish(image: Image.Image) -> np.ndarray:
    """Shrink a picture to the final size, with colors in steps that compress well."""
    small = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))
    return (small // 8 * 8 + 4).astype(np.uint8)


def letter_image(char: str, fonts: list[Font], rng: Rng) -> np.ndarray:
    """Return a turned letter in a held-out font, with a shadow, over clutter."""
    ink = None
    while ink is None:
        font = fonts[rng.integers(len(fonts))]
        ink = rasterize(ImageFont.truetype(str(font.path), 80), char, side=240)
    light = bool(rng.random() < 0.5)
    mask = placed(ink, rng, rng.uniform(-30, 30), (0.6, 0.95))
    scene = clutter(rng, light)
    if rng.random() < 0.4:
        shadow = Image.new("L", (LARGE, LARGE), 0)
        shadow.paste(mask, (3, 3))
        shadow = shadow.filter(ImageFilter.GaussianBlur(1.5)).point(lambda value: value // 2)
        scene.paste((128, 128, 128), mask=shadow)
    scene.paste(color(rng, not light), mask=mask)
    return finish(scene)


def shape_image(name: str, rng: Rng) -> np.ndarray:
    """Return a shape filled with one texture over another texture or over clutter."""
    light = bool(rng.random() < 0.5)
    mask = placed(draw_shape(name, rng), rng, rng.uniform(-15, 15), (0.5, 0.9))
    scene = patterned(rng, light) if rng.random() < 0.6 else clutter(rng, light)
    scene.paste(patterned(rng, not light), mask=mask)
    return finish(scene)


def collect(
    names: list[str], draw: Callable[[str, Rng], np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """Return the arrays of a data set, drawing each image from its own random stream."""
    images, labels, split = [], [], []
    for label, name in enumerate(names):
        for index, part in enumerate(np.repeat(np.arange(3), PER_SPLIT)):
            images.append(draw(name, np.random.default_rng([seed, 77, label, index])))
            labels.append(label)
            split.append(part)
    return {
        "images": np.stack(images),
        "labels": np.array(labels, dtype=np.int64),
        "split": np.array(split, dtype=np.uint8),
        "classnames": np.array(names),
    }


def write(folder: Path, seed: int) -> None:
    """Write letters.npz and shapes.npz."""
    _, fonts = find_fonts()
    if not fonts:
        raise SystemExit("no held-out font found; see the action `fonts`")
    log.info("held-out fonts: %s", describe(fonts))
    folder.mkdir(parents=True, exist_ok=True)
    letters = collect(list(LETTERS), lambda name, rng: letter_image(name, fonts, rng), seed)
    np.savez_compressed(folder / "letters.npz", **letters)
    np.savez_compressed(folder / "shapes.npz", **collect(list(SHAPES), shape_image, seed))
