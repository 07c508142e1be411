"""Evaluation of a fitted method on the queries of a cell, without their labels.

`evaluate` is the entry point: it returns a record without metrics, and logits as a plain array to
which plug-in code has no reference. The fitted method stays unchanged.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.api.author_frame import place_of
from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.api.method import Classifier
from fewshot_bench.api.method_card import FitSetting, card_of
from fewshot_bench.api.metrics import TOLERANCE, are_probabilities, gap
from fewshot_bench.api.paper import entries_of
from fewshot_bench.api.record import OUT_OF_MEMORY, Incidents, Record
from fewshot_bench.api.registry import registry
from fewshot_bench.images.features import accounted, image_view, open_views
from fewshot_bench.profiling.cost import not_counted
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.profiling.optimizer import LogitsObserver
from fewshot_bench.profiling.peak_memory import PeakMemory
from fewshot_bench.runner import kit_results
from fewshot_bench.runner.examination import adapt_classifier
from fewshot_bench.runner.fit import Fitted, check_backbone, seed_of
from fewshot_bench.runner.isolation import collect_output, guard
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.utils import environment
from fewshot_bench.utils.errors import ContractError
from fewshot_bench.utils.rng import derive, isolated

# Queries that are asked for again, in another order and alone.
ASKED = 16
ALONE = 2


class QueryBatches:
    """Batch sizes for the queries of a classifier, divided by `parts` when memory is short.

    asked: True once the classifier requested batches.
    """

    def __init__(self, method: str, parts: int) -> None:
        self.parts = parts
        self.asked = False
        self._method = method

    def limit(self, size: int, incidents: Incidents) -> int:
        """The number of queries per batch for a method that asks for `size`."""
        self.asked = True
        smaller = max(1, size // self.parts)
        if smaller < size:
            text = f"batches of {smaller} queries instead of {size}, since memory was short"
            incidents.add(OUT_OF_MEMORY, f"{self._method}.logits was given {text}")
        return smaller


# A record without its metrics, and (queries, classes) logits in their order.
Answered = tuple[Record, np.ndarray]


def evaluate(
    fitted: Fitted,
    cell: Cell,
    session: Session,
    batches: QueryBatches,
    incidents: Incidents,
) -> Answered:
    """Compute the logits of a fitted method for the queries of a cell that shares its fit.

    incidents: of the fit so far; incidents of the evaluation are added.
    """
    spec = cell.spec
    meter, memory = copy.deepcopy(fitted.meter), PeakMemory(fitted.backbone.device)
    # The classifier may hold the fit's context and have added notes for another cell.
    fitted.context.restore(fitted.declared)
    with ExitStack() as stack:
        stack.enter_context(accounted(session.features, meter))
        stack.enter_context(memory.watching())
        stack.enter_context(isolated(derive(seed_of(fitted.cell), "predict")))
        stack.enter_context(open_views())
        printed = stack.enter_context(guard(f"{spec.method}.logits", incidents))
        observer = LogitsObserver(fitted.parameters)
        with observer.watching():
            answers = _predict(fitted, cell, session, meter, batches, incidents)
        verdict = _ask_again(fitted, cell, session, answers)
        check_backbone(fitted.backbone, fitted.fingerprint, f"{spec.method}.logits")
        stored = _count_stored(fitted.classifier, spec.method)
        card = _card(cell, incidents)
    said = fitted.printed + printed.text
    footprint = {
        **fitted.sum_trained(observer),
        "stored": stored,
        "backbone": getattr(fitted.backbone, "parameters", None),
        "images_seen": meter.images_seen,
        "images_encoded": meter.images_encoded,
        "work": meter.work(),
        "metered": meter.is_complete,
        "depends_on_queries": verdict.depends,
        "query_gap": verdict.gap,
        "selection": fitted.context.selection,
        **card,
        "peak_memory_mb": round(max(fitted.peak_mb, memory.megabytes), 1),
    }
    record = Record(
        spec=spec,
        status="done",
        footprint=footprint,
        timings=meter.timings(),
        environment=environment_of(fitted.backbone, spec.method),
        notes=fitted.context.notes | ({"printed": said} if said else {}),
        incidents=tuple(incidents),
    )
    return record, answers


def _predict(
    fitted: Fitted,
    cell: Cell,
    session: Session,
    meter: Meter,
    batches: QueryBatches,
    incidents: Incidents,
) -> np.ndarray:
    """Logits in the order of the queries."""
    limit = functools.partial(batches.limit, incidents=incidents)
    answers, columns = _answer(fitted, cell, session, meter, limit)
    if are_probabilities(answers):
        text = "logits() returned probabilities: nll, brier and ece take the softmax of them again"
        incidents.add("probabilities", f"{cell.spec.method}: {text}; return their logarithms")
    return np.ascontiguousarray(answers[:, columns])


def _ask_again(fitted: Fitted, cell: Cell, session: Session, answers: np.ndarray) -> Verdict:
    """Whether a query's logits depend on the other ones; nothing of it gets into the record."""
    meter, declared = Meter(fitted.backbone.device), fitted.context.declarations()

    def ask(order: list[int]) -> np.ndarray:
        with isolated(derive(seed_of(fitted.cell), "predict")):
            again, columns = _answer(fitted, cell, session, meter, int, order)
        return again[:, columns]

    with not_counted(), accounted(session.features, meter), collect_output():
        verdict = ask_again(ask, answers, cell.spec.precision)
    fitted.context.restore(declared)
    return verdict


