"""A method fitted to one task, and its answers to queries, of which there are no labels here."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.api.method import Classifier, Method
from fewshot_bench.api.record import Incidents, Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.api.task import Task
from fewshot_bench.images.features import accounted, image_view, open_views, shots_view
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.profiling.optimizer import FiniteNumbers, ParameterObserver
from fewshot_bench.profiling.peak_memory import PeakMemory
from fewshot_bench.runner import kit_results
from fewshot_bench.runner.classes import answering
from fewshot_bench.runner.context import Context
from fewshot_bench.runner.evaluate import plain_logits
from fewshot_bench.runner.examination import QueryLists
from fewshot_bench.runner.isolation import Printed, guarded
from fewshot_bench.runner.query_batches import QueryBatches
from fewshot_bench.runner.session import Session
from fewshot_bench.utils import environment
from fewshot_bench.utils.errors import ContractError
from fewshot_bench.utils.rng import derive, isolated

Progress = Callable[[int, int], None]
# A record without its metrics, and the logits of its queries.
Answered = tuple[Record, np.ndarray]


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
        """Everything but the fit itself, which `run` does.

        parts: `RunContext.memory_parts`; incidents: of earlier tries.
        """
        self.spec = spec
        self.session = session
        self.backbone, self.fingerprint = session.backbone(spec)
        self.lists = session.examiner.task(spec)
        self.question = self.lists.question
        self.meter = Meter(self.backbone.device)
        self.memory = PeakMemory(self.backbone.device)
        self.incidents = incidents.copy() if incidents else Incidents()
        self.parts, self.queries = parts, QueryBatches(spec.method)
        self.seed = derive(spec.train_seed, spec.dataset, spec.shots)
        self.context = Context(self.seed, self.backbone.device, spec.precision, progress, parts)
        self.method: Method = registry().method_class(spec.method)(**spec.options)
        self.observer = ParameterObserver(FiniteNumbers(spec.method, self.method, self.context))

    def run(self) -> Fit:
        """Fit the method to its task."""
        with ExitStack() as stack:
            for context in (self._accounted(), self.memory.watching(), isolated(self.seed)):
                stack.enter_context(context)
            printed = stack.enter_context(self._guarded("fit"))
            with self.observer.watching(), self.meter.phase("fit"):
                self.classifier = self.method.fit(self._task(), self.backbone, self.context)
            for part in ("logits", "tensors"):
                if not callable(getattr(self.classifier, part, None)):
                    raise ContractError(
                        f"{self.spec.method}.fit returned {type(self.classifier).__name__} without "
                        f"{part}(); return a Classifier"
                    )
            self._check_backbone(self.spec.method, "fit")
        self.printed = printed.text
        self.observer.declared = self.context.declared
        # What stands here after the fit is the share of the fit in every evaluation.
        self.spent = copy.deepcopy(vars(self.meter))
        self.said = copy.deepcopy((self.context.notes, self.context.selection))
        self.happened = self.incidents.copy()
        self.queries.parts = self.parts if self.context.divisible else 1
        return self

    def _guarded(self, when: str) -> AbstractContextManager[Printed]:
        return guarded(f"{self.spec.method}.{when}", self.incidents, self.session.distrust)

    def _accounted(self) -> AbstractContextManager[None]:
        return accounted(self.session.features, self.meter)

    def _task(self) -> Task:
        train = self.session.source(self.lists.train, self.spec)
        val = self.session.source(self.lists.val, self.spec)
        view = functools.partial(
            shots_view, store=self.session.features, meter=self.meter, phase="encode_support"
        )
        return Task(
            classnames=self.question.classnames,
            templates=self.question.templates,
            train=view(train, seed=self.spec.train_seed),
            val=view(val, seed=self.spec.train_seed) if len(val) else None,
            asked=self.spec.shots,
        )

    def evaluate(self, spec: RunSpec) -> Answered:
        """The record of one cell, without its metrics, and (n, classes) logits of its queries."""
        vars(self.meter).update(copy.deepcopy(self.spent))
        self.context.notes, self.context.selection = copy.deepcopy(self.said)
        self.incidents = self.happened.copy()
        asked = self.session.examiner.queries(spec)
        memory = PeakMemory(self.backbone.device)
        seed = derive(self.seed, "predict")
        measured = self._accounted(), memory.watching(), isolated(seed), open_views()
        with ExitStack() as stack:
            for context in measured:
                stack.enter_context(context)
            printed = stack.enter_context(self._guarded("logits"))
            answers = self._predict(spec, asked)
            footprint = self._footprint(spec.method)
        peak = max(self.memory.megabytes, memory.megabytes)
        said = self.printed + printed.text
        record = Record(
            spec=spec,
            status="done",
            footprint=footprint | {"peak_memory_mb": round(peak, 1)},
            timings=self.meter.timings(),
            environment=self._environment(spec),
            notes=self.context.notes | ({"printed": said} if said else {}),
            incidents=tuple(self.incidents),
        )
        return record, answers

    def _predict(self, spec: RunSpec, asked: QueryLists) -> np.ndarray:
        """Logits in the order of the queries, as an array that plug-in code has no hold of."""
        source = self.session.source(asked.images, spec)
        queries = image_view(
            source,
            self.session.features,
            self.meter,
            phase="encode_queries",
            batch=functools.partial(self.queries.limit, incidents=self.incidents),
        )
        with self.meter.phase("predict"), torch.no_grad():
            # A copy, so that what one answer leaves behind does not reach the next one.
            fitted = copy.copy(self.classifier)
            classifier, columns = answering(fitted, self.question, asked.question)
            raw = classifier.logits(queries)
        self._check_backbone(spec.method, "logits")
        classes = asked.question if columns is None else self.question
        answers = plain_logits(raw, len(source), len(classes.classnames))
        return answers if columns is None else np.ascontiguousarray(answers[:, columns.numpy()])

    def _check_backbone(self, method: str, when: str) -> None:
        if self.backbone.fingerprint() != self.fingerprint:
            raise ContractError(
                f"{method}.{when} left the backbone changed (weights, flags or hooks "
                "differ from before); work on copies, or undo the change before returning"
            )

    def _footprint(self, method: str) -> dict[str, Any]:
        return {
            "trained": self.observer.trained,
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
            "method_origin": registry().method(spec.method).origin.split(",")[0],
            "code": registry().code(spec.method),
            "kit": kit_results.of_record(spec.method),
        }


def stored_values(classifier: Classifier, method: str) -> int:
    """The number of values in `tensors()`; ContractError when it is no mapping to tensors."""
    kept = classifier.tensors()
    wrong = not isinstance(kept, Mapping) or any(not isinstance(t, Tensor) for t in kept.values())
    if wrong:
        raise ContractError(f"{method}: tensors() returned {kept!r:.80}, expected names to tensors")
    return sum(tensor.numel() for tensor in kept.values())
