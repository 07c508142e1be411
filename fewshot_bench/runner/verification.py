"""Verification of what a method declares: some queries are asked for again, in other company.

`verify` is called after the normal answer. Nothing of it gets into a record's costs or log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fewshot_bench.api.metrics import TOLERANCE, gap
from fewshot_bench.images.features import accounted
from fewshot_bench.profiling.cost import not_counted
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner.cell_log import lose_output
from fewshot_bench.runner.faults import device_fault, out_of_memory
from fewshot_bench.runner.fit import Fitted, seed_of
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.utils.rng import derive, isolate

# Queries that are asked for again, in another order and alone.
ASKED = 16
ALONE = 2


class Verdict(NamedTuple):
    """depends: None if it is unknown. gap: as `closeness.gap`; None if the method failed."""

    depends: bool | None = None
    gap: float | None = None


# Logits (places, classes) of places among the queries, metered.
Answer = Callable[[Meter, list[int]], np.ndarray]


def verify(
    answer: Answer, answers: np.ndarray, fitted: Fitted, cell: Cell, session: Session
) -> Verdict:
    """Compare a query's logits alone and among others. answers: all of them, (n, classes)."""
    meter, declared = Meter(fitted.backbone.device), fitted.context.declarations()

    def ask(order: list[int]) -> np.ndarray:
        with isolate(derive(seed_of(fitted.cell), "predict")):
            return answer(meter, order)

    with not_counted(), accounted(session.features, meter), lose_output():
        verdict = ask_again(ask, answers, cell.spec.precision)
    fitted.context.restore(declared)
    return verdict


def ask_again(
    ask: Callable[[list[int]], np.ndarray], answers: np.ndarray, precision: str
) -> Verdict:
    """Compare `answers` (n, classes) with those to some of the queries, in another order and alone.

    ask: maps places among the n queries to their logits (places, classes). A method that fails then
    depends on the others, too: it cannot answer without them.
    """
    if len(answers) < 2:
        return Verdict()
    # Spread over all of them, backwards; and some of these alone.
    count = min(ASKED, len(answers))
    spread = [index * len(answers) // count for index in range(count)][::-1]
    orders = [spread, *([index] for index in spread[:ALONE])]
    try:
        gaps = [gap(ask(order), answers[order], answers) for order in orders]
    except (Exception, SystemExit) as error:
        if device_fault(error):
            raise
        return Verdict(depends=None if out_of_memory(error) else True)
    largest = max(gaps)
    return Verdict(largest > TOLERANCE[precision], largest)
