"""From specification to record: runs cells that share a fit; failures become records."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from fewshot_bench.api.record import Incidents, Record, Status
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.images.features import open_views
from fewshot_bench.runner.evaluate import Answered
from fewshot_bench.runner.examination import Outcome
from fewshot_bench.runner.fit import Fitted
from fewshot_bench.runner.isolation import own_interruptions
from fewshot_bench.runner.keeping import keep
from fewshot_bench.runner.retry import Failure, Progress, evaluate_within_memory, fit_within_memory
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.utils import environment
from fewshot_bench.utils.errors import FsbenchError, NotApplicableError, StoreError


def run_one(spec: RunSpec, session: Session, progress: Progress | None = None) -> Outcome:
    """Compute one cell. A failure of the method or its data becomes a failed record."""
    return next(run_group([spec], session, progress))


def run_group(
    specs: Sequence[RunSpec],
    session: Session,
    progress: Progress | None = None,
    parts: int = 1,
) -> Iterator[Outcome]:
    """Fit once for cells that share a fit (`RunSpec.fit_key`), and yield each cell's outcome.

    A cell's outcome does not depend on the other cells of its group. parts: the first value of
    `RunContext.memory_parts`.
    """
    with open_views():
        fits: dict[str, Fitted | Failure] = {}
        for spec in specs:
            with own_interruptions() as interrupted:
                record, answers = _computed(spec, session, progress, fits, interrupted, parts)
            outcome = _settled(record, answers, session)
            outcome.tainted = session.tainted
            yield outcome


def _settled(record: Record, answers: np.ndarray | None, session: Session) -> Outcome:
    """The outcome with metrics; data that became unusable (a changed image) fail the cell."""
    try:
        return session.examiner.settle(record, answers)
    except StoreError:
        raise
    except FsbenchError as error:
        incidents = Incidents()
        incidents.restart(record.incidents)
        failed = _without_result(record.spec, "failed", error, incidents)
        return session.examiner.settle(failed, None)


def _computed(
    spec: RunSpec,
    session: Session,
    progress: Progress | None,
    fits: dict[str, Fitted | Failure],
    interrupted: Callable[[], bool],
    parts: int,
) -> tuple[Record, np.ndarray | None]:
    """Compute one cell; an error of plug-in code fails it, unless the user interrupted the run."""
    key, incidents = spec.fit_key(), Incidents()
    try:
        cell = session.resolve(spec)
        if cell.inapplicable:
            raise NotApplicableError(cell.inapplicable)
        if key not in fits:
            fits[key] = fit_within_memory(cell, session, progress, interrupted, parts)
        fitted = fits[key]
        incidents.restart(fitted.incidents)
        if isinstance(fitted, Failure):
            raise fitted.error
        try:
            answered = evaluate_within_memory(fitted, cell, session, incidents, interrupted)
            return _with_model(answered, fitted, cell, session, incidents)
        except NotApplicableError:
            raise
        except BaseException:
            # A failed evaluation may have corrupted the fit: drop it. A failed fit stays failed.
            del fits[key]
            raise
    except NotApplicableError as error:
        session.drop_changed_backbone()
        return _without_result(spec, "inapplicable", error, incidents), None
    except BaseException as error:
        if interrupted():
            raise
        session.drop_changed_backbone()
        return _without_result(spec, "failed", error, incidents), None


def _with_model(
    answered: Answered, fitted: Fitted, cell: Cell, session: Session, incidents: Incidents
) -> Answered:
    """Keep the model in the store if requested; the record gains its facts and incidents."""
    if session.models is None:
        return answered
    record, answers = answered
    stated = keep(fitted, cell, session, session.models, incidents)
    footprint = {**record.footprint, **stated}
    return replace(record, footprint=footprint, incidents=tuple(incidents)), answers


def _without_result(
    spec: RunSpec, status: Status, error: BaseException, incidents: Incidents
) -> Record:
    shown = "" if status == "inapplicable" else "".join(traceback.format_exception(error))
    return Record(
        spec=spec,
        status=status,
        environment={
            **environment.describe(spec.device),
            "code": registry().code(spec.method),
        },
        error={
            "type": type(error).__name__,
            "message": str(error) or repr(error),
            "traceback": shown,
            "expected": isinstance(error, FsbenchError),
        },
        incidents=tuple(incidents),
    )
