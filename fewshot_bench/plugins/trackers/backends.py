"""TensorBoard, Weights & Biases and MLflow: one run per cell, on this machine by default.

`contents` are the parameters, metrics, tags and curves of a record; `BACKENDS` maps a tracker to
the class of its runs, which write points of curves while a cell is fitted, and its record at last.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.analysis.table.costs import number
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec, name_cell, per_class
from fewshot_bench.utils import offline
from fewshot_bench.utils.text import printable

NAME = "fewshot-bench"
# Before the names of series, and the axis of their steps where it needs a name.
CURVE = "fit/"
_STEP = f"{CURVE}step"
# Metrics that MLflow takes at once.
_BATCH = 1000
_LOCK_SECONDS = 60.0
# Time for a server to answer.
_ANSWER_SECONDS = 15
# Bytes; most file systems take 255, MLflow 250 characters.
_LONGEST_FILE_NAME = 200
LONGEST, LONGEST_NAME = 500, 200
_FOOTPRINT = (
    *("trained", "stored", "backbone", "peak_memory_mb", "images_seen", "images_encoded"),
    "steps",
)


# A step of a fit, and its values by series.
Point = tuple[int, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell for a tracker before it has a record: finite numbers, or printable text.

    place: its name for a folder. parameters: the run spec, hyper-parameters as `option.NAME`.
    """

    key: str
    name: str
    place: str
    method: str
    parameters: Mapping[str, int | float | str | bool]


@dataclass(frozen=True, kw_only=True)
class Contents(Cell):
    """A cell with its record, in texts of bounded length.

    metrics: with the prefix `time.`, `footprint.` or `selection.` if they are no metric of the
    result; tags: digests, versions, the signature, the status, and the error of a failed cell;
    points: of its curves.
    """

    status: str
    step: int
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    points: Sequence[Point] = ()


def cell_of(spec: RunSpec) -> Cell:
    """A cell that has no record yet."""
    key, name = spec.key(), name_cell(spec)
    return Cell(
        key=key,
        name=printable(spec.describe(), LONGEST),
        # Cells of several runs may have one name.
        place=name if name.endswith(key[:8]) else f"{name}_{key[:8]}",
        method=printable(spec.label, LONGEST),
        parameters=dict(_parameters(spec)),
    )


def contents(record: Record) -> Contents:
    """The contents of one record, whatever its status."""
    spec, split = record.spec, record.split
    classes = split.get("fitted_classes") or split.get("classes") or 1
    metrics = {printable(name, LONGEST_NAME): value for name, value in _metrics(record)}
    return Contents(
        **vars(cell_of(spec)),
        status=record.status,
        # If all images were used, the mean size of a class.
        step=per_class(spec.shots, split.get("train") or 0, classes),
        metrics={
            name: float(v) for name, value in metrics.items() if (v := number(value)) is not None
        },
        tags={name: printable(str(v), LONGEST) for name, v in _tags(record) if v not in (None, "")},
        points=_points(record),
    )


def _points(record: Record) -> list[Point]:
    """The points of a record's curves by step."""
    points: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for name, series in record.curves.items():
        for step, value in zip(series["steps"], series["values"], strict=True):
            points[step][name] = value
    return sorted(points.items())


def _parameters(spec: RunSpec) -> Iterator[tuple[str, int | float | str | bool]]:
    values = spec.to_dict()
    options = values.pop("options")
    for name in ("overrides", "data", "weights", "revision", "target_revision"):
        values.pop(name, None)
    for name, value in (values | {f"option.{n}": v for n, v in options.items()}).items():
        plain = isinstance(value, int | float | bool)
        text = str(value).lower() if value is None else str(value)
        yield printable(name, LONGEST_NAME), value if plain else printable(text, LONGEST)


def _metrics(record: Record) -> Iterator[tuple[str, Any]]:
    yield from record.metrics.items()
    for name in ("billed_seconds", "elapsed_seconds"):
        yield f"time.{name}", record.timings.get(name)
    for phase, costs in _entries(record.timings.get("phases")).items():
        yield f"time.{phase}_seconds", _entries(_entries(costs).get("billed")).get("wall")
    for name in _FOOTPRINT:
        yield f"footprint.{name}", record.footprint.get(name)
    for name, value in _entries(record.footprint.get("selection")).items():
        yield f"selection.{name}", value


def _entries(value: object) -> Mapping[str, Any]:
    """The entries of a mapping; none of anything else."""
    return value if isinstance(value, Mapping) else {}