def _answer(
    fitted: Fitted,
    cell: Cell,
    session: Session,
    meter: Meter,
    batch: Callable[[int], int],
    order: list[int] | None = None,
) -> tuple[np.ndarray, Any]:
    """Logits of the queries in an order (default: as listed), and the columns that count.

    The columns of logits are those of the classifier, which may answer for more classes.
    """
    fitted_space, asked = fitted.cell.lists.fitted, cell.lists.evaluated
    source = session.source(cell.lists.queries, cell.spec)
    queries = image_view(
        source, session.features, meter, phase="encode_queries", order=order, batch=batch
    )
    count = len(queries)
    with meter.phase("predict"), torch.no_grad():
        # A copy, so that attributes set in one evaluation do not affect the next one.
        classifier, columns = adapt_classifier(copy.copy(fitted.classifier), fitted_space, asked)
        raw = classifier.logits(queries)
    classes = asked if columns is None else fitted_space
    with _blame_logits(fitted.cell.method, classifier):
        answers = plain_logits(raw, count, len(classes.classnames), fitted.cell.spec.precision)
    return answers, slice(None) if columns is None else columns.numpy()


@contextmanager
def _blame_logits(method: object, classifier: object) -> Iterator[None]:
    """Add the place of the author's `logits` to errors about what it returned."""
    try:
        yield
    except ContractError as error:
        where = place_of(type(method), getattr(type(classifier), "logits", None))
        raise ContractError(f"{error} (at {where})" if where else str(error)) from error


def _card(cell: Cell, incidents: Incidents) -> dict[str, Any]:
    """The method card; an error in it becomes an incident, since the result is already computed."""
    try:
        card = card_of(cell.method)
        spec = cell.spec
        setting = (
            FitSetting(spec.dataset, spec.shots, spec.classes != "all") if spec.published else None
        )
        if card is None:
            return {}
        facts = card.to_dict(spec.overrides, setting)
        entry = registry().methods.entries.get(spec.method)
        if card.papers and not (entry and entry.is_built_in):
            # Where its package is not installed, nothing else says what to cite.
            facts["papers"] = entries_of(card.papers)
        return {"card": facts}
    except (Exception, SystemExit) as error:
        incidents.add("card", f"{cell.spec.method}: {error}; the record holds no card")
        return {}


def environment_of(
    backbone: LoadedBackbone, method: str, cls: type | None = None
) -> dict[str, Any]:
    """The environment of a record: machine, libraries, weights and the method's code.

    cls: the class that runs under the name `method`; by default the one that the name stands for.
    """
    code = registry().code(method, cls)
    is_registered = cls is None or code["registered"]
    origin = registry().method(method).origin.split(",")[0] if is_registered else method
    return environment.describe(backbone.device) | {
        "weights_digest": backbone.weights_digest,
        "activation": getattr(backbone, "activation", None),
        "method_origin": origin,
        "code": code,
        "kit": kit_results.of_record(method, str(code["digest"])),
    }


def _count_stored(classifier: Classifier, method: str) -> int:
    """The number of values in `tensors()`; ContractError when it is no mapping to tensors."""
    kept = classifier.tensors()
    wrong = not isinstance(kept, Mapping) or any(not isinstance(t, Tensor) for t in kept.values())
    if wrong:
        raise ContractError(f"{method}: tensors() returned {kept!r:.80}, expected names to tensors")
    return sum(tensor.numel() for tensor in kept.values())


