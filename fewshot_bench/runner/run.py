"""From specification to record: runs cells that share a fit; failures become records.

A model that is kept changes no number of its record; one that cannot be kept becomes an incident.
"""

from __future__ import annotations

import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewshot_bench.api.keeping import name_of_class, reason_not_to_keep
from fewshot_bench.api.record import Incidents, Record, Status
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec, plain
from fewshot_bench.profiling.curves import Listener
from fewshot_bench.runner.cell_log import CellLog
from fewshot_bench.runner.classifier_state import read_state
from fewshot_bench.runner.evaluate import evaluate_within_memory
from fewshot_bench.runner.examiner import Outcome
from fewshot_bench.runner.faults import causes_of, device_fault
from fewshot_bench.runner.fit import Failure, Fitted, Progress, fit_within_memory
from fewshot_bench.runner.restored import check_restored
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.runner.verdict import Answered
from fewshot_bench.store.kept_models import (
    STATED,
    ModelConfig,
    config_of,
    image_digests,
    model_folder,
    next_model_folder,
    place_model,
    remove_model,
    size_of,
    stated_model,
    without_path,
    write_model,
)
from fewshot_bench.store.store import Store
from fewshot_bench.training.train_step import CaptureError
from fewshot_bench.utils import environment
from fewshot_bench.utils.errors import (
    ContractError,
    FsbenchError,
    NotApplicableError,
    StoreError,
    UnsupportedBackboneError,
)
from fewshot_bench.utils.files import FULL
from fewshot_bench.utils.plugin_code import own_interruptions
from fewshot_bench.utils.processes import is_at_limit


def run_one(spec: RunSpec, session: Session, progress: Progress | None = None) -> Outcome:
    """Compute one cell. A failure of the method or its data becomes a failed record."""
    with closing(run_group([spec], session, progress)) as outcomes:
        return next(outcomes)


def run_group(
    specs: Sequence[RunSpec],
    session: Session,
    progress: Progress | None = None,
    parts: int = 1,
    listener: Listener | None = None,
) -> Generator[Outcome, None, None]:
    """Fit once for cells that share a fit (`RunSpec.fit_key`), and yield each cell's outcome.

    A cell's outcome does not depend on the other cells of its group. parts: the first value of
    `RunContext.memory_parts`. listener: gets points of curves during a fit. An error ends the first
    cell that has one if `Session.raises`.
    """
    fits: dict[str, Fitted | Failure] = {}
    inner = {lower.key(): lower for spec in specs if (lower := spec.inner_cell())}
    done: dict[str, Answered] = {}
    own = {spec.key() for spec in specs}
    lower_alone = (spec for key, spec in inner.items() if key not in own)
    left = Counter(spec.fit_key() for spec in (*specs, *lower_alone))

    def compute(spec: RunSpec, log: CellLog, below: Answered | None = None) -> Answered:
        left[spec.fit_key()] -= 1
        shared = left[spec.fit_key()] > 0
        passing = nullcontext(lambda: True) if session.raises else own_interruptions()
        models = session.models if spec in specs else None
        with passing as interrupted:
            answered = _compute(
                *(spec, below, session, models, progress, fits, interrupted, log, parts, listener),
                shared=shared,
            )
        if not shared:
            # What a finalizer does to this process, it does before the result is handed in.
            fits.pop(spec.fit_key(), None)
        if spec.key() in inner:
            meter = answered.meter and answered.meter.reuse()
            done[spec.key()] = answered._replace(meter=meter)
        return answered

    for spec in specs:
        below: Answered | None = None
        if lower := spec.inner_cell():
            below = done.get(lower.key()) or compute(lower, session.start_log(lower))
        log = session.start_log(spec)
        outcome = _settle(compute(spec, log, below), log.text, session)
        _place_model(outcome.record, session)
        yield outcome


def _settle(done: Answered, log: str, session: Session) -> Outcome:
    """The outcome with metrics; data that became unusable (a changed image) fail the cell."""
    try:
        return session.examiner.settle(done, log)
    except StoreError:
        raise
    except FsbenchError as error:
        incidents = Incidents()
        incidents.restart(done.record.incidents)
        failed = _without_result(done.record.spec, "failed", error, incidents)
        return session.examiner.settle(Answered(failed), log)


