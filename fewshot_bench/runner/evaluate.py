"""Evaluation of a fitted method on the queries of a cell, without their labels.

`evaluate` is the entry point: it returns a record without metrics, and logits as a plain array to
which plug-in code has no reference. The fitted method stays unchanged.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.api import own_methods
from fewshot_bench.api.author_frame import place_of
from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.api.method_card import FitSetting, card_of
from fewshot_bench.api.metrics import TOLERANCE, are_probabilities
from fewshot_bench.api.paper import entries_of
from fewshot_bench.api.record import NOT_OBSERVED, OUT_OF_MEMORY, Incidents, Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import BY_TEMPLATES
from fewshot_bench.api.task import Images
from fewshot_bench.api.violations import TEXTS_UNUSED
from fewshot_bench.images.features import ImageView, accounted, image_view
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.profiling.optimizer import LogitsObserver
from fewshot_bench.profiling.peak_memory import PeakMemory
from fewshot_bench.runner import kit_results
from fewshot_bench.runner.cell_log import CellLog
from fewshot_bench.runner.examiner import adapt_classifier
from fewshot_bench.runner.faults import out_of_memory
from fewshot_bench.runner.fit import (
    MOST_PARTS,
    Fitted,
    Progress,
    check_backbone,
    give_up,
    release,
    seed_of,
)
from fewshot_bench.runner.isolation import guard
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.runner.verdict import Answered
from fewshot_bench.runner.verification import UNKNOWN, encoded_each, find_text_gap, verify
from fewshot_bench.splits.groups import PART, is_stream
from fewshot_bench.utils import environment
from fewshot_bench.utils.errors import ContractError
from fewshot_bench.utils.rng import derive, isolate


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


def evaluate(
    fitted: Fitted,
    cell: Cell,
    session: Session,
    batches: QueryBatches,
    incidents: Incidents,
    log: CellLog,
    progress: Progress | None = None,
) -> Answered:
    """Compute the logits of a fitted method for the queries of a cell that shares its fit.

    incidents, log: of the fit so far; those of the evaluation are added. progress: called with the
    number of answered queries, and of all.
    """
    spec = cell.spec
    meter, memory = copy.deepcopy(fitted.meter), PeakMemory(fitted.backbone.device)
    # The classifier may hold the fit's context and have added notes for another cell.
    fitted.context.restore(fitted.declared)
    with ExitStack() as stack:
        stack.enter_context(accounted(session.features, meter))
        stack.enter_context(memory.watch())
        stack.enter_context(isolate(derive(seed_of(fitted.cell), "predict")))
        stack.enter_context(guard(f"{spec.method}.logits", incidents, log))
        observer = LogitsObserver(fitted.parameters)
        with observer.watch():
            limit = functools.partial(batches.limit, incidents=incidents)
            groups = cell.lists.groups or (range(cell.lists.queries.count),)
            answers, columns = _answer(fitted, cell, session, meter, groups, limit, progress)
        if are_probabilities(answers):
            text = "logits() returned probabilities: nll, brier and ece take the softmax of them"
            incidents.add("probabilities", f"{spec.method}: {text} again; return their logarithms")
        if cell.lists.groups:
            answers = answers[np.argsort(np.concatenate(groups))]
        scores, answers = answers, np.ascontiguousarray(answers[:, columns])
        # A debugger would stop there, too.
        (verified, compared), text_gap = UNKNOWN, None
        if not session.raises:
            verified, compared = verify(_answer, answers, meter, fitted, cell, session)
            if spec.texts != BY_TEMPLATES and cell.below is None:
                text_gap = find_text_gap(_answer, fitted, cell, session)
        unused = text_gap is not None and text_gap <= TOLERANCE[spec.precision]
        check_backbone(fitted.backbone, fitted.fingerprint, f"{spec.method}.logits")
        tensors: Any = fitted.classifier.tensors()
        if not isinstance(tensors, Mapping) or not all(
            isinstance(tensor, Tensor) for tensor in tensors.values()
        ):
            raise ContractError(
                f"{spec.method}: tensors() returned {tensors!r:.80}, expected names to tensors"
            )
        card = _card(cell, incidents)
    footprint = {
        **fitted.sum_trained(observer),
        "stored": sum(tensor.numel() for tensor in tensors.values()),
        "backbone": getattr(fitted.backbone, "parameters", None),
        "images_seen": meter.images_seen,
        "images_encoded": meter.images_encoded,
        "work": meter.work(),
        "metered": meter.is_complete,
        **verified,
        "violations": [*verified["violations"], *[TEXTS_UNUSED] * unused],
        **({} if spec.texts == BY_TEMPLATES else {"text_gap": text_gap}),
        "encoded_per_query": encoded_each(len(answers), meter, fitted.meter),
        "test_steps": observer.steps,
        "selection": {
            **fitted.context.selection,
            "labels_read": getattr(fitted.val, "labels_read", False),
        },
        **card,
        "peak_memory_mb": round(max(fitted.peak_mb, memory.megabytes), 1),
        **memory.origin(),
    }
    record = Record(
        spec=spec,
        status="done",
        footprint=_add(footprint, cell.below.record.footprint) if cell.below else footprint,
        timings=meter.timings(),
        environment=environment_of(fitted.backbone, spec.method)
        | {"code": registry().code_of(spec)},
        notes=fitted.context.notes,
        curves=fitted.curves,
        incidents=tuple(incidents),
    )
    return Answered(record, answers, scores, meter, compared)


def _add(footprint: dict[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """The footprint of a fit, with what that of the method below has trained and chosen."""
    own, chosen, below = dict(footprint), footprint["selection"], inner["selection"]
    for name in ("trained", "steps", "stored", "test_steps", "encoded_per_query"):
        parts = own[name], inner[name]
        own[name] = None if None in parts else sum(parts)
    if own["trained"] is None:
        own["trained_source"] = NOT_OBSERVED
    own["selection"] = {
        "configurations": chosen["configurations"] + below["configurations"],
        "labels": max(chosen["labels"], below["labels"]),
        "labels_read": chosen["labels_read"] or below["labels_read"],
    }
    own["violations"] = [*dict.fromkeys([*inner["violations"], *own["violations"]])]
    own |= {"text_gap": inner["text_gap"]} if "text_gap" in inner else {}
    return own | {"peak_memory_mb": max(own["peak_memory_mb"], inner["peak_memory_mb"])}


def evaluate_within_memory(
    fitted: Fitted,
    cell: Cell,
    session: Session,
    incidents: Incidents,
    interrupted: Callable[[], bool],
    log: CellLog | None = None,
    progress: Progress | None = None,
) -> Answered:
    """`evaluate`; when out of memory, retry with half as many queries per batch.

    Groups of queries stay as they are. A method that requests no batches gets no second try.
    incidents, log: receive what belongs to the fit and the last try.
    """
    batches, log = QueryBatches(cell.spec.method, fitted.context.parts_used), log or CellLog()
    while True:
        incidents.restart(fitted.incidents)
        log.restart(fitted.log)
        try:
            return evaluate(fitted, cell, session, batches, incidents, log, progress)
        except BaseException as caught:
            if interrupted() or not out_of_memory(caught):
                raise
            error = caught
        release(error)
        if not batches.asked or batches.parts >= MOST_PARTS:
            tried = f"even with {batches.parts} times smaller batches of queries"
            if not batches.asked:
                tried = "and cannot use less of it (it asks for no batches of queries)"
            raise give_up(cell.spec, "logits", tried, error)
        batches.parts *= 2


def _answer(
    fitted: Fitted,
    cell: Cell,
    session: Session,
    meter: Meter,
    groups: Sequence[Sequence[int]],
    batch: Callable[[int], int] = int,
    progress: Progress | None = None,
    part: int = PART,
) -> tuple[np.ndarray, Any]:
    """Logits of the queries of groups, one after the other, and the columns that count.

    groups: of numbers among the queries. Each is given by itself, and no more of others than that
    they were asked for. The columns of logits are those of the classifier, which may answer for
    more classes. part: queries of a stream that are answered at once.
    """
    fitted_space, asked = fitted.cell.lists.fitted, cell.lists.evaluated
    queries = image_view(
        session.source(cell.lists.queries, cell.spec),
        session.features,
        meter,
        phase="encode_queries",
        batch=batch,
        seed=cell.spec.train_seed,
        streams=derive(seed_of(fitted.cell), "queries"),
        scores=cell.below and cell.below.scores,
    )
    with meter.phase("predict"), torch.no_grad():
        # A copy, so that attributes set in one evaluation do not affect the next one.
        classifier, columns = adapt_classifier(copy.copy(fitted.classifier), fitted_space, asked)
    classes = len((asked if columns is None else fitted_space).classnames)
    rows = []
    for parts in divide(queries, groups, cell.spec.queries, progress, part):
        with meter.phase("predict"), torch.no_grad():
            answer = begin(classifier, cell.spec.queries)
        for some in parts:
            with meter.phase("predict"), torch.no_grad():
                raw = answer(some)
            try:
                rows.append(plain_logits(raw, len(some), classes, fitted.cell.spec.precision))
            except ContractError as error:
                where = place_of(type(fitted.cell.method), getattr(answer, "__func__", None))
                raise ContractError(f"{error} (at {where})" if where else str(error)) from error
            some.progress(1, 1)
    answers = rows[0] if len(rows) == 1 else np.concatenate(rows)
    return answers, slice(None) if columns is None else columns.numpy()


def divide(
    queries: ImageView,
    groups: Sequence[Sequence[int]],
    condition: str,
    progress: Progress | None = None,
    part: int = PART,
) -> Iterator[list[ImageView]]:
    """The queries of each group, in the parts of its calls: one, or of `part` in a stream.

    condition: `RunSpec.queries`. progress: called with the number of answered queries, and of all.
    """
    done, total = 0, sum(map(len, groups))

    def report(start: int, count: int, at: int, of: int) -> None:
        if progress is not None:
            progress(start + count * min(at, of) // max(of, 1), total)

    for group in groups:
        size = part if is_stream(condition) else max(1, len(group))
        cuts = ((at, group[at : at + size]) for at in range(0, max(1, len(group)), size))
        yield [
            queries.part(some, functools.partial(report, done + at, len(some))) for at, some in cuts
        ]
        done += len(group)


def begin(classifier: Any, condition: str) -> Callable[[Images], Tensor]:
    """The function that answers one group of queries: `logits`, or `answer` of a new stream."""
    # A copy, so that attributes set for one group do not reach the next one.
    own = copy.copy(classifier)
    answer: Callable[[Images], Tensor] | None = None if is_stream(condition) else own.logits
    if answer is None and (answer := getattr(given := own.start(), "answer", None)) is None:
        raise ContractError(
            f"start() returned {type(given).__name__} without answer(); return a Stream"
        )
    return answer


def _card(cell: Cell, incidents: Incidents) -> dict[str, Any]:
    """The method card; an error in it becomes an incident, since the result is already computed."""
    spec = cell.spec
    setting = (
        FitSetting(spec.dataset, spec.shots, spec.classes != "all") if spec.published else None
    )
    try:
        card = card_of(cell.method)
        if card is None:
            return {}
        facts = card.to_dict(spec.overrides, setting)
        entry = registry().methods.entries.get(spec.method)
        if card.papers and not (entry and entry.is_built_in):
            # Where its package is not installed, nothing else says what to cite.
            facts["papers"] = entries_of(card.papers)
        return {"card": facts}
    except (Exception, SystemExit) as error:
        incidents.add("card", f"{spec.method}: {error}; the record holds no card")
        return {}


def environment_of(
    backbone: LoadedBackbone, method: str, cls: type | None = None
) -> dict[str, Any]:
    """The environment of a record: machine, libraries, weights and the method's code.

    cls: the class that runs under the name `method`; by default the one that the name stands for.
    """
    code = registry().code(method, cls)
    own = None if code["registered"] else own_methods.find(method)
    origin = own.origin if own else method
    if code["registered"]:
        origin = registry().method(method).origin.split(",")[0]
    return environment.describe(backbone.device) | {
        "weights_digest": backbone.weights_digest,
        "activation": getattr(backbone, "activation", None),
        "method_origin": origin,
        "code": code,
        "kit": kit_results.of_record(method, str(code["digest"])),
    }


def plain_logits(logits: object, queries: int, classes: int, precision: str = "fp32") -> np.ndarray:
    """A float32 copy of finite (queries, classes) logits; ContractError if they are anything else.

    precision: of the run, for the advice of an error. Overrides of a Tensor subclass are not
    called: only its stored values count.
    """
    if not isinstance(logits, Tensor):
        raise ContractError(f"logits() returned {type(logits).__name__}, expected a tensor")
    try:
        with torch._C.DisableTorchFunctionSubclass():
            plain = _copy_to_host(logits)
            shape = tuple(plain.shape)
            array: np.ndarray = plain.numpy()
    except ContractError:
        raise
    except Exception as error:
        # For fake tensors and tensors wrapped by a transform, torch raises in different places.
        reason = " ".join(str(error).split())[:120]
        raise ContractError(
            f"logits() returned a tensor that cannot be read ({type(error).__name__}: {reason}); "
            "return a plain dense one on the backbone's device"
        ) from error
    if shape != (queries, classes):
        raise ContractError(
            f"logits() returned shape {shape}, expected ({queries}, {classes}): "
            "one row per query and one column per class"
        )
    # A NaN in a row is both its lowest and its highest value.
    lowest, highest = plain.aminmax(dim=1) if plain.numel() else (plain, plain)
    bad = int((~(lowest.isfinite() & highest.isfinite())).sum())
    if bad:
        other = "" if precision == "fp32" else ", or use --precision fp32"
        raise ContractError(
            f"logits() has {bad} of {queries} rows with values that are not finite in float32; "
            "find the division, logarithm or overflow that makes them, scale them down, lower the "
            f"learning rate{other}"
        )
    return array


def _copy_to_host(logits: Tensor) -> Tensor:
    """A plain float32 copy in host memory."""
    layout = "nested" if logits.is_nested else logits.layout
    if layout != torch.strided or logits.is_quantized or logits.is_complex():
        raise ContractError(
            f"logits() returned a tensor that cannot be read ({layout}, {logits.dtype}); return "
            "dense real numbers"
        )
    copied = Tensor.to(Tensor.detach(logits), device="cpu", dtype=torch.float32, copy=True)
    return Tensor.as_subclass(copied, Tensor).contiguous()