def _tags(record: Record) -> Iterator[tuple[str, Any]]:
    spec, env, error = record.spec, record.environment, record.error or {}
    yield "status", record.status
    yield "key", spec.key()
    yield "signature", signature_of([record])
    yield "split_digest", record.split.get("digest")
    yield "split_verified", record.split.get("verified")
    yield "revision", spec.revision
    yield "weights", env.get("weights_digest") or spec.weights
    yield "record_digest", record.digests.get("record")
    yield "logits_digest", record.digests.get("logits")
    for name in ("fewshot_bench", "commit", "device_name", "determinism", "method_origin"):
        yield name, env.get(name)
    yield "code_digest", record.code_digest
    yield "error_type", error.get("type")
    yield "error_message", error.get("message")
    for count, incident in enumerate(record.incidents, 1):
        yield f"incident_{count}", f"{incident.get('kind')}: {incident.get('text')}"


class Run(ABC):
    """One cell in a tracker; begun with its first point, or with its record."""

    @abstractmethod
    def __init__(self, cell: Cell, folder: Path) -> None:
        """Begin a run, in place of an earlier one of the cell where that is possible."""

    @abstractmethod
    def log(self, points: Sequence[Point]) -> None:
        """Write points of curves, as `fit/loss` by step."""

    @abstractmethod
    def finish(self, cell: Contents) -> None:
        """Write the rest of its record, and end the run."""

    @abstractmethod
    def discard(self) -> None:
        """End a run whose fit begins anew."""


class TensorBoard(Run):
    """The events of one cell in its own folder, in place of its earlier ones."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        """Begin the events."""
        from torch.utils.tensorboard import SummaryWriter

        # A name that is not hidden and does not lead out of the folder.
        name = re.sub(r"[^\w.=-]+|^\.", "_", cell.method)[:60].rstrip("_") or "_"
        self._folder = folder / name / cell.place
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = SummaryWriter(str(self._folder))

    def log(self, points: Sequence[Point]) -> None:
        """Write points, which can be seen at once."""
        for step, values in points:
            for name, value in values.items():
                self._writer.add_scalar(CURVE + name, value, step)
        self._writer.flush()

    def finish(self, cell: Contents) -> None:
        """Write metrics, parameters and tags."""
        from torch.utils.tensorboard.summary import hparams

        writer = self._writer
        # For the table of hyper-parameters; `add_hparams` would make a second run beside this one.
        table: Any = hparams
        events: Any = writer.file_writer
        for part in table(dict(cell.parameters), dict(cell.metrics)):
            events.add_summary(part)
        for name, value in cell.metrics.items():
            writer.add_scalar(name, value, cell.step)
        lines = [f"    {name}: {value}" for name, value in {"name": cell.name, **cell.tags}.items()]
        writer.add_text("record", "\n".join(lines), cell.step)
        writer.close()

    def discard(self) -> None:
        """Remove the events."""
        self._writer.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Wandb(Run):
    """WANDB_MODE=online sends a cell at once, unless --offline overrides it."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        """Begin a run, beside those of other workers."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # An unreachable server must not delay the cells that follow: W&B waits for 90 s.
        os.environ.setdefault("WANDB_INIT_TIMEOUT", str(_ANSWER_SECONDS))
        mode: Any = (not offline.is_on() and os.environ.get("WANDB_MODE")) or "offline"
        os.environ["WANDB_MODE"] = mode
        import wandb as library

        self._run = library.init(
            project=os.environ.get("WANDB_PROJECT", NAME),
            name=cell.name,
            group=cell.method,
            mode=mode,
            dir=str(folder),
            config=dict(cell.parameters),
            reinit="create_new",
            settings=library.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )
        self._run.define_metric(_STEP)
        self._run.define_metric(f"{CURVE}*", step_metric=_STEP)

    def log(self, points: Sequence[Point]) -> None:
        """Write points, with the step of the fit as their axis."""
        for step, values in points:
            self._run.log({_STEP: step, **{CURVE + name: v for name, v in values.items()}})

    def finish(self, cell: Contents) -> None:
        """Write metrics and tags."""
        self._run.config.update({f"record.{name}": value for name, value in cell.tags.items()})
        self._run.tags = (cell.status,)
        self._run.log(dict(cell.metrics))
        self._run.finish(exit_code=1 if cell.status == "failed" else 0)

    def discard(self) -> None:
        """End it as failed: what was sent stays."""
        self._run.finish(exit_code=1)


