"""Fitting a method to the task of a cell, measured and guarded.

`fit_within_memory` is the entry point: a fit that runs out of memory is tried again in smaller
parts. Its result is immutable: `evaluate.evaluate` applies it to any number of cells, none of which
sees side effects of another.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import traceback
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.api.method import Classifier
from fewshot_bench.api.option_files import open_files
from fewshot_bench.api.record import NOT_OBSERVED, OUT_OF_MEMORY, Incidents, is_too_large
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec, name_cell
from fewshot_bench.api.task import Shots, Task, WatchedTexts
from fewshot_bench.images.features import accounted, image_view
from fewshot_bench.profiling.cost import not_counted
from fewshot_bench.profiling.curves import Curves, Listener
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.profiling.once import forget_derived
from fewshot_bench.profiling.optimizer import FiniteNumbers, LogitsObserver, ParameterObserver
from fewshot_bench.profiling.peak_memory import PeakMemory
from fewshot_bench.runner.cell_log import CellLog
from fewshot_bench.runner.faults import out_of_memory
from fewshot_bench.runner.isolation import guard
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.splits.groups import is_stream
from fewshot_bench.training.back_ends import resolve_kind
from fewshot_bench.training.train_step import TrainStep, step_on
from fewshot_bench.utils import rng as streams
from fewshot_bench.utils.cache_dir import only_read
from fewshot_bench.utils.devices import empty_cache, is_accelerator
from fewshot_bench.utils.errors import ContractError, InsufficientMemoryError, whole_number
from fewshot_bench.utils.memory import give_back_memory
from fewshot_bench.utils.rng import isolate, seed_of_fit
from fewshot_bench.utils.step_kind import Kind

MOST_PARTS = 64
Progress = Callable[[int, int], None]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Declarations(NamedTuple):
    """Notes and selection that a method declared during `fit`."""

    notes: dict[str, Any]
    selection: dict[str, int]


class Context:
    """Named randomness, precision, notes, curves and progress of one cell (see `RunContext`)."""

    def __init__(
        self,
        seed: int,
        device: torch.device,
        precision: str = "fp32",
        on_progress: Callable[[int, int], None] | None = None,
        parts: int = 1,
        step: Kind = "auto",
        on_points: Listener | None = None,
        cell: str = "cell",
    ) -> None:
        self.cell = cell
        self.device = device
        self.precision = precision
        self.notes: dict[str, Any] = {}
        self.selection = {"configurations": 0, "labels": 0}
        self.declared: int | None = None
        self.curves = Curves(on_points)
        self._seed = seed
        self._on_progress = on_progress
        self._parts = parts
        self._step = step
        self._steps: list[TrainStep] = []
        self.divisible = False

    def declarations(self) -> Declarations:
        """A copy of the notes and the selection so far."""
        return Declarations(copy.deepcopy(self.notes), dict(self.selection))

    def restore(self, declarations: Declarations) -> None:
        """Reset notes and selection to earlier declarations."""
        self.notes = copy.deepcopy(declarations.notes)
        self.selection = dict(declarations.selection)

    @property
    def memory_parts(self) -> int:
        """Number of parts to divide the work into; reading it sets `divisible`."""
        self.divisible = True
        return self._parts

    @property
    def parts_used(self) -> int:
        """Number of parts that the work was divided into; 1 if `memory_parts` was never read."""
        return self._parts if self.divisible else 1

    def rng(self, name: str) -> torch.Generator:
        """A fresh CPU generator for the named stream of this cell."""
        return streams.named_generator(self._seed, name, "ctx.rng")

    def autocast(self) -> Any:
        """Context for encoder work at the run's precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=AUTOCAST[self.precision])

    def scaler(self) -> torch.amp.GradScaler:
        """Gradient scaler; does nothing unless the precision is fp16 on an accelerator."""
        enabled = self.precision == "fp16" and is_accelerator(self.device)
        return torch.amp.GradScaler(self.device.type, enabled=enabled)

    def train_step(
        self,
        loss: Callable[..., Tensor],
        optimizer: torch.optim.Optimizer,
        max_norm: float = 0.0,
        *,
        scaled: bool = True,
    ) -> TrainStep:
        """A step that minimizes a loss."""
        return self.train_step_by(step_on(loss), optimizer, max_norm, scaled=scaled)

    def train_step_by(
        self,
        backward: Callable[..., None],
        optimizer: torch.optim.Optimizer,
        max_norm: float = 0.0,
        *,
        scaled: bool = True,
    ) -> TrainStep:
        """A step on the gradients that `backward` adds."""
        scaler = self.scaler() if scaled else torch.amp.GradScaler(enabled=False)
        self.settle_steps()
        capturable = self.parts_used == 1 and "recomputed" not in self.notes
        kind = resolve_kind(self._step, self.device) if capturable else "eager"
        step = TrainStep(backward, optimizer, scaler, max_norm, kind, self.curves)
        self._steps.append(step)
        return step

    def settle_steps(self) -> None:
        """Compare captured steps with eager ones, and drop them; called at the end of `fit`."""
        for step in self._steps:
            step.settle()

    def take_steps(self) -> list[TrainStep]:
        """The settled steps, which are forgotten here."""
        self.settle_steps()
        steps, self._steps = self._steps, []
        return steps

    def progress(self, done: int, total: int) -> None:
        """Report the progress of `fit`."""
        if self._on_progress is not None:
            self._on_progress(
                whole_number("ctx.progress: done", done, 0),
                whole_number("ctx.progress: total", total, 0),
            )

    def log(self, /, step: int | None = None, **values: object) -> None:
        """Add values of a step to the curves of the record."""
        self.curves.log(step, values)

    def note(self, **values: object) -> None:
        """Add JSON-able facts to the record."""
        for name, value in values.items():
            self.notes[name] = _plain(name, value)

    def count_selection(self, configurations: int, labels: int) -> None:
        """Declare that `configurations` were compared on `labels` validation labels."""
        where = "ctx.count_selection:"
        compared = whole_number(f"{where} configurations", configurations, 0)
        used = whole_number(f"{where} labels", labels, 0)
        self.selection["configurations"] += compared
        self.selection["labels"] = max(self.selection["labels"], used)

    def declare_trained(self, parameters: int) -> None:
        """Declare trained parameters of a solver that has no torch optimizer."""
        trained = whole_number("ctx.declare_trained: parameters", parameters, 0)
        self.declared = (self.declared or 0) + trained