def plain_logits(logits: object, queries: int, classes: int, precision: str = "fp32") -> np.ndarray:
    """A float32 copy of finite (queries, classes) logits; ContractError if they are anything else.

    precision: of the run, for the advice of an error. Overrides of a Tensor subclass are not
    called: only its stored values count.
    """
    if not isinstance(logits, Tensor):
        raise ContractError(f"logits() returned {type(logits).__name__}, expected a tensor")
    try:
        with torch._C.DisableTorchFunctionSubclass():
            return _read(logits, queries, classes, precision)
    except ContractError:
        raise
    except Exception as error:
        # For fake tensors and tensors wrapped by a transform, torch raises in different places.
        raise ContractError(
            f"logits() returned a tensor that cannot be read ({type(error).__name__}: "
            f"{_reason(error)}); return a plain dense one"
        ) from error


def _read(logits: Tensor, queries: int, classes: int, precision: str) -> np.ndarray:
    plain = _on_the_host(logits)
    if tuple(plain.shape) != (queries, classes):
        raise ContractError(
            f"logits() returned shape {tuple(plain.shape)}, expected ({queries}, {classes}): "
            "one row per query and one column per class"
        )
    bad = _rows_not_finite(plain)
    if bad and bool(Tensor.isfinite(Tensor.detach(logits)).all()):
        raise ContractError(
            f"logits() has {bad} of {queries} rows with values of {logits.dtype} that float32 "
            f"cannot hold (above {torch.finfo(torch.float32).max:.1e}); scale them down"
        )
    if bad:
        other = "" if precision == "fp32" else ", or use --precision fp32"
        raise ContractError(
            f"logits() has {bad} of {queries} rows with values that are not finite; find the "
            f"division, logarithm or overflow that makes them, lower the learning rate{other}"
        )
    array: np.ndarray = plain.numpy()
    return array


def _rows_not_finite(logits: Tensor) -> int:
    """The number of rows with a NaN or an infinity, found without another array of their size."""
    if not logits.numel():
        return 0
    lowest, highest = logits.aminmax(dim=1)  # a NaN in a row is both
    return int((~(lowest.isfinite() & highest.isfinite())).sum())


def _on_the_host(logits: Tensor) -> Tensor:
    """A plain float32 copy in host memory."""
    if logits.is_nested:
        raise ContractError(
            "logits() returned a tensor that cannot be read (it is nested); return a dense one"
        )
    kind = f"{logits.layout}, {logits.dtype}"
    if logits.layout != torch.strided or logits.is_quantized or logits.is_complex():
        raise ContractError(f"logits() returned a tensor of {kind}; return dense real numbers")
    _refuse_freed(logits)
    try:
        copied = Tensor.to(Tensor.detach(logits), device="cpu", dtype=torch.float32, copy=True)
    except (RuntimeError, NotImplementedError) as error:
        raise ContractError(
            f"logits() returned a tensor that cannot be read (on device '{logits.device}': "
            f"{_reason(error)}); return a plain dense one on the backbone's device"
        ) from error
    return Tensor.as_subclass(copied, Tensor).contiguous()


def _refuse_freed(logits: Tensor) -> None:
    """ContractError if the storage is smaller than the tensor: a copy would crash the process."""
    if not logits.numel():
        return
    reach = sum(
        (size - 1) * stride for size, stride in zip(logits.shape, logits.stride(), strict=True)
    )
    needed = (logits.storage_offset() + reach + 1) * logits.element_size()
    held = logits.untyped_storage().nbytes()
    if held < needed:
        raise ContractError(
            f"logits() returned a tensor that cannot be read (its storage holds {held} of {needed} "
            "bytes: it was freed or resized); return one that keeps its values"
        )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


class Verdict(NamedTuple):
    """depends: None if it is unknown. gap: as `closeness.gap`; None if the method failed."""

    depends: bool | None = None
    gap: float | None = None


def ask_again(
    ask: Callable[[list[int]], np.ndarray], answers: np.ndarray, precision: str
) -> Verdict:
    """Compare `answers` (n, classes) with those to some of the queries, in another order and alone.

    ask: maps places among the n queries to their logits (places, classes). A method that fails then
    depends on the others, too: it cannot answer without them.
    """
    if len(answers) < 2:
        return Verdict()
    try:
        gaps = [gap(ask(order), answers[order], answers) for order in _orders(len(answers))]
    except (MemoryError, torch.OutOfMemoryError):
        return Verdict()
    except (Exception, SystemExit):
        return Verdict(depends=True)
    largest = max(gaps)
    return Verdict(largest > TOLERANCE[precision], largest)


def _orders(count: int) -> Iterator[list[int]]:
    """Places of queries: spread over all of them, backwards, and some of these alone."""
    asked = min(ASKED, count)
    order = [index * count // asked for index in range(asked)][::-1]
    yield order
    for index in order[:ALONE]:
        yield [index]
