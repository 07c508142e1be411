"""Whether a method uses the texts of its classes: it is fitted again with two classes' exchanged.

A fit that took long is not repeated: of it alone the reading of its texts is known.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fewshot_bench.api.metrics import TOLERANCE, gap
from fewshot_bench.api.violations import TEXTS_UNUSED
from fewshot_bench.images.features import accounted
from fewshot_bench.profiling.cost import not_counted
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner.cell_log import lose_output
from fewshot_bench.runner.examiner import LabelSpace
from fewshot_bench.runner.fit import Context, Fitted, make_task, seed_of
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.runner.verification import ASKED
from fewshot_bench.utils.rng import isolate

# Longest fit, in seconds, that is repeated.
LONGEST = 2.0


def exchange(space: LabelSpace) -> LabelSpace | None:
    """The classes with the texts of the first two that differ in them exchanged; None without."""
    texts = [*space.texts]
    other = next((index for index, each in enumerate(texts) if each != texts[0]), 0)
    if not other:
        return None
    texts[0], texts[other] = texts[other], texts[0]
    return replace(space, texts=tuple(texts))


def find_text_gap(
    answer: Callable[..., tuple[np.ndarray, Any]], fitted: Fitted, cell: Cell, session: Session
) -> float | None:
    """How far logits move with the texts of two classes exchanged, as `metrics.gap`.

    answer: as in `verify`. 0 for a method that never read its texts. None if it is unknown: the
    fit took long, or fails.
    """
    space = fitted.cell.lists.fitted
    other = exchange(space)
    if other is None:
        return None
    if not fitted.texts_read:
        return 0.0
    if fitted.meter.timings()["phases"]["fit"]["elapsed"]["wall"] > LONGEST:
        return None
    own, changed = (
        replace(cell, lists=replace(cell.lists, fitted=each, evaluated=each))
        for each in (space, other)
    )
    backbone, meter = fitted.backbone, Meter(fitted.backbone.device)
    few = [range(min(ASKED, cell.lists.queries.count))]

    def ask(other: Fitted) -> np.ndarray:
        rows, columns = answer(other, other.cell, session, meter, few)
        return np.asarray(rows[:, columns])

    context = Context(seed_of(own), backbone.device, cell.spec.precision, step="eager")
    try:
        with not_counted(), accounted(session.features, meter), lose_output():
            before = ask(replace(fitted, cell=own))
            with isolate(seed_of(own)):
                task = make_task(changed, session, meter)
                classifier = copy.copy(fitted.cell.method).fit(task, backbone, context)
            after = ask(replace(fitted, cell=changed, classifier=classifier))
    except Exception:
        return None
    return gap(after, before, before)


def list_unused(text_gap: float | None, precision: str) -> list[str]:
    """The violation of a method that does not use its texts."""
    return [TEXTS_UNUSED] if text_gap is not None and text_gap <= TOLERANCE[precision] else []