def _plain(name: str, value: object) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if is_too_large(value):
        return str(value)
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    if isinstance(value, list | tuple):
        return [_plain(name, part) for part in value]
    if isinstance(value, dict):
        return {str(key): _plain(name, part) for key, part in value.items()}
    if hasattr(value, "item"):
        return _plain(name, value.item())
    raise ContractError(
        f"note({name}=...) is a {type(value).__name__}, expected numbers, strings, lists or dicts"
    )


@dataclass(frozen=True)
class Fitted:
    """A fitted method and the cost of the fit, which is billed to every cell evaluated with it.

    context: the context passed to `fit`, which its classifier may hold; declared: the declarations
    made in it. curves: as in the record. log: what it printed. trained: parameters, their source
    and the optimizer's steps; parameters: references to them. peak_mb: peak memory. texts_read:
    whether it read the texts of its classes. val: the validation images that it was given.
    """

    cell: Cell
    backbone: LoadedBackbone
    fingerprint: str
    classifier: Classifier
    context: Context
    declared: Declarations
    curves: Mapping[str, Any]
    meter: Meter
    incidents: tuple[Mapping[str, str], ...]
    log: CellLog
    peak_mb: float
    trained: Mapping[str, Any]
    parameters: tuple[weakref.ref[Tensor], ...]
    texts_read: bool = False
    val: Shots | None = None

    def sum_trained(self, in_logits: LogitsObserver) -> dict[str, Any]:
        """`trained`, with the optimizer steps in `logits` and the parameters that they trained."""
        parts = self.trained["trained"], in_logits.trained
        is_observed = None not in parts
        return {
            "trained": sum(parts) if is_observed else None,
            "trained_source": self.trained["trained_source"] if is_observed else NOT_OBSERVED,
            "steps": self.trained["steps"] + in_logits.steps,
            **({"step": self.trained["step"]} if "step" in self.trained else {}),
        }


def seed_of(cell: Cell) -> int:
    """The seed of a cell's fit."""
    return seed_of_fit(cell.spec.train_seed, cell.spec.dataset, cell.spec.shots)


def fit(
    cell: Cell, session: Session, context: Context, incidents: Incidents, log: CellLog
) -> Fitted:
    """Fit the method of a cell; `incidents` and `log` grow as they happen."""
    spec = cell.spec
    if registry().owner(spec.method):
        only_read()
        _check_found(cell, session, incidents)
    backbone, fingerprint = session.backbone(spec)
    meter = (cell.below and copy.deepcopy(cell.below.meter)) or Meter(backbone.device)
    memory = PeakMemory(backbone.device)
    observer = ParameterObserver(FiniteNumbers(spec.method, cell.method, context))
    with ExitStack() as stack:
        stack.enter_context(accounted(session.features, meter))
        stack.enter_context(memory.watch())
        stack.enter_context(isolate(seed_of(cell)))
        stack.enter_context(guard(f"{spec.method}.fit", incidents, log))
        with observer.watch(), meter.phase("fit"):
            task = make_task(cell, session, meter)
            classifier = cell.method.fit(task, backbone, context)
        steps = _settle(context, spec.method, incidents)
        curves = _finish(context, spec.method, incidents)
        streams = is_stream(spec.queries)
        for part in ("start" if streams else "logits", "tensors"):
            if not callable(getattr(classifier, part, None)):
                raise ContractError(
                    f"{spec.method}.fit returned {type(classifier).__name__} without {part}(); "
                    f"return a {'Streaming' if streams else 'Classifier'}"
                )
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
        curves=curves,
        meter=meter,
        incidents=tuple(incidents),
        log=log.copy(),
        peak_mb=memory.megabytes,
        trained=trained | {"steps": observer.steps} | steps,
        parameters=tuple(map(weakref.ref, observer.parameters)),
        texts_read=isinstance(task.texts, WatchedTexts) and task.texts.read,
        val=task.val,
    )