class Mlflow(Run):
    """A run of the experiment, in files or on a server."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        """Begin a run."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # A file store needs no server and no database driver, but MLflow requires this opt-in.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        # An unreachable server must not delay the cells that follow.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_ANSWER_SECONDS))
        from mlflow.tracking import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI") or folder.absolute().as_uri()
        self._client = MlflowClient(address)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", NAME)
        # One of several starting workers creates the experiment.
        with FileLock(folder.parent / ".mlflow.lock", timeout=_LOCK_SECONDS):
            earlier = self._client.get_experiment_by_name(name)
            found = earlier.experiment_id if earlier else self._client.create_experiment(name)
        self._id = self._client.create_run(str(found), run_name=cell.name).info.run_id

    def log(self, points: Sequence[Point]) -> None:
        """Write points."""
        values = [(CURVE + name, v, step) for step, series in points for name, v in series.items()]
        for start in range(0, len(values), _BATCH):
            self._write(values[start : start + _BATCH])

    def finish(self, cell: Contents) -> None:
        """Write metrics, parameters and tags."""
        from mlflow.entities import Param, RunTag

        metrics = [(_make_plain(name), value, cell.step) for name, value in cell.metrics.items()]
        params = [Param(_make_plain(n), str(value)) for n, value in cell.parameters.items()]
        tags = [RunTag(_make_plain(n), value) for n, value in cell.tags.items()]
        self._write(metrics, params=params, tags=tags)
        status = "FAILED" if cell.status == "failed" else "FINISHED"
        self._client.set_terminated(self._id, status)

    def discard(self) -> None:
        """Delete it."""
        self._client.delete_run(self._id)

    def _write(self, metrics: Iterable[tuple[str, float, int]], **more: Any) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        listed = [Metric(name, value, now, step) for name, value, step in metrics]
        self._client.log_batch(self._id, metrics=listed, **more)


def _make_plain(text: str) -> str:
    """A name that MLflow accepts and that is no path, since it becomes a file name."""
    # Letters of any script stay: options named by Greek letters would have one name otherwise.
    name = re.sub(r"[^\w. -]|^\.", "_", text) or "_"
    return name.encode()[:_LONGEST_FILE_NAME].decode(errors="ignore")


BACKENDS: Mapping[str, type[Run]] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": Mlflow}


class Tracked:
    """The runs of one tracker that have begun, by the key of their cell.

    A curve whose steps begin anew is that of another try of the fit: its run is begun anew, too.
    After a failure, nothing more is written of a cell before it has its record.
    """

    def __init__(self, kind: type[Run]) -> None:
        self._kind = kind
        self._runs: dict[str, Run] = {}
        # The points that were written: series and step.
        self._written: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
        self._failed: set[str] = set()

    def log(self, cell: Cell, points: Sequence[Point], folder: Path) -> None:
        """Write points of a fit that goes on."""
        if cell.key in self._failed:
            return
        seen = self._written[cell.key]
        try:
            if any((name, step) in seen for step, values in points for name in values):
                self.restart(cell.key)
            self._write(cell, points, folder)
        except (Exception, SystemExit):
            self.restart(cell.key)
            self._failed.add(cell.key)

    def _write(self, cell: Cell, points: Sequence[Point], folder: Path) -> None:
        if cell.key not in self._runs:
            folder.mkdir(parents=True, exist_ok=True)
            self._runs[cell.key] = self._kind(cell, folder)
        self._runs[cell.key].log(points)
        self._written[cell.key].update((name, step) for step, values in points for name in values)

    def finish(self, cell: Contents, folder: Path) -> None:
        """Write what a record has beside the points that were written."""
        try:
            seen = self._written[cell.key]
            left = [
                (step, {name: v for name, v in values.items() if (name, step) not in seen})
                for step, values in cell.points
            ]
            self._write(cell, [point for point in left if point[1]], folder)
            self._runs[cell.key].finish(cell)
        finally:
            self._forget(cell.key)

    def restart(self, key: str) -> None:
        """Discard what was written of a cell, whose fit begins."""
        if key in self._runs:
            with suppress(Exception, SystemExit):
                self._runs[key].discard()
        self._forget(key)

    def _forget(self, key: str) -> None:
        self._runs.pop(key, None)
        self._written.pop(key, None)
        self._failed.discard(key)
