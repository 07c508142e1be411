"""Whether two matrices of logits are the same up to rounding: `gap`.

The conformance kit and the harness ask a fitted method again with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Largest gap that is taken for rounding, by precision: encoders round an image otherwise in another
# batch, and in 16 bits every product does.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.25, "fp16": 0.05}
# The resolution of float32: below it, the spread of nearly equal logits says nothing.
_RESOLUTION = 1e-6


def gap(logits: np.ndarray, expected: np.ndarray, whole: np.ndarray) -> float:
    """The largest difference of two matrices of one shape, relative to the spread of `whole`.

    whole: all logits, of which `expected` are some rows.
    """
    largest = float(abs(logits - expected).max()) if expected.size else 0.0
    spread = max(float(whole.std()), _RESOLUTION * float(abs(whole).max())) if largest else 1.0
    return largest / spread if spread else math.inf
