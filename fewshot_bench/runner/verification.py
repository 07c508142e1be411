"""Verification of what a card declares: some queries are asked for again, in other company.

`verify` is called after the normal answer. Nothing of it gets into a record's costs or log.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fewshot_bench.api.method_card import read_card
from fewshot_bench.api.metrics import TOLERANCE, gap
from fewshot_bench.api.violations import (
    DEPENDENT,
    HIDDEN_VIEWS,
    LEAK,
    LOOKS_AHEAD,
    NEEDS_MANY,
    POSITION,
    UNSTEADY,
)
from fewshot_bench.images.features import accounted
from fewshot_bench.profiling.cost import not_counted, telling
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner.cell_log import lose_output
from fewshot_bench.runner.faults import device_fault, out_of_memory
from fewshot_bench.runner.fit import Context, Fitted, make_task, seed_of
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.utils.rng import derive, isolate

# Queries that are asked for again, in how small a batch, and in how large a batch or stream.
ASKED, FEW, MOST = 16, 5, 256
# Queries of a stream that are answered at once then.
PART = 7

Groups = Sequence[Sequence[int]]
# Logits (places, classes) of groups of places among the queries, one group after the other: metered
# by a meter, and streams in parts of a size.
Answer = Callable[[Meter, Groups, int], np.ndarray]


class Verdict(NamedTuple):
    """What a record states of a verification.

    depends: whether logits change with the other queries; None if it is unknown. gap: by how much,
    as `metrics.gap`; None if the method failed. moved: the share of answers that other companions
    change. violations: what is not as the card declares, of `VIOLATIONS`.
    """

    depends: bool | None = None
    gap: float | None = None
    moved: float | None = None
    violations: tuple[str, ...] = ()


def verify(
    answer: Answer,
    answers: np.ndarray,
    meter: Meter,
    fitted: Fitted,
    cell: Cell,
    session: Session,
) -> Verdict:
    """Compare the answers to a cell's queries, (n, classes), with those in other company.

    meter: the bill of the answers. A method that runs out of memory here has no verdict.
    """
    other, declared = copy.deepcopy(fitted.meter), fitted.context.declarations()
    card = read_card(cell.method)

    def ask(groups: Groups, anew: bool) -> np.ndarray:
        with isolate(derive(seed_of(fitted.cell), "again" if anew else "predict")):
            return answer(other, groups, PART)

    try:
        with not_counted(), accounted(session.features, other), lose_output():
            source = session.source(cell.lists.queries, cell.spec)
            ranked = rank(source.digests, cell.lists.picks)
            count = min(ASKED, max(1, len(ranked) // 2))
            witness = Witness(ask, answers, ranked, cell.spec.precision, count)
            if len(answers) > 1:
                witness.ask(card.sees, cell.lists.groups)
            if (encoded_for(answers, meter, fitted) or 0) > card.views_per_query:
                augmented = (meter.views_encoded - fitted.meter.views_encoded) / len(answers)
                plain = source.batches(ASKED, witness.chosen)
                witness.count_views(plain, augmented, card.views_per_query)
    except (Exception, SystemExit) as error:
        if not out_of_memory(error):
            raise
        return Verdict()
    finally:
        fitted.context.restore(declared)
    return witness.verdict


def encoded_for(answers: np.ndarray, meter: Meter, fitted: Fitted) -> float | None:
    """Images encoded per query on the bill of the answers; None if that is not known."""
    with_fit, of_fit = meter.images_billed, fitted.meter.images_billed
    if with_fit is None or of_fit is None or not len(answers):
        return None
    return round((with_fit - of_fit) / len(answers), 4)


def rank(digests: Sequence[bytes], seed: str) -> list[int]:
    """Places of queries in an order that follows from their images and a seed alone."""
    ranks = [hashlib.blake2b(digest, key=seed.encode()[:64]).digest() for digest in digests]
    return sorted(range(len(ranks)), key=ranks.__getitem__)


class Witness:
    """Asks a fitted method again and compares with its answers (n, classes).

    ask: logits of groups of places; with `anew`, under another seed of the global generators.
    ranked: all places; the first `count` of them are `chosen`.
    """

    def __init__(
        self,
        ask: Callable[[Groups, bool], np.ndarray],
        answers: np.ndarray,
        ranked: Sequence[int],
        precision: str,
        count: int,
    ) -> None:
        self._ask, self._answers, self._tolerance = ask, answers, TOLERANCE[precision]
        self._ranked, self.chosen = [*ranked], [*ranked[:count]]
        self._gap, self._moved = 0.0, math.nan
        self._violations: dict[str, None] = {}

    @property
    def verdict(self) -> Verdict:
        """What was found so far."""
        known = len(self._answers) > 1
        return Verdict(
            self._gap > self._tolerance if known else None,
            self._gap if known and math.isfinite(self._gap) else None,
            self._moved if math.isfinite(self._moved) else None,
            (*self._violations,),
        )

    def ask(self, sees: str, groups: Groups) -> None:
        """Ask for what must not change the answers. groups: those of the answers."""
        if sees == "batch":
            self._ask_batches(groups)
        elif sees == "stream":
            self._ask_stream(groups[0])
        else:
            alone = [[place] for place in self.chosen]
            self._gap, _ = self._judge(DEPENDENT, alone, self._answers[self.chosen])
            self._ask_in_company(0, DEPENDENT)

    def _ask_batches(self, batches: Groups) -> None:
        """A batch after another one and in another order, and batches that are unusual."""
        answers, first = self._answers, self.chosen[0]
        batch = [*next(batch for batch in batches if first in batch)]
        expected: np.ndarray | None = answers[batch]
        if len(batch) > MOST:
            inside = {*batch}
            batch = [place for place in self._ranked if place in inside][:MOST]
            expected = self._rows([batch])
        other = next(([*other][:MOST] for other in batches if first not in other), None)
        if expected is not None and other:
            self._judge(LEAK, [other, batch], expected, len(other))
        if expected is not None and LEAK not in self._violations:
            self._judge(POSITION, [batch[::-1]], expected[::-1])
        predicted = answers.argmax(axis=1)
        alike = [place for place in self._ranked if predicted[place] == predicted[first]]
        unusual = [[first], self._ranked[:FEW], alike[:ASKED], [first] * FEW]
        self._judge(NEEDS_MANY, unusual, answers[:0])
        self._ask_in_company(len(batch))

    def _ask_stream(self, order: Sequence[int]) -> None:
        """The beginning of a stream in other parts, with others behind it."""
        head = [*order[: max(1, min(len(order), MOST) // 2)]]
        inside = {*head}
        tail = [place for place in self._ranked if place not in inside][:ASKED]
        self._judge(LOOKS_AHEAD, [head + tail], self._answers[head])
        self._ask_in_company(len(order))

    def _ask_in_company(self, size: int, violation: str = "") -> None:
        """The chosen ones, behind others of a batch or stream of this size."""
        places, others = self.chosen[::-1], self._ranked[len(self.chosen) :]
        count = max(0, min(min(size, MOST) - len(places), len(others) // 2))
        expected = self._answers[places]
        found, rows = self._judge(violation, [others[:count] + places], expected, count)
        self._gap = max(self._gap, found)
        if rows is not None:
            self._moved = float((rows.argmax(axis=1) != expected.argmax(axis=1)).mean())

    def count_views(self, plain: Iterable[Tensor], augmented: float, most: int) -> None:
        """A violation if more than `most` views of a query are encoded, the plain one included.

        plain: pixels of the chosen ones. augmented: frozen features of views per query. What a
        method encodes by itself is counted by content, as several encoders may see one view.
        """
        seen: set[bytes] = set()

        def tell(images: Tensor) -> None:
            rows = images.detach().float().cpu().numpy()
            seen.update(hashlib.blake2b(row.tobytes()).digest() for row in rows)

        for pixels in plain:
            tell(pixels)
        with telling(tell):
            self._rows([[place] for place in self.chosen])
        if augmented + len(seen) / len(self.chosen) > most:
            self._violations[HIDDEN_VIEWS] = None

    def _judge(
        self, violation: str, groups: Groups, expected: np.ndarray, start: int = 0
    ) -> tuple[float, np.ndarray | None]:
        """The gap of the rows from `start` on, and these; a violation, if named, if it is large.

        The same question under the same seed tells a method that draws from global generators.
        """
        rows = self._rows(groups)
        part = None if rows is None else rows[start : start + len(expected)]
        found = self._differ(part, expected)
        if violation and found > self._tolerance:
            once, twice = self._rows(groups, False), self._rows(groups, False)
            steady = self._differ(once, twice) <= self._tolerance
            draws = steady and rows is not None and self._differ(once, rows) > self._tolerance
            self._violations[UNSTEADY if draws else violation] = None
        return found, part

    def _differ(self, rows: np.ndarray | None, expected: np.ndarray | None) -> float:
        if rows is None or expected is None:
            return math.inf
        return gap(rows, expected, self._answers)

    def _rows(self, groups: Groups, anew: bool = True) -> np.ndarray | None:
        """Logits of groups; None if the method fails, whatever the reason in its code."""
        try:
            return self._ask(groups, anew)
        except (Exception, SystemExit) as error:
            if device_fault(error) or out_of_memory(error):
                raise
            return None


def find_text_gap(
    ask: Callable[[Fitted, Cell, Meter], np.ndarray], fitted: Fitted, cell: Cell, session: Session
) -> float | None:
    """How far logits move with the texts of two classes exchanged, as `metrics.gap`.

    ask: logits of a fit for some queries of a cell. 0 for a method that never read its texts. None
    if it is unknown: all classes have the same texts, the fit fails, or it trains, so that texts
    may act by a loss that need not move it (ProGrad without a conflict of gradients).
    """
    space, backbone = fitted.cell.lists.fitted, fitted.backbone
    texts, meter = [*space.texts], Meter(fitted.backbone.device)
    other = next((place for place, each in enumerate(texts) if each != texts[0]), 0)
    if other and not fitted.texts_read:
        return 0.0
    if not other or fitted.trained["trained"] != 0:
        return None
    texts[0], texts[other] = texts[other], texts[0]
    changed = replace(space, texts=tuple(texts))
    own, exchanged = (
        replace(cell, lists=replace(cell.lists, fitted=each, evaluated=each))
        for each in (space, changed)
    )
    context = Context(seed_of(own), backbone.device, cell.spec.precision, step="eager")
    try:
        with not_counted(), accounted(session.features, meter), lose_output():
            before = ask(replace(fitted, cell=own), own, meter)
            with isolate(seed_of(own)):
                task = make_task(exchanged, session, meter)
                classifier = copy.copy(fitted.cell.method).fit(task, backbone, context)
            other_fit = replace(fitted, cell=exchanged, classifier=classifier)
            return gap(ask(other_fit, exchanged, meter), before, before)
    except Exception:
        return None
