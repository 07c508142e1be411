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
from fewshot_bench.api.spec import method_label
from fewshot_bench.plugins.models import estimates
from fewshot_bench.plugins.models.budget import SLOWER, Budget, OverBudget, duration, roomy
from fewshot_bench.plugins.models.fitting import FitRunner
from fewshot_bench.plugins.models.material import FOLDS, repeat_folds, with_validation
from fewshot_bench.runner.variants import Variant
from fewshot_bench.store.kept_models import TOP1
from fewshot_bench.utils.errors import NotApplicableError, UnsupportedBackboneError, UsageError
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fewshot_bench.plugins.models.estimates import Shares, Units
    from fewshot_bench.runner.fit import Fitted

ZERO_SHOT, WHOLE = "zero-shot", " (all images)"
TIERS = (
    (
        *("linear-probe", "linear-probe[c=1.0]", "linear-probe[c=0.1]", "linear-probe[c=10.0]"),
        *("linear-probe[c=100.0]", ZERO_SHOT, "gda[alpha=100.0]", "proker[beta=3.0,penalty=0.5]"),
        *("gda[alpha=10.0]", "gda[alpha=1.0]"),
    ),
    (
        *("gda", "proker", "lp++", "tip-adapter", "clap", "ape", "tip-adapter-f"),
        *("zs-lp", "ape-t", "cross-modal", "wise-ft", "clip-adapter", "taskres"),
    ),
    (
        *("clip-lora", "dora", "vpt-shallow", "vpt-deep", "coop", "kgcoop", "prograd"),
        *("ivlp", "maple", "cocoop"),
    ),
)
"""Methods from cheap to expensive: logistic regression and closed forms on all images, whose
settings the search itself chooses; other heads on frozen features; trained through the encoders.
Others come after the last. The first one is kept where nothing could be compared: over 17 draws of
three data sets (`tiny`) its C was the best single one."""
ENCODERS = 2
"""The tier whose methods begin after all repeats of the heads."""
NO_TWO = "no class has two different images of its own"
ONE_SHOT = "clap"
"""Chosen if no class has two different images, so that none can be held out: the best of eight
methods at one shot without validation images (`tiny`; digits, shapes, ten classes of DTD)."""
REPEATS = 3
# Images that are encoded at once, before the budget is checked.
CHUNK = 64
LOST, FAILED, INAPPLICABLE = "clearly worse", "failed", "not applicable"