def _compute(
    spec: RunSpec,
    below: Answered | None,
    session: Session,
    models: Path | None,
    progress: Progress | None,
    fits: dict[str, Fitted | Failure],
    interrupted: Callable[[], bool],
    log: CellLog,
    parts: int,
    listener: Listener | None,
    *,
    shared: bool,
) -> Answered:
    """Compute one cell; an error of plug-in code fails it, unless the user interrupted the run.

    below: what it is on top of. models: the store that keeps its model. log: receives what the cell
    prints. shared: True if later cells use the same fit.
    """
    key, incidents = spec.fit_key(), Incidents()
    if below is not None and below.record.status != "done":
        facts = {**below.record.environment, "code": registry().code_of(spec)}
        return Answered(replace(below.record, spec=spec, environment=facts))
    try:
        if below and below.record.footprint["depends_on_queries"]:
            raise ContractError(
                f"{below.record.spec.method}: its answers for a query depend on other queries, so "
                f"that {spec.method} cannot be on top of it (fsbench check)"
            )
        cell = replace(session.resolve(spec), below=below)
        if cell.inapplicable:
            raise NotApplicableError(cell.inapplicable)
        if key not in fits:
            fits[key] = fit_within_memory(
                cell, session, progress, interrupted, parts, listener, log
            )
        fitted = fits[key]
        incidents.restart(fitted.incidents)
        if isinstance(fitted, Failure):
            log.restart(fitted.log)
            # Raised again, it would hold the frames of all earlier cells of this fit.
            record = _record_error(spec, fitted.error, session, incidents).record
            return Answered(replace(record, curves=fitted.curves))
        try:
            opaque = fitted.backbone, fitted.context, fitted.cell
            before = read_state(fitted.classifier, opaque) if shared else []
            answered = evaluate_within_memory(
                fitted, cell, session, incidents, interrupted, log, progress
            )
            record = answered.record
            if models is not None:
                stated = keep(fitted, cell, session, models, incidents)
                record = replace(record, footprint={**record.footprint, **stated})
            if shared and read_state(fitted.classifier, opaque) != before:
                # Answers to the next cell must not depend on this one.
                del fits[key]
                text = "what fit returned; fitted again for the next cell of this fit"
                incidents.add("classifier", f"{spec.method}.logits changed {text}")
            lower = below.record.incidents if below else ()
            return answered._replace(record=replace(record, incidents=(*lower, *incidents)))
        except NotApplicableError:
            raise
        except BaseException:
            # A failed evaluation may have corrupted the fit: drop it. A failed fit stays failed.
            del fits[key]
            raise
    except BaseException as error:
        if interrupted() or isinstance(error, NoRoomForModel):
            raise
        return _record_error(spec, error, session, incidents)


def _record_error(
    spec: RunSpec, error: BaseException, session: Session, incidents: Incidents
) -> Answered:
    """The record of a cell without answers: inapplicable if none can ever be had, else failed."""
    session.drop_changed_backbone()
    never = isinstance(error, NotApplicableError | UnsupportedBackboneError)
    status: Status = "inapplicable" if never else "failed"
    return Answered(_without_result(spec, status, error, incidents))


def _place_model(record: Record, session: Session) -> None:
    """Let the model of a record that is stored now replace the earlier one, or nothing do so.

    Until then, a kill, a failure or a full disk leaves the earlier record with its model.
    """
    if session.models is None or record.status != "done":
        return
    key = record.spec.key()
    try:
        if stated_model(record):
            place_model(session.models, key)
        else:
            remove_model(session.models, key)
    except OSError as error:
        folder = model_folder(session.models, key)
        raise Store(session.models).cannot_write(folder, error) from error


