"""AugMix (Hendrycks et al., ICLR 2020) at severity 1: a crop blended with three altered copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
CHAINS, LONGEST = 3, 3
NUMBERS = CHAINS + 1 + CHAINS * (1 + 3 * LONGEST)
# The least and the most strength at severity 1, in tenths of an operation's range.
WEAKEST, STRONGEST = 0.1, 1.0
BILINEAR = Image.Resampling.BILINEAR


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=BILINEAR)


# Each gets the image, the share of its range, and a sign.
OPERATIONS: tuple[Callable[[Image.Image, float, int], Image.Image], ...] = (
    lambda image, share, sign: ImageOps.autocontrast(image),
    lambda image, share, sign: ImageOps.equalize(image),
    lambda image, share, sign: ImageOps.posterize(image, 4 - int(4 * share)),
    lambda image, share, sign: image.rotate(sign * int(30 * share), resample=BILINEAR),
    lambda image, share, sign: ImageOps.solarize(image, 256 - int(256 * share)),
    lambda image, share, sign: _affine(image, 1, sign * 0.3 * share, 0, 0, 1, 0),
    lambda image, share, sign: _affine(image, 1, 0, 0, sign * 0.3 * share, 1, 0),
    lambda image, share, sign: _affine(image, 1, 0, sign * int(image.width / 3 * share), 0, 1, 0),
    lambda image, share, sign: _affine(image, 1, 0, 0, 0, 1, sign * int(image.height / 3 * share)),
)


def mix(pixels: Pixels, numbers: Sequence[float]) -> Pixels:
    """Blend pixels (h, w, 3) with three copies, each altered by one to three of nine operations.

    Weights are Dirichlet(1) among the copies and Beta(1, 1) between them and the original. The
    blend is rounded to whole levels. numbers: `NUMBERS` of [0, 1).
    """
    drawn, image = iter(numbers), Image.fromarray(pixels)
    weights = -np.log1p(-np.array([next(drawn) for _ in range(CHAINS)]))
    weights /= weights.sum()
    kept, mixed = next(drawn), np.zeros(pixels.shape)
    for weight in weights:
        altered, length = image, 1 + int(LONGEST * next(drawn))
        for step in range(LONGEST):
            which, strength, sign = next(drawn), next(drawn), next(drawn)
            if step < length:
                share = (WEAKEST + (STRONGEST - WEAKEST) * strength) / 10
                altered = OPERATIONS[int(len(OPERATIONS) * which)](
                    altered, share, -1 if sign > 0.5 else 1
                )
        mixed += weight * np.asarray(altered)
    return np.rint(kept * pixels + (1 - kept) * mixed).astype(np.uint8)