@dataclass
class Candidate:
    """A method and its results.

    tier: its place in TIERS. validation: whether it chooses settings by validation images, which
    are then set apart; None before the first fit. logits: (images, classes) by repeat, NaN for
    images that were not held out. parts: (images,) by repeat, the fold of each. seconds: of each
    fit. dropped: why it is no longer tried; needs: seconds of a fit, if it was dropped for that.
    whole: True if it sets no validation images apart, whatever the method does.
    """

    variant: Variant
    tier: int = 0
    validation: bool | None = None
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    parts: list[NDArray[np.int64]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    dropped: str = ""
    needs: float = 0.0
    whole: bool = False

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.variant.method

    @property
    def title(self) -> str:
        """Name in tables."""
        return method_label(self.name, self.variant.overrides) + WHOLE * self.whole

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
    the choice, once `choose` made it. whole: no candidate sets validation images apart. repeats:
    how many repeats methods are compared on, once the first one is complete.
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
        self._alone = len(variants) == 1
        self.candidates = [_candidate(variant, whole, self._alone) for variant in variants]
        copies, keep = runner.material.copies, runner.material.keep_contradictions
        self.folds = list(repeat_folds(copies, repeats, runner.chosen.seed, keep=keep))
        held = np.unique(np.concatenate([[-1], *(fold.held_out for fold in self.folds)]))[1:]
        self.units = estimates.Units.of(self.labels, copies.groups, held)
        self.weights = self.units.weights(metric)
        self.stopped = self.why = ""
        self.repeats = 1

    @property
    def finalists(self) -> list[Candidate]:
        """Candidates that were not dropped and have all repeats that methods are compared on."""
        return [
            each for each in self.candidates if each.repeats >= self.repeats and not each.dropped
        ]

    @property
    def _timed(self) -> list[Candidate]:
        """Candidates that use labels and have been fitted."""
        return [
            each
            for each in self.candidates
            if each.seconds
            and each.name != ZERO_SHOT
            and not each.dropped.startswith((FAILED, INAPPLICABLE))
        ]

    @property
    def shares(self) -> list[Shares]:
        """(units,) share of right answers of each finalist, over their common repeats."""
        return [each.right(self.units, self.repeats) for each in self.finalists]

    def _share(self, finalist: Candidate) -> float:
        return float(finalist.right(self.units, self.repeats) @ self.weights)

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
            for start in range(0, len(every), CHUNK):
                work.advance(len(self.runner.encode(every[start : start + CHUNK])))

    def _run(self) -> None:
        """Run all repeats of the heads, then those of the other methods."""
        complete = 0
        for encoders in (False, True):
            for repeat in range(1 + self.folds[-1].repeat):
                # The list grows on the way, by twins of methods that choose by validation images.
                for candidate in self.candidates:
                    if candidate.dropped or (candidate.tier >= ENCODERS) != encoders:
                        continue
                    try:
                        self._repeat(candidate, repeat, max(complete, repeat + 1))
                    except OverBudget as error:
                        if 0 < repeat == complete:
                            self.stopped = f"no more repeats: {error}"
                            return
                        candidate.dropped, candidate.needs = str(error), error.each
                    except Exception as error:
                        never = isinstance(error, NotApplicableError | UnsupportedBackboneError)
                        reason = printable(str(error) or repr(error), 160)
                        candidate.dropped = f"{INAPPLICABLE if never else FAILED}: {reason}"
                running = [each.repeats for each in self.candidates if not each.dropped]
                complete = max([complete, *running])
                self.repeats = max(complete, 1)
                self._drop_losers()

    def _repeat(self, candidate: Candidate, repeat: int, wanted: int) -> None:
        """Fit all folds of one repeat; raises OverBudget, and what a method raises.

        wanted: the number of repeats that the candidate needs to be compared.
        """
        logits = np.full((len(self.labels), len(self.runner.space.classnames)), np.nan)
        parts = np.full(len(self.labels), -1)
        folds = [fold for fold in self.folds if fold.repeat == repeat]
        # With the last one, on all images.
        fits = 1 + sum(fold.repeat < wanted for fold in self.folds) - len(candidate.seconds)
        at = f"{candidate.title}, repeat {repeat + 1} of {1 + self.folds[-1].repeat}"
        rates = {each.right(self.units, 1) @ self.weights: each.title for each in self.finalists}
        best = f"; best so far {rates[max(rates)]} {100 * max(rates):.1f} %" if rates else ""
        # Until one is complete, the first ones go on until the time is over.
        must = candidate.tier == 0 and not any(each.repeats for each in self._timed)
        for done, fold in enumerate(folds):
            most = self.budget.seconds - self.budget.spent
            current().step(f"{at}, fold {done + 1} of {len(folds)}{best}", most=most)
            first = not candidate.seconds
            self._reserve()
            ahead = min(fits - done, 1 + first) if must else fits - done
            # The first fit also encodes views, which all fits share.
            if len(candidate.seconds) > 1 and self.budget.left < ahead * candidate.each:
                text = f"no time: a fit takes about {duration(candidate.each)}"
                raise OverBudget(text, candidate.each)
            begun = self.budget.clock()
            fitted, answers = self._fit(candidate, fold.train, fold.held_out, ahead)
            candidate.seconds.append(self.budget.clock() - begun)
            if first:
                self.runner.check_restored(fitted)
            if first and candidate.validation and not self._alone:
                twin = Candidate(candidate.variant, candidate.tier, False, whole=True)
                self.candidates.insert(self.candidates.index(candidate) + 1, twin)
            if fitted.peak_mb * 2**20 > (self.budget.memory or math.inf):
                raise OverBudget(f"no memory: a fit took {fitted.peak_mb:,.0f} MiB")
            logits[fold.held_out] = answers
            parts[fold.held_out] = fold.number
        candidate.logits.append(logits.astype(np.float32))
        candidate.parts.append(parts)

    def _reserve(self) -> None:
        """Keep time for the last fit, of any finalist or else of the first that was fitted."""
        able = [*self._timed[:1], *self.finalists]
        self.budget.reserved = SLOWER * max((each.each for each in able), default=0.0)

    def _fit(
        self,
        candidate: Candidate,
        train: NDArray[np.int64],
        queries: NDArray[np.int64],
        fits: int,
    ) -> tuple[Fitted, NDArray[np.float32]]:
        """Fit a candidate, first with validation images, anew without if it does not use them.

        Also returns its logits for `queries`. fits: how many such fits are to come.
        """
        for chooses in (True, False) if candidate.validation is None else (candidate.validation,):
            with self.budget.watch(fits) as watch:
                fitted, logits = self.runner.fit(candidate.variant, train, queries, chooses, watch)
            candidate.validation = fitted.declared.selection["labels"] > 0
            if candidate.validation:
                break
        return fitted, logits

    def finish(self) -> tuple[Candidate, Fitted, NDArray[np.float32]]:
        """The winner and what `final` gives for it; UsageError if no fit is within the budget."""
        while True:
            winner = self.choose()
            last = f"fitting {winner.title} on all {len(self.labels):,} images"
            current().step(last, most=self.budget.seconds - self.budget.spent)
            try:
                return winner, *self.final(winner)
            except OverBudget as error:
                if error.each or self._alone:
                    seconds = self.budget.spent + (FOLDS + 1) * max(error.each, winner.needs)
                    remedy = f"--budget {roomy(seconds)}" if error.each else "a larger --memory"
                    raise UsageError(f"{last}: {error}; give {remedy}") from None
                winner.dropped = f"{FAILED}: {error}"

    def final(self, candidate: Candidate) -> tuple[Fitted, NDArray[np.float32]]:
        """Fit a candidate on all images; also returns its logits for its validation images."""
        every = np.arange(len(self.labels))
        _, val = with_validation(self.runner.material.copies, every, self.runner.chosen.seed)
        queries = every[:0] if candidate.validation is False else val
        # Time was reserved for what has been fitted, which is let end however slow it is now.
        self.budget.reserved = -math.inf if candidate.seconds else 0.0
        fitted, logits = self._fit(candidate, every, queries, 1)
        self.runner.check_restored(fitted)
        return fitted, logits if candidate.validation else logits[:0]

    def _drop_losers(self) -> None:
        """Drop candidates that clearly lose to the best one, by paired differences."""
        best = max(self.finalists, key=self._share, default=None)
        for candidate in self.candidates:
            common = min(candidate.repeats, self.repeats)
            if best is None or candidate.dropped or candidate is best or not common:
                continue
            ours, theirs = (each.right(self.units, common) for each in (best, candidate))
            gap, error = estimates.lead(ours, theirs, self.weights)
            if gap > estimates.CLEARLY * error:
                candidate.dropped = f"{LOST} than {best.title}"

    def choose(self) -> Candidate:
        """The winner; UsageError if no candidate could be fitted.

        A method that uses no labels wins only by comparison, or if no other one was fitted.
        """
        finalists, timed = self.finalists, self._timed
        if finalists and (any(each.repeats for each in timed) or not timed):
            tiers = [candidate.tier for candidate in finalists]
            scores = [candidate.score(self.units, self.repeats) for candidate in finalists]
            winner = finalists[estimates.best_of(scores, tiers, self.weights)]
            best = finalists[max(range(len(scores)), key=lambda at: scores[at] @ self.weights)]
            self.why = f"about as good as {best.title}, and cheaper"
            if winner is best:
                compared = sum(each.repeats > 0 for each in self.candidates)
                self.why = "the best of those compared" if compared > 1 else ""
            return winner
        without = (FAILED, INAPPLICABLE)
        usable = [each for each in self.candidates if not each.dropped.startswith(without)]
        if not usable:
            reasons = "; ".join(f"{each.title}: {each.dropped}" for each in self.candidates)
            raise UsageError(f"no method could be fitted: {reasons}")
        if timed:
            winner, why = timed[0], "the first that uses the labels: there was no time to compare"
        else:
            chosen = [each for each in usable if each.name == ONE_SHOT and not self.folds]
            winner = (chosen or usable)[0]
            why = "" if self.folds else "best at one shot where none can be held out"
        self.why = "" if self._alone else why
        return winner


def _candidate(variant: Variant, whole: bool, alone: bool) -> Candidate:
    """A candidate in its tier; the first tier sets no validation images apart for its settings."""
    names = {variant.method, method_label(variant.method, variant.overrides)}
    tier = next((at for at, tier in enumerate(TIERS) if names & {*tier}), len(TIERS))
    whole |= not (tier or alone or variant.method == ZERO_SHOT)
    return Candidate(variant, tier, False if whole else None, whole=whole)


def order() -> list[str]:
    """The methods that `auto` chooses among, from cheap to expensive: all built-in ones."""
    methods = registry().methods
    package = {name: methods.find(name).origin.partition(":")[0] for name in methods.entries}
    listed = [name for tier in TIERS for name in tier if name.partition("[")[0] in package]
    packages = {package[name.partition("[")[0]] for name in listed}
    others = [name for name in sorted(package) if name not in listed and package[name] in packages]
    return listed + others
