"""Retries a cell that ran out of memory in smaller parts, until it succeeds or no retry is left."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from fewshot_bench.api.record import OUT_OF_MEMORY, Incidents
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.profiling.once import forget_derived
from fewshot_bench.runner.context import Context
from fewshot_bench.runner.evaluate import Answered, QueryBatches, evaluate
from fewshot_bench.runner.fit import Fitted, fit, seed_of
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.utils.errors import InsufficientMemoryError
from fewshot_bench.utils.memory import give_back_memory

MOST_PARTS = 64
Progress = Callable[[int, int], None]
_TEXTS = (
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "cublas_status_alloc_failed",
)
# The whole message of oneDNN, on a CPU, if memory for a kernel cannot be allocated.
_ONEDNN = "could not create a primitive"


@dataclass(frozen=True)
class Failure:
    """A fit that ended with an error, and the incidents until then."""

    error: BaseException
    incidents: Incidents
    divisible: bool = False


def out_of_memory(error: BaseException) -> bool:
    """True if the error means that a device or the machine ran out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).casefold()
    is_memory = text == _ONEDNN or any(part in text for part in _TEXTS)
    return isinstance(error, RuntimeError) and is_memory


def release(error: BaseException) -> None:
    """Free memory held by an error's frames, and return it to the device and the system."""
    for raised in _chain(error):
        traceback.clear_frames(raised.__traceback__)
    forget_derived()
    gc.collect()
    give_back_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fit_within_memory(
    cell: Cell,
    session: Session,
    progress: Progress | None,
    interrupted: Callable[[], bool],
    parts: int = 1,
) -> Fitted | Failure:
    """Fit a cell; when out of memory, retry with twice as many parts, up to `MOST_PARTS`.

    parts: `RunContext.memory_parts` of the first try. A method that does not read it gets no
    second try. An interruption by the user is raised, every other error is returned.
    """
    incidents, parts = Incidents(), min(parts, MOST_PARTS)
    while True:
        result = _try(cell, session, progress, interrupted, parts, incidents)
        if isinstance(result, Fitted) or not out_of_memory(result.error):
            return result
        release(result.error)
        session.drop_changed_backbone()
        spec = cell.spec
        if not result.divisible or parts >= MOST_PARTS:
            tried = "and cannot use less of it (it does not read ctx.memory_parts)"
            if result.divisible:
                tried = f"even in {parts} parts"
            return Failure(_hopeless(spec, "fit", tried, result.error), result.incidents)
        parts, incidents = 2 * parts, result.incidents
        text = f"{spec.method}.fit ran out of memory ({_reason(result.error)})"
        incidents.add(OUT_OF_MEMORY, f"{text}; fitted again with less memory: memory_parts={parts}")


def _try(
    cell: Cell,
    session: Session,
    progress: Progress | None,
    interrupted: Callable[[], bool],
    parts: int,
    incidents: Incidents,
) -> Fitted | Failure:
    context: Context | None = None
    try:
        backbone, _ = session.backbone(cell.spec)
        seed, precision = seed_of(cell), cell.spec.precision
        context = Context(seed, backbone.device, precision, progress, parts)
        return fit(cell, session, context, incidents)
    except BaseException as error:
        if interrupted():
            raise
        return Failure(error, incidents, context is not None and context.divisible)


def evaluate_within_memory(
    fitted: Fitted,
    cell: Cell,
    session: Session,
    incidents: Incidents,
    interrupted: Callable[[], bool],
) -> Answered:
    """`evaluate`; when out of memory, retry with half as many queries per batch.

    A method that requests no batches gets no second try. incidents: receives those of the last try.
    """
    batches = QueryBatches(cell.spec.method, fitted.context.parts_used)
    while True:
        incidents.restart(fitted.incidents)
        try:
            return evaluate(fitted, cell, session, batches, incidents)
        except BaseException as caught:
            if interrupted() or not out_of_memory(caught):
                raise
            error = caught
        release(error)
        if not batches.asked or batches.parts >= MOST_PARTS:
            tried = f"even with {batches.parts} times smaller batches of queries"
            if not batches.asked:
                tried = "and cannot use less of it (it asks for no batches of queries)"
            raise _hopeless(cell.spec, "logits", tried, error)
        batches.parts *= 2


def _hopeless(
    spec: RunSpec, when: str, tried: str, reason: BaseException
) -> InsufficientMemoryError:
    """The error for a cell that does not fit into memory, with advice for the user."""
    size = spec.options.get("batch_size")
    advice = []
    if when == "fit" and isinstance(size, int) and size > 1:
        advice.append(f"a smaller batch (-o {spec.method}.batch_size={size // 2})")
    if spec.precision == "fp32":
        advice.append("--precision bf16")
    advice += ["another --device", "fewer --jobs"]
    shown = f"{', '.join(advice[:-1])} or {advice[-1]}"
    error = InsufficientMemoryError(
        f"{spec.method}.{when} ran out of memory {tried} ({_reason(reason)}); try {shown}"
    )
    error.__cause__ = reason
    return error


def _reason(error: BaseException) -> str:
    """The start of the error message: torch appends advice for programmers."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        raised = waiting.pop()
        if raised is not None and id(raised) not in seen:
            seen.add(id(raised))
            yield raised
            waiting += [raised.__cause__, raised.__context__]