def _settle(context: Context, method: str, incidents: Incidents) -> dict[str, str]:
    """`step`, the kind of the steps of a fit unless they were eager; reasons become incidents."""
    with not_counted():
        steps = context.take_steps()
    for step in steps:
        if step.reason:
            incidents.add("step", f"{method}: {step.reason}")
    kinds = {step.used for step in steps} - {"eager"}
    return {"step": kinds.pop()} if kinds else {}


def _finish(context: Context, method: str, incidents: Incidents) -> dict[str, Any]:
    """The curves of a fit; what they leave out becomes an incident."""
    with not_counted():
        curves = context.curves.finish()
    if context.curves.dropped:
        incidents.add("curves", f"{method}: {context.curves.dropped}")
    return curves


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


def make_task(cell: Cell, session: Session, meter: Meter) -> Task:
    """The task of a cell, whose images are billed to a meter."""
    spec = cell.spec
    view: Callable[..., Any] = functools.partial(
        image_view,
        store=session.features,
        meter=meter,
        labeled=True,
        phase="encode_support",
        seed=spec.train_seed,
        streams=seed_of(cell),
    )
    val = session.source(cell.lists.val, spec)
    return Task(
        classnames=cell.lists.fitted.classnames,
        templates=cell.lists.fitted.templates,
        texts=WatchedTexts(cell.lists.fitted.texts),
        pooling=cell.lists.fitted.pooling,
        train=view(session.source(cell.lists.train, spec)),
        val=view(val) if len(val) else None,
        asked=spec.shots,
    )


def _check_options(cell: Cell) -> None:
    """ContractError if `fit` changed a field: the record would state an unused option."""
    for name, given in open_files(cell.spec.options).items():
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


@dataclass(frozen=True)
class Failure:
    """A fit that ended with an error, and the incidents and the output until then."""

    error: BaseException
    incidents: Incidents
    log: CellLog
    divisible: bool = False
    curves: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def release(error: BaseException) -> None:
    """Free memory held by an error's frames, and return it to the device and the system."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        raised = waiting.pop()
        if raised is not None and id(raised) not in seen:
            seen.add(id(raised))
            traceback.clear_frames(raised.__traceback__)
            waiting += [raised.__cause__, raised.__context__]
    forget_derived()
    gc.collect()
    give_back_memory()
    empty_cache()


def fit_within_memory(
    cell: Cell,
    session: Session,
    progress: Progress | None,
    interrupted: Callable[[], bool],
    parts: int = 1,
    listener: Listener | None = None,
    log: CellLog | None = None,
) -> Fitted | Failure:
    """Fit a cell; when out of memory, retry with twice as many parts, up to `MOST_PARTS`.

    parts: `RunContext.memory_parts` of the first try. A method that does not read it gets no
    second try. listener: gets points of curves, which start anew with each try. log: grows with
    what all tries print. An interruption by the user is raised, every other error is returned.
    """
    incidents, parts, log = Incidents(), min(parts, MOST_PARTS), log or CellLog()
    while True:
        result = _try(cell, session, progress, interrupted, parts, incidents, listener, log)
        if isinstance(result, Fitted) or not out_of_memory(result.error):
            return result
        release(result.error)
        session.drop_changed_backbone()
        spec = cell.spec
        if not result.divisible or parts >= MOST_PARTS:
            tried = "and cannot use less of it (it does not read ctx.memory_parts)"
            if result.divisible:
                tried = f"even in {parts} parts"
            error = give_up(spec, "fit", tried, result.error)
            return dataclasses.replace(result, error=error)
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
    listener: Listener | None,
    log: CellLog,
) -> Fitted | Failure:
    context: Context | None = None
    try:
        backbone, _ = session.backbone(cell.spec)
        seed, precision = seed_of(cell), cell.spec.precision
        step = session.step
        name, device = name_cell(cell.spec), backbone.device
        context = Context(seed, device, precision, progress, parts, step, listener, name)
        return fit(cell, session, context, incidents, log)
    except BaseException as error:
        if interrupted():
            raise
        if context is None:
            return Failure(error, incidents, log.copy())
        curves: Mapping[str, Any] = {}
        # A device that no longer computes says nothing, either.
        with suppress(Exception):
            curves = _finish(context, cell.spec.method, incidents)
        return Failure(error, incidents, log.copy(), context.divisible, curves)


def give_up(spec: RunSpec, when: str, tried: str, reason: BaseException) -> InsufficientMemoryError:
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
