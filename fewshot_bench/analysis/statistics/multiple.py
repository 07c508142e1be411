"""Many tests at once: p-values that stay honest for the whole family."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fewshot_bench.utils.errors import UsageError


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm's step-down method, in the order given.

    Calling those below 5 % differences is wrong about any one of them at most 5 % of the time,
    whatever their dependence (Holm 1979). UsageError for a value that is not a probability.
    """
    for value in p:
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise UsageError(f"p-value {value}: expected a number from 0 to 1")
    adjusted = [0.0] * len(p)
    largest = 0.0
    for step, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - step) * float(p[index])))
        adjusted[index] = largest
    return adjusted
