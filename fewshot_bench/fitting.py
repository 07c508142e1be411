"""A method fitted to one task, and the records of what is asked of it; knows test labels."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor

from fewshot_bench import environment
from fewshot_bench.containment import Printed, guarded
from fewshot_bench.context import Context
from fewshot_bench.errors import ContractError
from fewshot_bench.evaluate import check_logits, metrics
from fewshot_bench.features import accounted, image_view, open_views, shots_view
from fewshot_bench.finite import FiniteNumbers
from fewshot_bench.incidents import Incidents
from fewshot_bench.meter import Meter
from fewshot_bench.method import Classifier, Method, Together
from fewshot_bench.observer import ParameterObserver
from fewshot_bench.peak_memory import PeakMemory
from fewshot_bench.published.picks import verified_picks
from fewshot_bench.query_batches import QueryBatches
from fewshot_bench.question import Question, answering
from fewshot_bench.record import Record
from fewshot_bench.registry import registry
from fewshot_bench.rng import derive, isolated
from fewshot_bench.session import Session
from fewshot_bench.short_classes import short_facts
from fewshot_bench.spec import RunSpec
from fewshot_bench.splits import draw_all_classes, narrowed
from fewshot_bench.task import Split, Task

Progress = Callable[[int, int], None]


class Outcome:
    """What one cell gave: its record and, when it is done, what is kept beside it."""

    def __init__(self, record: Record, logits: Tensor | None = None, split: Split | None = None):
        self.record = record
        self.logits = logits
        self.labels = [item.label for item in split.test] if split else None
        self.ids = [item.id for item in split.test] if split else None
        # Whether a plug-in left the process so that nothing else should be computed in it.
        self.tainted = False


class Fit:
    """A fitted method, and what it cost; evaluates cells that differ in what is asked alone."""

    def __init__(
        self,
        spec: RunSpec,
        session: Session,
        progress: Progress | None,
        parts: int = 1,
        incidents: Incidents | None = None,
    ) -> None:
        """Everything but the fit itself: `alone` or `together` does that.

        parts: `RunContext.memory_parts`; incidents: of earlier tries.
        """
        self.spec = spec
        self.session = session
        self.backbone, self.fingerprint = session.backbone(spec)
        self.dataset = session.dataset(spec)
        self.drawn = draw_all_classes(spec, self.dataset.items(), session.imported(spec))
        self.classes = len(self.dataset.card().classnames)
        self.question = Question.fitted(self.dataset.card(), spec)
        self.meter = Meter(self.backbone.device)
        self.memory = PeakMemory(self.backbone.device)
        self.incidents = incidents.copy() if incidents else Incidents()
        self.parts, self.queries = parts, QueryBatches(spec.method)
        self.runs = 1
        self.seed = derive(spec.train_seed, spec.dataset, spec.shots)
        self.context = Context(self.seed, self.backbone.device, spec.precision, progress, parts)
        self.method: Method = registry().method_class(spec.method)(**spec.options)
        self.observer = ParameterObserver(FiniteNumbers(spec.method, self.method, self.context))

    def alone(self) -> Fit:
        """Fit the method to its task."""

        def fit() -> list[Classifier]:
            return [self.method.fit(self._task(self.meter), self.backbone, self.context)]

        (classifier,), printed = self._measured(fit)
        self._settle(classifier, printed)
        return self

    @staticmethod
    def together(fits: Sequence[Fit]) -> None:
        """Fit several tasks of one method in one pass; each takes an equal share of the cost."""
        first = fits[0]
        method = first.method
        assert isinstance(method, Together)

        def fit() -> list[Classifier]:
            tasks = [one._task(first.meter) for one in fits]
            found = method.fit_together(tasks, first.backbone, [one.context for one in fits])
            return list(found)

        classifiers, printed = first._measured(fit)
        if len(classifiers) != len(fits):
            raise ContractError(
                f"{first.spec.method}.fit_together returned {len(classifiers)} classifiers for "
                f"{len(fits)} tasks; return one per task"
            )
        share = first.meter.share(len(fits))
        for one, classifier in zip(fits, classifiers, strict=True):
            one.meter, one.observer, one.memory = copy.deepcopy(share), first.observer, first.memory
            one.runs = len(fits)
            one.context.note(fitted_together=len(fits))
            one._settle(classifier, printed)

    def _measured(self, fit: Callable[[], list[Classifier]]) -> tuple[list[Classifier], str]:
        with ExitStack() as stack:
            for context in (self._accounted(), self.memory.watching(), isolated(self.seed)):
                stack.enter_context(context)
            printed = stack.enter_context(self._guarded("fit"))
            with self.observer.watching(), self.meter.phase("fit"):
                classifiers = fit()
            for classifier in classifiers:
                for part in ("logits", "tensors"):
                    if not callable(getattr(classifier, part, None)):
                        raise ContractError(
                            f"{self.spec.method}.fit returned {type(classifier).__name__} without "
                            f"{part}(); return a Classifier"
                        )
            self._check_backbone(self.spec.method, "fit")
        return classifiers, printed.text

    def _settle(self, classifier: Classifier, printed: str) -> None:
        self.classifier, self.printed = classifier, printed
        self.observer.declared = self.context.declared
        # What stands here after the fit is the share of the fit in every evaluation.
        self.spent = copy.deepcopy(vars(self.meter))
        self.said = copy.deepcopy((self.context.notes, self.context.selection))
        self.happened = self.incidents.copy()
        self.queries.parts = self.parts if self.context.divisible else 1

    def _guarded(self, when: str) -> AbstractContextManager[Printed]:
        return guarded(f"{self.spec.method}.{when}", self.incidents, self.session.distrust)

    def _accounted(self) -> AbstractContextManager[None]:
        return accounted(self.session.features, self.meter)

    def _task(self, meter: Meter) -> Task:
        spec = self.spec
        split = narrowed(spec, self.drawn, self.classes)
        train = self.session.source(self.dataset, split.train, spec)
        val = self.session.source(self.dataset, split.val, spec)
        view = functools.partial(
            shots_view, store=self.session.features, meter=meter, phase="encode_support"
        )
        return Task(
            classnames=self.question.classnames,
            templates=self.question.templates,
            train=view(train, seed=spec.train_seed),
            val=view(val, seed=spec.train_seed) if split.val else None,
            asked=spec.shots,
        )

    def evaluate(self, spec: RunSpec) -> Outcome:
        """The outcome of one cell."""
        vars(self.meter).update(copy.deepcopy(self.spent))
        self.context.notes, self.context.selection = copy.deepcopy(self.said)
        self.incidents = self.happened.copy()
        target = self.session.target(spec)
        card = target.card()
        question = Question.evaluated(card, spec)
        other = target.items() if spec.target else None
        split = narrowed(spec, self.drawn, self.classes, other)
        memory = PeakMemory(self.backbone.device)
        seed = derive(self.seed, "predict")
        measured = self._accounted(), memory.watching(), isolated(seed), open_views()
        with ExitStack() as stack:
            for context in measured:
                stack.enter_context(context)
            printed = stack.enter_context(self._guarded("logits"))
            logits = self._predict(spec, split, question)
            footprint = self._footprint(spec.method)
        peak = max(self.memory.megabytes, memory.megabytes)
        said = self.printed + printed.text
        record = Record(
            spec=spec,
            status="done",
            split=self._split_facts(spec, split, question),
            metrics=metrics(logits, torch.tensor([item.label for item in split.test])),
            footprint=footprint | {"peak_memory_mb": round(peak, 1)},
            timings=self.meter.timings(),
            environment=self._environment(spec),
            notes=self.context.notes | ({"printed": said} if said else {}),
            incidents=tuple(self.incidents),
        )
        return Outcome(record, logits, split)

    def _predict(self, spec: RunSpec, split: Split, question: Question) -> Tensor:
        """Logits in the order of the test list; the method sees queries in a shuffled order."""
        source = self.session.source(self.session.target(spec), split.test, spec)
        # A list grouped by class would give the label away by position.
        stream = torch.Generator().manual_seed(derive(0, "queries", split.digest))
        order = torch.randperm(len(source), generator=stream)
        queries = image_view(
            source,
            self.session.features,
            self.meter,
            phase="encode_queries",
            order=order.tolist(),
            batch=functools.partial(self.queries.limit, incidents=self.incidents),
        )
        with self.meter.phase("predict"), torch.no_grad():
            # A copy, so that what one answer leaves behind does not reach the next one.
            fitted = copy.copy(self.classifier)
            classifier, columns = answering(fitted, self.question, question)
            raw = classifier.logits(queries)
        self._check_backbone(spec.method, "logits")
        classes = question if columns is None else self.question
        shuffled = check_logits(raw, len(source), len(classes.classnames))
        if columns is not None:
            shuffled = shuffled[:, columns]
        logits = torch.empty_like(shuffled)
        logits[order] = shuffled
        return logits

    def _images(self, spec: RunSpec, split: Split) -> str:
        """SHA-256 over the bytes of all images that were used: train, val, test."""
        sources = [
            self.session.source(self.dataset, split.train, spec),
            self.session.source(self.dataset, split.val, spec),
            self.session.source(self.session.target(spec), split.test, spec),
        ]
        joined = "".join(source.digest for source in sources)
        return hashlib.sha256(joined.encode()).hexdigest()

    def _check_backbone(self, method: str, when: str) -> None:
        if self.backbone.fingerprint() != self.fingerprint:
            raise ContractError(
                f"{method}.{when} left the backbone changed (weights, flags or hooks "
                "differ from before); work on copies, or undo the change before returning"
            )

    def _split_facts(self, spec: RunSpec, split: Split, question: Question) -> dict[str, Any]:
        card = self.dataset.card()
        facts = {
            "digest": split.digest,
            "protocol": split.protocol,
            "revision": split.revision,
            "classes": len(question.classnames),
            "train": len(split.train),
            "val": len(split.val),
            "test": len(split.test),
            "verified": verified_picks(self.drawn, card.name),
            "mirrored": card.mirrored,
            "templates": list(question.templates),
            "classnames": list(question.classnames),
            "images": self._images(spec, split),
            **short_facts(spec, split),
        }
        return facts | (
            {"fitted_classes": len(self.question.classnames)} if spec.fits_other else {}
        )

    def _footprint(self, method: str) -> dict[str, Any]:
        return {
            "trained": self.observer.trained // self.runs,
            "trained_source": self.observer.source,
            "stored": stored_values(self.classifier, method),
            "backbone": getattr(self.backbone, "parameters", None),
            "images_seen": self.meter.images_seen,
            "images_encoded": self.meter.images_encoded,
            "work": self.meter.work(),
            "steps": self.observer.steps,
            "selection": self.context.selection,
        }

    def _environment(self, spec: RunSpec) -> dict[str, Any]:
        facts = environment.describe(self.backbone.device)
        return facts | {
            "weights_digest": self.backbone.weights_digest,
            "activation": getattr(self.backbone, "activation", None),
            "method_origin": registry().methods.find(spec.method).origin.split(",")[0],
        }


def stored_values(classifier: Classifier, method: str) -> int:
    """How many values `tensors()` holds; ContractError when it is no mapping to tensors."""
    kept = classifier.tensors()
    wrong = not isinstance(kept, Mapping) or any(not isinstance(t, Tensor) for t in kept.values())
    if wrong:
        raise ContractError(f"{method}: tensors() returned {kept!r:.80}, expected names to tensors")
    return sum(tensor.numel() for tensor in kept.values())