def _without_result(
    spec: RunSpec, status: Status, error: BaseException, incidents: Incidents
) -> Record:
    shown = "" if status == "inapplicable" else "".join(traceback.format_exception(error))
    uncaptured = next((one for one in causes_of(error) if isinstance(one, CaptureError)), None)
    if uncaptured is not None:
        # What failed under a capture may work eagerly, also what looks like a fault of the device.
        error = uncaptured
    fault = "" if uncaptured else device_fault(error)
    # At a limit of the machine: the next run tries the cell again.
    is_full = isinstance(error, OSError) and error.errno in FULL
    transient = is_at_limit(error) or is_full or bool(fault or uncaptured)
    return Record(
        spec=spec,
        status=status,
        environment={**environment.describe(spec.device), "code": registry().code_of(spec)},
        error={
            "type": type(error).__name__,
            "message": str(error) or repr(error),
            "traceback": shown,
            "expected": isinstance(error, FsbenchError),
            **({"transient": True} if transient else {}),
            **({"device_fault": fault} if fault else {}),
            **({"uncaptured": uncaptured.reason} if uncaptured else {}),
            **({"of_code": True} if uncaptured and uncaptured.of_code else {}),
        },
        incidents=tuple(incidents),
    )


class NoRoomForModel(StoreError):
    """The disk is full: the run ends, since a record without its model would count as done."""


def keep(
    fitted: Fitted, cell: Cell, session: Session, store: Path, incidents: Incidents
) -> dict[str, Any]:
    """Write the next model of a cell into a store; return its facts for the record's footprint.

    It takes the place of an earlier one once the record is stored (`_place_model`). On failure, add
    an incident and return an empty dict: the method cannot be kept, or its restored model fails a
    check. NoRoomForModel if the disk is full.
    """
    key, method = cell.spec.key(), cell.spec.method
    folder = next_model_folder(store, key)
    try:
        # Of a process that was killed.
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        if reason := reason_not_to_keep(cell.method):
            raise FsbenchError(reason)
        config = _config(fitted, cell, session)
        tensors = check_restored(fitted, session, incidents)
        digest = write_model(folder, config, tensors, _card(cell, config))
        return {STATED: {"digest": digest, "bytes": size_of(folder)}}
    except (FsbenchError, OSError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise NoRoomForModel(str(Store(store).cannot_write(folder, error))) from error
        why = str(error) if isinstance(error, FsbenchError) else error.strerror
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    incidents.add(STATED, f"{method}: its model was not kept: {why}")
    return {}


def _config(fitted: Fitted, cell: Cell, session: Session) -> ModelConfig:
    spec, lists = fitted.cell.spec, fitted.cell.lists
    used = [images for images in (lists.train, lists.val) if images.count]
    files = [sha for images in used for sha in session.examiner.files(images).digests]
    counts = Counter(lists.train.labels)
    data = {
        "cell": cell.spec.key(),
        "dataset": without_path(spec.dataset),
        "revision": spec.revision,
        "split": lists.picks,
        "shots": plain(spec.shots),
        "split_seed": spec.split_seed,
        "seed": spec.train_seed,
        "protocol": spec.protocol,
        "val": spec.val,
        "prompts": spec.prompts,
        "validation": lists.val.count,
        "images": [counts[label] for label in range(len(lists.fitted.classnames))],
        **image_digests(files),
    }
    return config_of(
        spec.method,
        fitted.cell.method,
        fitted.backbone,
        lists.fitted,
        classifier=name_of_class(fitted.classifier),
        exif=spec.exif,
        data=data,
        notes=fitted.declared.notes,
    )


def _card(cell: Cell, config: ModelConfig) -> str:
    spec, others = cell.spec, ""
    if config.classnames != cell.lists.evaluated.classnames:
        others = "\nThe model answers for the classes of its fit, not for those of the record."
    return (
        f"# {spec.method} on {config.data['dataset']}\n\n"
        f"{len(config.classnames)} classes, backbone {config.backbone}, seed {spec.train_seed}.\n"
        f"Kept by `fsbench run --keep-models` beside the record {spec.key()}.{others}\n\n"
        "```python\nimport fewshot_bench as fb\n\n"
        'fb.load_model("this folder").predict(["image.jpg"])\n```\n'
    )
