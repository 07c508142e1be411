"""Render the pool of masks and texture tiles that training images are composed of."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

from .captions import DIGITS, FIRST_SHAPE, FIRST_TEXTURE, LETTERS, OBJECTS
from .fonts import Font, describe, find_fonts, rasterize
from .shapes import draw_shape
from .strokes import draw_stroke_glyph
from .textures import draw_texture

TILE, INK = 40, 36
COUNTS = {"digit": 6000, "letter": 1500, "shape": 1500, "texture": 1000}
STROKE_SHARE = {"digit": 0.6, "letter": 0.35}
log = logging.getLogger(__name__)


@dataclass
class Pool:
    """Tiles as uint8, with the start index and number of tiles per (concept, case)."""

    tiles: np.ndarray
    starts: np.ndarray
    counts: np.ndarray


def fit(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale an ink crop to the middle of a tile, with some change of its aspect."""
    height, width = ink.shape
    ratio = width / height * np.exp(rng.normal(0, 0.15))
    if ratio > 1:
        size = (INK, max(3, round(INK / ratio)))
    else:
        size = (max(3, round(INK * ratio)), INK)
    small = Image.fromarray(ink).resize(size, Image.Resampling.BOX)
    tile = Image.new("L", (TILE, TILE), 0)
    tile.paste(small, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return np.asarray(tile)


def draw_glyph(char: str, fonts: list[Font], stroke_share: float, seed: list[int]) -> np.ndarray:
    """Draw one glyph with a random font or as pen strokes."""
    rng = np.random.default_rng(seed)
    if rng.random() < stroke_share or not fonts:
        return fit(draw_stroke_glyph(char, rng), rng)
    weights = np.array([font.weight for font in fonts])
    while True:
        font = fonts[rng.choice(len(fonts), p=weights / weights.sum())]
        ink = rasterize(ImageFont.truetype(str(font.path), 80), char, side=240)
        if ink is not None:
            return fit(ink, rng)


def draw_tiles(concept: int, case: int, seed: int, fonts: list[Font]) -> list[np.ndarray]:
    """Draw all tiles of one concept, one random stream for each tile."""
    name = OBJECTS[concept]
    if concept < FIRST_SHAPE:
        kind = "digit" if concept < len(DIGITS) else "letter"
        char = str(concept) if kind == "digit" else (name.upper() if case else name)
        seeds = ([seed, concept, case, index] for index in range(COUNTS[kind]))
        return [draw_glyph(char, fonts, STROKE_SHARE[kind], stream) for stream in seeds]
    kind = "shape" if concept < FIRST_TEXTURE else "texture"
    streams = (np.random.default_rng([seed, concept, 0, i]) for i in range(COUNTS[kind]))
    if kind == "texture":
        return [draw_texture(name, rng) for rng in streams]
    return [fit(draw_shape(name, rng), rng) for rng in streams]


def render_pool(seed: int) -> Pool:
    """Render the whole pool; the same seed and fonts give the same pool."""
    fonts, held_out = find_fonts()
    log.info("training fonts: %s", describe(fonts))
    log.info("held-out fonts: %s", describe(held_out))
    starts = np.full((len(OBJECTS), 2), -1)
    counts = np.zeros((len(OBJECTS), 2), dtype=int)
    tiles: list[np.ndarray] = []
    for concept in range(len(OBJECTS)):
        is_letter = len(DIGITS) <= concept < len(DIGITS) + len(LETTERS)
        for case in range(2 if is_letter else 1):
            drawn = draw_tiles(concept, case, seed, fonts)
            starts[concept, case], counts[concept, case] = len(tiles), len(drawn)
            tiles += drawn
    return Pool(np.stack(tiles), starts, counts)


def load_pool(seed: int, cache: Path) -> Pool:
    """Read the pool of a seed from the cache folder, rendering it first if need be."""
    path = cache / f"tiny-pool-{seed}.npz"
    if not path.exists():
        pool = render_pool(seed)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, tiles=pool.tiles, starts=pool.starts, counts=pool.counts)
    with np.load(path) as data:
        return Pool(data["tiles"], data["starts"], data["counts"])
