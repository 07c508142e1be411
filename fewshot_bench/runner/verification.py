"""Verification of what a card declares: some queries are asked for again, in other company.

`verify` is called after the normal answer; `verdict.judge` judges what it collects. Nothing of it
gets into a record's costs or log.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

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
    STATE_KEPT,
    UNSTEADY,
)
from fewshot_bench.images.features import accounted
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.cost import not_counted, telling
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner.cell_log import lose_output
from fewshot_bench.runner.faults import device_fault, out_of_memory
from fewshot_bench.runner.fit import Context, Fitted, make_task, seed_of
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.runner.verdict import ASKED, Comparison, count_asked, judge
from fewshot_bench.utils.rng import derive, isolate

# Sizes of a small batch, of the largest batch or stream, and of the parts of a stream.
FEW, MOST, PART = 5, 256, 7

Groups = Sequence[Sequence[int]]
# Rows and the columns of them that count, as `evaluate` asks for them.
Answer = Callable[..., tuple[np.ndarray, Any]]
Verified = tuple[Mapping[str, Any], Sequence[Comparison]]
# The facts of a footprint where nothing was verified.
UNKNOWN: Verified = {**judge((), np.empty((0, 1)), "fp32")}, ()


def verify(
    answer: Answer,
    answers: np.ndarray,
    meter: Meter,
    fitted: Fitted,
    cell: Cell,
    session: Session,
) -> Verified:
    """Compare the answers to a cell's queries, (n, classes), with those in other company.

    meter: the bill of the answers. Returns facts for a footprint, and what they follow from:
    nothing is known of a method that runs out of memory here.
    """
    other, declared = copy.deepcopy(fitted.meter), fitted.context.declarations()
    card = read_card(cell.method)

    def ask(groups: Groups, anew: bool) -> np.ndarray:
        with isolate(derive(seed_of(fitted.cell), "again" if anew else "predict")):
            rows, columns = answer(fitted, cell, session, other, groups, part=PART)
        return np.asarray(rows[:, columns])

    try:
        with not_counted(), accounted(session.features, other), lose_output():
            source = session.source(cell.lists.queries, cell.spec)
            # An order that follows from the images of queries and support alone.
            key = cell.lists.picks.encode()[:64]
            ranks = [hashlib.blake2b(digest, key=key).digest() for digest in source.digests]
            ranked = sorted(range(len(ranks)), key=ranks.__getitem__)
            precision, count = cell.spec.precision, count_asked(len(ranked))
            witness = Witness(ask, answers, ranked, precision, count)
            witness.ask(card.sees, cell.lists.groups)
            witness.count_views(source, meter, fitted.meter, card.views_per_query)
    except (Exception, SystemExit) as error:
        if not out_of_memory(error):
            raise
        return UNKNOWN
    finally:
        fitted.context.restore(declared)
    return witness.facts, witness.compared


def encoded_each(count: int, meter: Meter, of_fit: Meter) -> float | None:
    """Images encoded for each of some queries, by the bill of a cell; None if that is not known."""
    billed, before = meter.images_billed, of_fit.images_billed
    if billed is None or before is None or not count:
        return None
    return round((billed - before) / count, 4)


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
        self._ask, self._answers, self._precision = ask, answers, precision
        self._ranked, self.chosen = [*ranked], [*ranked[:count]]
        self.compared: list[Comparison] = []
        self._hides_views = False

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts so far, as a footprint states them: those of `judge`, and hidden views."""
        facts = judge(self.compared, self._answers, self._precision)
        hidden = [HIDDEN_VIEWS] * self._hides_views
        return {**facts, "violations": [*facts["violations"], *hidden]}

    def ask(self, sees: str, groups: Groups) -> None:
        """Ask for what must not change the answers. groups: those of the answers."""
        if len(self._answers) < 2:
            return
        if sees == "batch":
            self._ask_batches(groups)
        elif sees == "stream":
            self._ask_stream(groups[0])
        else:
            alone = [[place] for place in self.chosen]
            self._ask_in_company(0, DEPENDENT)
            self._compare(DEPENDENT, alone, self._answers[self.chosen], company=True)

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
            self._compare(LEAK, [other, batch], expected, len(other))
        if expected is not None and LEAK not in self.facts["violations"]:
            self._compare(POSITION, [batch[::-1]], expected[::-1])
        predicted = answers.argmax(axis=1)
        alike = [place for place in self._ranked if predicted[place] == predicted[first]]
        unusual = [[first], self._ranked[:FEW], alike[:ASKED], [first] * FEW]
        self._compare(NEEDS_MANY, unusual, answers[:0])
        self._ask_in_company(len(batch))

    def _ask_stream(self, order: Sequence[int]) -> None:
        """The beginning of a stream in other parts, with others behind it."""
        head = [*order[: max(1, min(len(order), MOST) // 2)]]
        inside = {*head}
        tail = [place for place in self._ranked if place not in inside][:ASKED]
        self._compare(LOOKS_AHEAD, [head + tail], self._answers[head])
        found = self.compared[-1]
        # In less than a part, a method that looks ahead sees less of the stream.
        again = found.again if found.violation == LOOKS_AHEAD and len(head) >= PART else None
        if again is not None and self._differ(again, found.expected):
            is_ahead = self._differ(self._rows([head[:FEW]]), again[:FEW])
            cause = LOOKS_AHEAD if is_ahead else STATE_KEPT
            self.compared[-1] = found._replace(violation=cause)
        self._ask_in_company(len(order))

    def _ask_in_company(self, size: int, violation: str = "") -> None:
        """The chosen ones, behind others of a batch or stream of this size."""
        places, others = self.chosen[::-1], self._ranked[len(self.chosen) :]
        count = max(0, min(min(size, MOST) - len(places), len(others) // 2))
        expected = self._answers[places]
        self._compare(violation, [others[:count] + places], expected, count, company=True)

    def count_views(self, source: ImageSource, meter: Meter, of_fit: Meter, most: int) -> None:
        """A violation if more than `most` views of a query are encoded, the plain one included.

        meter: the bill of the answers. What a method encodes by itself is counted by content, as
        several encoders may see one view.
        """
        if (encoded_each(len(self._answers), meter, of_fit) or 0) <= most:
            return
        augmented = (meter.views_encoded - of_fit.views_encoded) / len(self._answers)
        seen: set[bytes] = set()

        def tell(images: Tensor) -> None:
            rows = images.detach().float().cpu().numpy()
            seen.update(hashlib.blake2b(row.tobytes()).digest() for row in rows)

        for pixels in source.batches(ASKED, self.chosen):
            tell(pixels)
        with telling(tell):
            self._rows([[place] for place in self.chosen])
        if augmented + len(seen) / len(self.chosen) > most:
            self._hides_views = True

    def _compare(
        self,
        violation: str,
        groups: Groups,
        expected: np.ndarray,
        start: int = 0,
        *,
        company: bool = False,
    ) -> None:
        """Ask for groups, and compare the rows from `start` on; violation: if these differ."""
        rows = self._rows(groups)
        part = None if rows is None else rows[start : start + len(expected)]
        if violation and self._differ(part, expected):
            violation = self._find_cause(violation, groups, rows)
        self.compared.append(Comparison(violation, company, expected, part))

    def _find_cause(self, violation: str, groups: Groups, rows: np.ndarray | None) -> str:
        """The violation that explains the answers `rows`: the seed, what was asked before, or this.

        The same question follows itself, so that the second to the fourth answer have one past.
        """
        once, twice, anew = (self._rows(groups, seed) for seed in (False, False, True))
        if any(one is None for one in (rows, once, twice, anew)):
            return violation
        steady = not self._differ(once, twice)
        if steady and self._differ(once, anew):
            return UNSTEADY
        is_named = violation in (DEPENDENT, LEAK) or (steady and not self._differ(once, rows))
        return violation if is_named else STATE_KEPT

    def _differ(self, rows: np.ndarray | None, expected: np.ndarray | None) -> bool:
        if expected is None:
            return True
        gap = Comparison("", False, expected, rows).gap(self._answers)
        return gap > TOLERANCE[self._precision]

    def _rows(self, groups: Groups, anew: bool = True) -> np.ndarray | None:
        """Logits of groups; None if the method fails, whatever the reason in its code."""
        try:
            return self._ask(groups, anew)
        except (Exception, SystemExit) as error:
            if device_fault(error) or out_of_memory(error):
                raise
            return None


def find_text_gap(answer: Answer, fitted: Fitted, cell: Cell, session: Session) -> float | None:
    """The gap (`metrics.gap`) of logits with the texts of two classes exchanged.

    0 for a method that never read its texts. None if it is unknown: all classes have the same
    texts, the fit fails, or it trains, so that texts may act by a loss that need not move it
    (ProGrad without a conflict of gradients).
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
    few = [range(min(ASKED, cell.lists.queries.count))]

    def ask(other: Fitted) -> np.ndarray:
        rows, columns = answer(other, other.cell, session, meter, few)
        return np.asarray(rows[:, columns])

    try:
        with not_counted(), accounted(session.features, meter), lose_output():
            before = ask(replace(fitted, cell=own))
            with isolate(seed_of(own)):
                task = make_task(exchanged, session, meter)
                classifier = copy.copy(fitted.cell.method).fit(task, backbone, context)
            after = ask(replace(fitted, cell=exchanged, classifier=classifier))
            return gap(after, before, before)
    except Exception:
        return None
