"""AugMix as its paper describes it, on arrays (h, w, 3): each operation by its definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def stretch(image: Array) -> Array:
    """Autocontrast: each channel over the full range."""
    low, high = image.min((0, 1)).astype(float), image.max((0, 1)).astype(float)
    scale = 255 / np.maximum(high - low, 1)
    return np.where(high > low, np.clip(np.floor(image * scale - low * scale), 0, 255), image)


def equalize(image: Array) -> Array:
    """Each channel with a uniform distribution, in whole steps of its histogram."""
    out = np.empty_like(image)
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        seen = counts[counts > 0]
        step = (seen.sum() - seen[-1]) // 255 if len(seen) > 1 else 0
        levels = np.arange(256)
        if step:
            before = np.concatenate([[0], np.cumsum(counts)[:-1]])
            levels = np.minimum(255, (step // 2 + before) // step)
        out[..., channel] = levels[image[..., channel]]
    return out


def posterize(image: Array) -> Array:
    """The four high bits: at severity 1 the number of bits is always four."""
    return image & 0xF0


def solarize(image: Array, share: float) -> Array:
    """Inverted from a threshold on."""
    return np.where(image < 256 - int(256 * share), image, 255 - image)


def sample(image: Array, source: Callable[[float, float], tuple[float, float]]) -> Array:
    """Every pixel from the place (x, y) that `source` gives for it, bilinear; outside is black."""
    height, width, _ = image.shape
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            place = source(x + 0.5, y + 0.5)
            if not (0 <= place[0] < width and 0 <= place[1] < height):
                continue
            across, down = place[0] - 0.5, place[1] - 0.5
            left, top = int(np.floor(across)), int(np.floor(down))
            dx, dy = across - left, down - top
            columns = np.clip([left, left + 1], 0, width - 1)
            rows = np.clip([top, top + 1], 0, height - 1)
            four = image[np.ix_(rows, columns)].astype(float)
            value = np.tensordot([1 - dy, dy], np.tensordot(four, [1 - dx, dx], (1, 0)), (0, 0))
            out[y, x] = np.floor(value)
    return out


def alter(name: str, image: Array, share: float, sign: int) -> Array:
    """One operation; `share` of its range, in the direction `sign`."""
    height, width, _ = image.shape
    if name == "rotate":
        angle = np.deg2rad(-sign * int(30 * share))
        cos, sin, mid = np.cos(angle), np.sin(angle), (width / 2, height / 2)

        def turned(x: float, y: float) -> tuple[float, float]:
            x, y = x - mid[0], y - mid[1]
            return cos * x + sin * y + mid[0], -sin * x + cos * y + mid[1]

        return sample(image, turned)
    moves: dict[str, Callable[[float, float], tuple[float, float]]] = {
        "shear x": lambda x, y: (x + sign * 0.3 * share * y, y),
        "shear y": lambda x, y: (x, y + sign * 0.3 * share * x),
        "translate x": lambda x, y: (x + sign * int(width / 3 * share), y),
        "translate y": lambda x, y: (x, y + sign * int(height / 3 * share)),
    }
    if name in moves:
        return sample(image, moves[name])
    plain = {"autocontrast": stretch, "equalize": equalize, "posterize": posterize}
    return plain[name](image) if name in plain else solarize(image, share)


NAMES = (
    "autocontrast",
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear x",
    "shear y",
    "translate x",
    "translate y",
)
