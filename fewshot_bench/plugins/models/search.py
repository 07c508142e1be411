"""The search among methods: fits fold by fold within a budget, and drops clear losers.

`Search` is the entry point. Only complete repeats count, and methods are compared on the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.models import estimates
from fewshot_bench.plugins.models.budget import SLOWER, Budget, OverBudget, duration, roomy
from fewshot_bench.plugins.models.fitting import FitRunner
from fewshot_bench.plugins.models.material import FOLDS, Fold, repeat_folds, with_validation
from fewshot_bench.runner.variants import Variant
from fewshot_bench.store.kept_models import TOP1
from fewshot_bench.utils.errors import NotApplicableError, UnsupportedBackboneError, UsageError
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fewshot_bench.plugins.models.estimates import Shares, Units
    from fewshot_bench.runner.fit import Fitted

TIERS = (
    ("zero-shot",),
    (
        *("lp++", "tip-adapter", "proker", "linear-probe", "clap", "gda", "ape", "tip-adapter-f"),
        *("zs-lp", "ape-t", "cross-modal", "wise-ft", "clip-adapter", "taskres"),
    ),
    (
        *("clip-lora", "dora", "vpt-shallow", "vpt-deep", "coop", "kgcoop", "prograd"),
        *("ivlp", "maple", "cocoop"),
    ),
)
"""Methods from cheap to expensive: without training images, heads on frozen features, trained
through the encoders. Methods of a tier cost about the same in use; others come after the last."""
NO_TWO = "no class has two different images of its own"
ONE_SHOT = "clap"
"""Chosen if no class has two different images, so that none can be held out: the best of eight
methods at one shot without validation images (`tiny`; digits, shapes, ten classes of DTD)."""
CHEAPEST = "lp++"
"""Tried first, and chosen if the budget ends before heads were compared: it takes a fraction of a
second, and is good without choosing by validation images."""
REPEATS = 3
# Images that are encoded before timing starts, and then between two checks of the budget.
FIRST, CHUNK = 16, 64
# Share of the budget that must be left for a first fit, whose time nobody knows.
UNKNOWN = 0.25
LOST, WHOLE = "clearly worse", " (all images)"
FAILED, INAPPLICABLE = "failed", "not applicable"


@dataclass
class Candidate:
    """A method and its results.

    validation: whether it chooses settings by validation images, which are then set apart; None
    before the first fit. logits: (images, classes) by repeat, NaN for images that were not held
    out. parts: (images,) by repeat, the fold of each. seconds: of each fit. dropped: why it is no
    longer tried. whole: True for the twin of such a method that sets no validation images apart.
    """

    variant: Variant
    validation: bool | None = None
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    parts: list[NDArray[np.int64]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    dropped: str = ""
    whole: bool = False

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.variant.method

    @property
    def title(self) -> str:
        """Name in tables."""
        return self.name + WHOLE * self.whole

    @property
    def repeats(self) -> int:
        """Number of complete repeats."""
        return len(self.logits)

    @property
    def each(self) -> float:
        """Seconds of the longest fit, leaving out the first, which encodes for all others."""
        return max(self.seconds[1:] or self.seconds, default=0.0)

    def right(self, units: Units, repeats: int) -> Shares:
        """(units,) share of the first `repeats` repeats with the right answer."""
        answers = np.stack(self.logits[:repeats])[:, units.places].argmax(axis=2)
        return units.mean((answers == units.labels[units.units]).mean(axis=0))

    def score(self, units: Units, repeats: int) -> Shares:
        """(units,) scores for `estimates.best_of`."""
        logits = np.stack(self.logits[:repeats])[:, units.places]
        probabilities = estimates.true_probabilities(logits, units.labels[units.units])
        return self.right(units, repeats) + units.mean(probabilities)


class Search:
    """Candidates from cheap to expensive on repeated folds.

    metric: one of `kept_models.MEASURES`. stopped: why the search ended early; why: the reason for
    the choice, once `choose` made it. whole: no candidate sets validation images apart.
    """

    def __init__(
        self,
        runner: FitRunner,
        variants: Sequence[Variant],
        budget: Budget,
        repeats: int = REPEATS,
        metric: str = TOP1,
        whole: bool = False,
    ) -> None:
        self.runner, self.budget = runner, budget
        self.labels = runner.material.labels
        validation = False if whole else None
        self.candidates = [Candidate(variant, validation, whole=whole) for variant in variants]
        copies, keep = runner.material.copies, runner.material.keep_contradictions
        self.folds = list(repeat_folds(copies, repeats, runner.chosen.seed, keep=keep))
        held = np.unique(np.concatenate([[-1], *(fold.held_out for fold in self.folds)]))[1:]
        self.units = estimates.Units.of(self.labels, copies.groups, held)
        self.weights = self.units.weights(metric)
        self.stopped = self.why = ""
        self._per_image = 0.0
        self._alone = len(self.candidates) == 1
        self._hurried: Candidate | None = None

    @property
    def finalists(self) -> list[Candidate]:
        """Candidates that were not dropped and have a complete repeat."""
        return [each for each in self.candidates if each.repeats and not each.dropped]

    @property
    def _heads(self) -> list[Candidate]:
        """The finalists that use labels."""
        return [each for each in self.finalists if each.name not in TIERS[0]]

    @property
    def repeats(self) -> int:
        """Number of complete repeats that all finalists have."""
        return min((candidate.repeats for candidate in self.finalists), default=0)

    @property
    def shares(self) -> list[Shares]:
        """(units,) share of right answers of each finalist, over their common repeats."""
        return [each.right(self.units, self.repeats) for each in self.finalists]

    def run(self) -> None:
        """Run all repeats that the budget allows.

        KeyboardInterrupt ends the search early; it is raised only without a finalist.
        """
        try:
            if self.folds:
                self._encode_all()
                self._run()
        except KeyboardInterrupt:
            if not self.finalists:
                raise
            self.stopped = "interrupted"
        reason = self.stopped or f"nothing can be held out: {NO_TWO}"
        for candidate in self.candidates:
            if not candidate.repeats:
                candidate.dropped = candidate.dropped or reason

    def _encode_all(self) -> None:
        """Encode all images for the methods to share."""
        every = np.arange(len(self.labels))
        with self.budget.refusing() as work:
            work.step("encoding images", len(every))
            # The first images wait for the backbone to load, so they are not timed.
            self.runner.encode(every[:FIRST])
            work.step("encoding images", len(every), len(every[:FIRST]))
            for start in range(FIRST, len(every), CHUNK):
                work.advance(len(self.runner.encode(every[start : start + CHUNK])))
                self._per_image = work.seconds / (work.done - FIRST)

    def _run(self) -> None:
        for repeat in range(1 + self.folds[-1].repeat):
            folds = [fold for fold in self.folds if fold.repeat == repeat]
            # The list grows on the way, by twins of methods that choose by validation images.
            for candidate in self.candidates:
                if candidate.dropped:
                    continue
                try:
                    self._repeat(candidate, folds)
                except OverBudget as error:
                    if repeat:
                        self.stopped = f"no more repeats: {error}"
                        return
                    candidate.dropped = str(error)
                    # The first one is fitted on all images if none can be compared.
                    self.budget.reserved = self.budget.reserved or SLOWER * error.each
                except Exception as error:
                    never = isinstance(error, NotApplicableError | UnsupportedBackboneError)
                    reason = printable(str(error) or repr(error), 160)
                    candidate.dropped = f"{INAPPLICABLE if never else FAILED}: {reason}"
            self._drop_losers()

    def _expect_seconds(self, candidate: Candidate) -> float:
        """Expected seconds of a fit: from earlier fits, else of encoding the views it needs."""
        if candidate.seconds:
            return SLOWER * candidate.each
        method = registry().method_class(candidate.name)(**candidate.variant.options)
        views = getattr(method, "views_per_image", None)
        count, classes = len(self.labels), len(self.runner.space.classnames)
        shots = max(1, round(count / classes))
        return self._per_image * count * (views(shots, classes) if callable(views) else 0)

    def _repeat(self, candidate: Candidate, folds: Sequence[Fold]) -> None:
        """Fit all folds of one repeat; raises OverBudget, and what a method raises."""
        logits = np.full((len(self.labels), len(self.runner.space.classnames)), np.nan)
        parts = np.full(len(self.labels), -1)
        at = f"{candidate.title}, repeat {candidate.repeats + 1} of {1 + self.folds[-1].repeat}"
        rates = {each.right(self.units, 1) @ self.weights: each.title for each in self.finalists}
        best = f"; best so far {rates[max(rates)]} {100 * max(rates):.1f} %" if rates else ""
        for done, fold in enumerate(folds):
            fits, each = len(folds) - done, self._expect_seconds(candidate)
            most = self.budget.seconds - self.budget.spent
            current().step(f"{at}, fold {done + 1} of {len(folds)}{best}", most=most)
            # The first fit also encodes views, which all fits share.
            first = candidate.validation is None
            if self.budget.left < each * (fits if len(candidate.seconds) > 1 else 1):
                fit = f"no time: a fit takes about {duration(each)}"
                raise OverBudget(fit if self.budget.left > 0 else "no time left")
            if first and self._heads and self.budget.left < UNKNOWN * self.budget.seconds:
                raise OverBudget("no time left for a first fit")
            fitted, answers, seconds = self._fit(candidate, fold.train, fold.held_out, fits + 1)
            candidate.seconds.append(seconds)
            if first:
                self.runner.check_restored(fitted)
            if first and candidate.validation and not self._alone:
                twin = Candidate(candidate.variant, validation=False, whole=True)
                self.candidates.insert(self.candidates.index(candidate) + 1, twin)
            if fitted.peak_mb * 2**20 > (self.budget.memory or math.inf):
                raise OverBudget(f"no memory: a fit took {fitted.peak_mb:,.0f} MiB")
            logits[fold.held_out] = answers
            parts[fold.held_out] = fold.number
        candidate.logits.append(logits.astype(np.float32))
        candidate.parts.append(parts)
        self.budget.reserved = SLOWER * max(each.each for each in self.finalists)

    def _fit(
        self,
        candidate: Candidate,
        train: NDArray[np.int64],
        queries: NDArray[np.int64],
        fits: int,
    ) -> tuple[Fitted, NDArray[np.float32], float]:
        """Fit a candidate, first with validation images, anew without if it does not use them.

        Also returns its logits for `queries`, and seconds. fits: how many such fits are to come.
        """
        for chooses in (True, False) if candidate.validation is None else (candidate.validation,):
            # A head that was chosen because it takes no time is not ended.
            watch = None if candidate is self._hurried else self.budget.watch(fits)
            begun = self.budget.clock()
            fitted, logits = self.runner.fit(candidate.variant, train, queries, chooses, watch)
            candidate.validation = fitted.declared.selection["labels"] > 0
            if candidate.validation:
                break
        return fitted, logits, self.budget.clock() - begun

    def finish(self) -> tuple[Candidate, Fitted, NDArray[np.float32]]:
        """The winner and what `final` gives for it, within the budget.

        If that would not end in time, the fastest of those compared wins; UsageError without any.
        """
        self.budget.reserved = self.budget.spare = 0.0
        winner = self.choose()
        last = f"fitting {winner.title} on all {len(self.labels):,} images"
        current().step(last, most=self.budget.seconds - self.budget.spent)
        try:
            return winner, *self.final(winner)
        except OverBudget as error:
            if self._alone:
                seconds = self.budget.spent + (FOLDS + 1) * max(error.each, winner.each)
                remedy = f"--budget {roomy(seconds)}" if error.each else "a larger --memory"
                raise UsageError(f"{last}: {error}; give {remedy}") from None
            # The fastest one is fitted to its end; one that takes too much memory is not.
            others = [each for each in self._heads if error.each or each is not winner]
            self._hurried = min(others, key=lambda other: other.each, default=None)
            if self._hurried is winner:
                return winner, *self.final(winner)
            winner.dropped = str(error)
        for each in self.finalists:
            if each.name in TIERS[0]:
                each.dropped = f"no comparison: there was no time for {winner.title}"
        self.why = f"the fastest of those compared, as there was no time for {winner.title}"
        winner = self._hurried or self.choose()
        return winner, *self.final(winner)

    def final(self, candidate: Candidate) -> tuple[Fitted, NDArray[np.float32]]:
        """Fit a candidate on all images; also returns its logits for its validation images."""
        every = np.arange(len(self.labels))
        _, val = with_validation(self.runner.material.copies, every, self.runner.chosen.seed)
        queries = every[:0] if candidate.validation is False else val
        fitted, logits, _ = self._fit(candidate, every, queries, 1)
        self.runner.check_restored(fitted)
        return fitted, logits if candidate.validation else logits[:0]

    def _drop_losers(self) -> None:
        """Drop candidates that clearly lose to the best one, by paired differences."""
        running, shares = self.finalists, self.shares
        best = max(range(len(running)), key=lambda at: shares[at] @ self.weights, default=0)
        for candidate, right in zip(running, shares, strict=True):
            gap, error = estimates.lead(shares[best], right, self.weights)
            if candidate is not running[best] and gap > estimates.CLEARLY * error:
                candidate.dropped = f"{LOST} than {running[best].title}"

    def choose(self) -> Candidate:
        """The winner; UsageError if no candidate could be fitted.

        A method that uses no labels wins only by comparison with one that does.
        """
        finalists, without = self.finalists, (FAILED, INAPPLICABLE)
        usable = [each for each in self.candidates if not each.dropped.startswith(without)]
        heads = [each for each in usable if each.name not in TIERS[0]]
        if finalists and (any(each.repeats for each in heads) or not heads):
            # A method in no tier comes after the last.
            ranks = {name: rank for rank, tier in enumerate(TIERS) for name in tier}
            tiers = [ranks.get(candidate.name, len(TIERS)) for candidate in finalists]
            scores = [candidate.score(self.units, self.repeats) for candidate in finalists]
            winner = finalists[estimates.best_of(scores, tiers, self.weights)]
            best = finalists[max(range(len(scores)), key=lambda at: scores[at] @ self.weights)]
            self.why = f"about as good as {best.title}, and cheaper"
            if winner is best:
                compared = sum(each.repeats > 0 for each in self.candidates)
                self.why = "the best of those compared" if compared > 1 else ""
            return winner
        if not usable:
            reasons = "; ".join(f"{each.title}: {each.dropped}" for each in self.candidates)
            raise UsageError(f"no method could be fitted: {reasons}")
        wanted = CHEAPEST if self.folds else ONE_SHOT
        winner = ([each for each in heads if each.name == wanted] or heads or usable)[0]
        if not self._alone:
            self.why = "best at one shot where none can be held out"
            if self.folds:
                self.why = "the cheapest that uses the labels, as there was no time to compare"
                self._hurried, winner.validation = winner, False
        return winner


def order() -> list[str]:
    """The methods that `auto` chooses among, from cheap to expensive: all built-in ones."""
    methods = registry().methods
    package = {name: methods.find(name).origin.partition(":")[0] for name in methods.entries}
    listed = [name for tier in TIERS for name in tier if name in package]
    packages = {package[name] for name in listed}
    others = [name for name in sorted(package) if name not in listed and package[name] in packages]
    return sorted(listed, key=lambda name: name != CHEAPEST) + others
