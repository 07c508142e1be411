"""Whether a method uses the texts of its classes: it is fitted again with two classes' exchanged.

A fit that trains is not repeated: its texts may act through a loss that need not move it (ProGrad
without a conflict of gradients). Of it, the reading of its texts is known.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fewshot_bench.api.metrics import gap
from fewshot_bench.images.features import accounted
from fewshot_bench.profiling.cost import not_counted
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner.cell_log import lose_output
from fewshot_bench.runner.fit import Context, Fitted, make_task, seed_of
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.utils.rng import isolate

# Logits (some, classes) of a fit for some queries of a cell, metered.
Ask = Callable[[Fitted, Cell, Meter], np.ndarray]


def find_text_gap(ask: Ask, fitted: Fitted, cell: Cell, session: Session) -> float | None:
    """How far logits move with the texts of two classes exchanged, as `metrics.gap`.

    0 for a method that never read its texts. None if it is unknown: the fit trained or fails, or
    all classes have the same texts.
    """
    space = fitted.cell.lists.fitted
    first, *others = space.texts
    other = next((place for place, texts in enumerate(others, 1) if texts != first), 0)
    if other and not fitted.texts_read:
        return 0.0
    if not other or fitted.trained["trained"] != 0:
        return None
    exchanged = (space.texts[other], *others[: other - 1], first, *others[other:])
    meter = Meter(fitted.backbone.device)

    def answer(texts: tuple[tuple[str, ...], ...]) -> np.ndarray:
        described = replace(space, texts=texts)
        own = replace(cell, lists=replace(cell.lists, fitted=described, evaluated=described))
        seed, backbone = seed_of(own), fitted.backbone
        if texts == space.texts:
            return ask(replace(fitted, cell=own), own, meter)
        context = Context(seed, backbone.device, cell.spec.precision, step="eager")
        with isolate(seed):
            task = make_task(own, session, meter)
            classifier = copy.copy(fitted.cell.method).fit(task, backbone, context)
        return ask(replace(fitted, cell=own, classifier=classifier), own, meter)

    try:
        with not_counted(), accounted(session.features, meter), lose_output():
            before, after = answer(space.texts), answer(exchanged)
    except Exception:
        return None
    return gap(after, before, before)
