"""Asks a fitted method for some queries again, to see if its logits depend on the other ones.

`ask_again` is the entry point. Whoever answers from memory what it was asked before is not noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from fewshot_bench.api.closeness import TOLERANCE, gap

ASKED = 16
ALONE = 2


class Verdict(NamedTuple):
    """depends: None if it is unknown. gap: as `closeness.gap`; None if the method failed."""

    depends: bool | None = None
    gap: float | None = None


def ask_again(
    ask: Callable[[list[int]], np.ndarray], answers: np.ndarray, precision: str
) -> Verdict:
    """Compare `answers` (n, classes) with those to some of the queries, in another order and alone.

    ask: maps places among the n queries to their logits (places, classes). A method that fails then
    depends on the others, too: it cannot answer without them.
    """
    if len(answers) < 2:
        return Verdict()
    try:
        gaps = [gap(ask(order), answers[order], answers) for order in _orders(len(answers))]
    except (MemoryError, torch.OutOfMemoryError):
        return Verdict()
    except (Exception, SystemExit):
        return Verdict(depends=True)
    largest = max(gaps)
    return Verdict(largest > TOLERANCE[precision], largest)


def _orders(count: int) -> Iterator[list[int]]:
    """Places of queries: spread over all of them, backwards, and some of these alone."""
    asked = min(ASKED, count)
    order = [place * count // asked for place in range(asked)][::-1]
    yield order
    for place in order[:ALONE]:
        yield [place]
