"""Fitting a method to the task of a cell, measured and guarded.

`fit` is the entry point. Its result is immutable: `evaluate.evaluate` applies it to any number of
cells, none of which sees side effects of another.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.api.method import Classifier
from fewshot_bench.api.record import NOT_OBSERVED, Incidents
from fewshot_bench.api.registry import registry
from fewshot_bench.api.task import Task
from fewshot_bench.images.features import accounted, shots_view
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.profiling.optimizer import FiniteNumbers, LogitsObserver, ParameterObserver
from fewshot_bench.profiling.peak_memory import PeakMemory
from fewshot_bench.runner.context import Context, Declarations
from fewshot_bench.runner.isolation import guard
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.utils.cache_dir import only_read
from fewshot_bench.utils.errors import ContractError
from fewshot_bench.utils.rng import derive, isolate


@dataclass(frozen=True)
class Fitted:
    """A fitted method and the cost of the fit, which is billed to every cell evaluated with it.

    context: the context passed to `fit`, which its classifier may hold; declared: the declarations
    made in it. trained: parameters, their source and the optimizer's steps; parameters: references
    to them. peak_mb: peak memory.
    """

    cell: Cell
    backbone: LoadedBackbone
    fingerprint: str
    classifier: Classifier
    context: Context
    declared: Declarations
    meter: Meter
    incidents: tuple[Mapping[str, str], ...]
    printed: str
    peak_mb: float
    trained: Mapping[str, Any]
    parameters: tuple[weakref.ref[Tensor], ...]

    def sum_trained(self, in_logits: LogitsObserver) -> dict[str, Any]:
        """`trained`, with the optimizer steps in `logits` and the parameters that they trained."""
        parts = self.trained["trained"], in_logits.trained
        is_observed = None not in parts
        return {
            "trained": sum(parts) if is_observed else None,
            "trained_source": self.trained["trained_source"] if is_observed else NOT_OBSERVED,
            "steps": self.trained["steps"] + in_logits.steps,
        }


def seed_of(cell: Cell) -> int:
    """The seed of a cell's fit.

    Own data has a path in its name, so its support set stands for it: the same images give the same
    numbers wherever they lie.
    """
    spec = cell.spec
    data = cell.lists.support if ":" in spec.dataset else spec.dataset
    return derive(spec.train_seed, data, spec.shots)


def fit(cell: Cell, session: Session, context: Context, incidents: Incidents) -> Fitted:
    """Fit the method of a cell; `incidents` grows as they happen."""
    spec = cell.spec
    if registry().owner(spec.method):
        only_read()
        _check_found(cell, session, incidents)
    backbone, fingerprint = session.backbone(spec)
    meter, memory = Meter(backbone.device), PeakMemory(backbone.device)
    observer = ParameterObserver(FiniteNumbers(spec.method, cell.method, context))
    with ExitStack() as stack:
        stack.enter_context(accounted(session.features, meter))
        stack.enter_context(memory.watch())
        stack.enter_context(isolate(seed_of(cell)))
        printed = stack.enter_context(guard(f"{spec.method}.fit", incidents))
        with observer.watch(), meter.phase("fit"):
            classifier = cell.method.fit(_task(cell, session, meter), backbone, context)
        _check_classifier(classifier, spec.method)
        _check_options(cell)
        check_backbone(backbone, fingerprint, f"{spec.method}.fit")
    observer.declared = context.declared
    trained = {"trained": observer.trained, "trained_source": observer.source}
    return Fitted(
        cell=cell,
        backbone=backbone,
        fingerprint=fingerprint,
        classifier=classifier,
        context=context,
        declared=context.declarations(),
        meter=meter,
        incidents=tuple(incidents),
        printed=printed.text,
        peak_mb=memory.megabytes,
        trained=trained | {"steps": observer.steps},
        parameters=tuple(map(weakref.ref, observer.parameters)),
    )


def _check_found(cell: Cell, session: Session, incidents: Incidents) -> None:
    """Load the backbone anew if something that an earlier cell left behind has changed it.

    Every process serves one foreign plug-in, so it was that plug-in's code.
    """
    backbone, fingerprint = session.backbone(cell.spec)
    if backbone.fingerprint() != fingerprint:
        session.drop_changed_backbone()
        incidents.add(
            "backbone",
            f"{cell.spec.method}: what an earlier cell of its plug-in left behind changed the "
            "backbone after that cell had ended; loaded anew for this cell",
        )


def _task(cell: Cell, session: Session, meter: Meter) -> Task:
    spec = cell.spec
    view = functools.partial(
        shots_view,
        store=session.features,
        meter=meter,
        phase="encode_support",
        seed=spec.train_seed,
    )
    val = session.source(cell.lists.val, spec)
    return Task(
        classnames=cell.lists.fitted.classnames,
        templates=cell.lists.fitted.templates,
        train=view(session.source(cell.lists.train, spec)),
        val=view(val) if len(val) else None,
        asked=spec.shots,
    )


def _check_classifier(classifier: Any, method: str) -> None:
    for part in ("logits", "tensors"):
        if not callable(getattr(classifier, part, None)):
            raise ContractError(
                f"{method}.fit returned {type(classifier).__name__} without {part}(); return a "
                "Classifier"
            )


def _check_options(cell: Cell) -> None:
    """ContractError if `fit` changed a field: the record would state an unused option."""
    for name, given in cell.spec.options.items():
        value = getattr(cell.method, name, given)
        if value != given:
            raise ContractError(
                f"{cell.spec.method}.fit changed {name} from {given!r} to {value!r}, and the "
                "record states what was given; keep other values in local variables"
            )


def check_backbone(backbone: LoadedBackbone, fingerprint: str, who: str) -> None:
    """ContractError if plug-in code left the backbone changed."""
    if backbone.fingerprint() != fingerprint:
        raise ContractError(
            f"{who} left the backbone changed (weights, flags or hooks "
            "differ from before); work on copies, or undo the change before returning"
        )
