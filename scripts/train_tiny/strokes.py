"""Draw digits and letters as jittered pen strokes of varying width."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

# Each variant is a list of strokes on a grid 8 wide and 10 high, separated by "|".
# A stroke starts with "s" (smooth curve) or "p" (straight segments).
OVAL = "s 4,0 1,2 0,5 1,8 4,10 7,8 8,5 7,2 4,0"
VARIANTS: dict[str, tuple[str, ...]] = {
    "0": (OVAL, "s 5,0 2,1 0,5 2,9 5,10 8,6 7,2 4,0 3,1", "s 6,1 3,0 1,4 2,9 5,10 7,6 6,1"),
    "1": (
        "p 4,0 4,10",
        "p 2,2 4,0 4,10",
        "p 2,2 4,0 4,10 | p 1,10 7,10",
        "p 5,0 3,10",
        "p 0,4 5,0 5,10",
        "p 4,0 4,10 | p 2,10 6,10",
    ),
    "2": (
        "s 0,2 2,0 6,0 8,2 7,5 3,8 0,10 | p 0,10 8,10",
        "s 1,2 4,0 7,2 6,5 2,9 1,10 1,8 3,8 8,10",
        "s 1,1 4,0 7,1 7,4 4,7 1,10 5,9 8,10",
        "s 0,1 4,0 6,2 5,6 0,10 | p 0,10 7,10",
    ),
    "3": (
        "s 0,1 4,0 7,2 6,4 3,5 | s 3,5 7,6 8,8 5,10 0,9",
        "p 0,0 7,0 3,4 | s 3,4 7,5 8,8 4,10 0,9",
        "s 1,0 5,0 7,2 3,5 7,6 7,9 4,10 1,10",
    ),
    "4": (
        "p 5,10 5,0 0,7 8,7",
        "p 1,0 1,5 7,5 | p 6,0 6,10",
        "p 3,0 0,6 8,6 | p 6,3 5,10",
        "s 2,0 0,4 2,6 7,5 | p 7,0 6,10",
        "p 4,0 0,5 8,5 | p 5,2 4,10",
    ),
    "5": (
        "p 7,0 1,0 1,4 | s 1,4 5,3 8,6 6,9 3,10 0,9",
        "p 8,0 2,0 | s 2,0 1,4 5,4 7,7 5,10 0,9",
        "s 7,0 2,0 1,4 5,4 7,7 5,10 1,9",
    ),
    "6": (
        "s 6,0 2,3 0,7 2,10 6,9 7,7 5,5 1,7",
        "s 4,0 1,5 1,8 4,10 7,8 6,5 3,5 1,7",
        "s 3,0 1,4 0,8 3,10 6,9 6,7 3,6 1,8",
    ),
    "7": (
        "p 0,0 8,0 3,10",
        "p 0,0 8,0 3,10 | p 2,5 7,5",
        "p 0,2 0,0 8,0 | s 8,0 5,4 4,10",
        "s 0,1 4,0 7,1 5,6 4,10 | p 2,6 8,5",
        "s 0,2 1,0 7,0 6,4 3,10",
    ),
    "8": (
        "s 4,5 1,3 2,0 6,0 7,3 4,5 1,7 1,9 4,10 7,9 7,7 4,5",
        "s 7,1 4,0 1,2 4,5 7,8 4,10 1,8 4,5 7,2 6,0",
        "s 6,0 2,1 2,3 5,6 6,9 3,10 2,8 5,4 7,2 6,0",
    ),
    "9": (
        "s 7,2 4,0 1,2 2,5 5,5 7,2 | s 7,2 7,6 5,10",
        "s 7,2 4,0 1,2 1,4 4,5 7,3 | p 7,1 7,10",
        "s 7,2 4,0 1,2 2,5 5,5 7,2 | s 7,2 7,8 5,10 1,9",
        "s 7,1 3,0 1,3 3,5 7,2 6,6 4,10",
    ),
    "A": ("p 0,10 4,0 8,10 | p 2,6 6,6", "s 0,10 1,3 4,0 7,3 8,10 | p 0,6 8,6"),
    "B": ("p 1,0 1,10 | s 1,0 6,0 7,2 5,4 1,5 | s 1,5 6,5 8,7 6,10 1,10",),
    "C": ("s 8,2 5,0 1,2 0,5 1,8 5,10 8,8",),
    "D": ("p 1,0 1,10 | s 1,0 5,0 8,3 8,7 5,10 1,10",),
    "E": ("p 7,0 1,0 1,10 7,10 | p 1,5 6,5", "s 7,1 4,0 2,2 4,5 1,7 3,10 7,9"),
    "F": ("p 7,0 1,0 1,10 | p 1,5 6,5",),
    "G": ("s 8,2 5,0 1,2 0,5 1,8 5,10 8,9 8,6 | p 8,6 5,6",),
    "H": ("p 1,0 1,10 | p 7,0 7,10 | p 1,5 7,5",),
    "I": ("p 4,0 4,10", "p 4,0 4,10 | p 1,0 7,0 | p 1,10 7,10"),
    "J": ("s 6,0 6,7 5,10 2,10 1,8", "p 3,0 8,0 | s 6,0 6,7 5,10 2,10 1,8"),
    "K": ("p 1,0 1,10 | p 7,0 1,6 | p 3,4 8,10",),
    "L": ("p 1,0 1,10 7,10",),
    "M": ("p 0,10 1,0 4,6 7,0 8,10", "p 0,10 0,0 4,5 8,0 8,10"),
    "N": ("p 1,10 1,0 7,10 7,0",),
    "O": (OVAL,),
    "P": ("p 1,0 1,10 | s 1,0 6,0 8,2 6,5 1,5",),
    "Q": (OVAL + " | p 5,7 8,10",),
    "R": ("p 1,0 1,10 | s 1,0 6,0 8,2 6,5 1,5 | p 4,5 8,10",),
    "S": ("s 8,1 5,0 1,1 1,4 4,5 7,6 8,8 5,10 0,9",),
    "T": ("p 0,0 8,0 | p 4,0 4,10",),
    "U": ("s 1,0 1,7 4,10 7,7 7,0",),
    "V": ("p 0,0 4,10 8,0",),
    "W": ("p 0,0 2,10 4,3 6,10 8,0", "s 0,0 1,9 3,9 4,4 5,9 7,9 8,0"),
    "X": ("p 0,0 8,10 | p 8,0 0,10",),
    "Y": ("p 0,0 4,5 8,0 | p 4,5 4,10",),
    "Z": ("p 0,0 8,0 0,10 8,10",),
    "a": ("s 7,5 4,4 1,5 1,9 4,10 7,8 7,5 | p 7,4 7,10",),
    "b": ("p 1,0 1,10 | s 1,6 4,4 7,6 7,9 4,10 1,9",),
    "c": ("s 7,5 4,4 1,6 1,8 4,10 7,9",),
    "d": ("p 7,0 7,10 | s 7,6 4,4 1,6 1,9 4,10 7,9",),
    "e": ("s 1,7 7,7 6,4 3,4 1,7 2,10 7,9",),
    "f": ("s 7,1 5,0 4,2 4,10 | p 1,4 7,4",),
    "g": ("s 7,2 4,0 1,2 2,5 5,5 7,2 | s 7,0 7,8 5,10 1,9",),
    "h": ("p 1,0 1,10 | s 1,6 4,4 7,6 7,10",),
    "i": ("p 4,4 4,10 | p 4,1 4,1",),
    "j": ("s 5,3 5,8 4,10 1,10 | p 5,0 5,0",),
    "k": ("p 1,0 1,10 | p 6,4 1,7 7,10",),
    "l": ("p 4,0 4,10", "s 3,0 3,8 4,10 6,10"),
    "m": ("p 0,4 0,10 | s 0,6 2,4 4,6 4,10 | s 4,6 6,4 8,6 8,10",),
    "n": ("p 1,4 1,10 | s 1,6 4,4 7,6 7,10",),
    "o": ("s 4,4 1,6 1,8 4,10 7,8 7,6 4,4",),
    "p": ("p 1,0 1,10 | s 1,2 4,0 7,2 6,5 3,6 1,5",),
    "q": ("p 7,0 7,10 | s 7,2 4,0 1,2 2,5 5,6 7,4",),
    "r": ("p 2,4 2,10 | s 2,6 4,4 7,4",),
    "s": ("s 7,4 4,4 1,5 4,7 7,8 5,10 1,10",),
    "t": ("s 4,0 4,9 5,10 7,10 | p 1,3 7,3",),
    "u": ("s 1,4 1,9 4,10 7,8 | p 7,4 7,10",),
    "v": ("p 1,4 4,10 7,4",),
    "w": ("p 0,4 2,10 4,5 6,10 8,4", "s 0,4 1,10 4,9 4,5 5,10 8,9 8,4"),
    "x": ("p 1,4 7,10 | p 7,4 1,10",),
    "y": ("p 1,3 4,7 | p 7,3 2,10", "s 1,0 1,4 4,5 7,3 | s 7,0 7,8 4,10 1,9"),
    "z": ("p 1,4 7,4 1,10 7,10",),
}


def parse(variant: str) -> list[tuple[str, np.ndarray]]:
    """Turn the written form of a glyph into (kind, points) strokes."""
    strokes = []
    for part in variant.split("|"):
        kind, *pairs = part.split()
        strokes.append((kind, np.array([pair.split(",") for pair in pairs], dtype=float)))
    return strokes


def densify(kind: str, points: np.ndarray, per_segment: int = 10) -> np.ndarray:
    """Return many points along a smooth (Catmull-Rom) or straight path."""
    steps = np.linspace(0, 1, per_segment, endpoint=False)[:, None]
    padded = np.concatenate([points[:1], points, points[-1:]])
    pieces = []
    for i in range(len(points) - 1):
        before, start, end, after = padded[i : i + 4]
        if kind == "p":
            pieces.append(start + steps * (end - start))
            continue
        m0, m1 = (end - before) / 2, (after - start) / 2
        s2, s3 = steps**2, steps**3
        pieces.append(
            (2 * s3 - 3 * s2 + 1) * start
            + (s3 - 2 * s2 + steps) * m0
            + (3 * s2 - 2 * s3) * end
            + (s3 - s2) * m1
        )
    return np.concatenate([*pieces, points[-1:]])


def draw_stroke_glyph(char: str, rng: np.random.Generator) -> np.ndarray:
    """Draw one hand-written-like glyph white on black, cropped to its ink."""
    variants = VARIANTS[char]
    strokes = parse(variants[rng.integers(len(variants))])
    jitter = rng.uniform(0.1, 0.6)
    angle, slant = rng.normal(0, 0.12), rng.normal(0, 0.2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scale = np.array([[rng.uniform(0.6, 1.15), 0], [-slant, 1.0]]) @ turn * 8
    side, width = 160, rng.uniform(3, 10.5)
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    for kind, points in strokes:
        points = points + rng.normal(0, jitter, points.shape)
        path = densify(kind, points) - (4, 5)
        path = path @ scale + side / 2
        widths = width * (1 + rng.uniform(0, 0.35) * np.sin(np.linspace(0, 3, len(path)) + angle))
        for start, end, size in zip(path[:-1], path[1:], widths, strict=False):
            draw.line([*start, *end], fill=255, width=max(1, int(size)))
            radius = size / 2
            draw.ellipse([*(end - radius), *(end + radius)], fill=255)
    box = image.getbbox()
    return np.asarray(image.crop(box))
