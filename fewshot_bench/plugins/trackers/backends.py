"""TensorBoard, Weights & Biases and MLflow: one run per cell, on this machine by default.

`contents` are the parameters, metrics and tags of a record; `BACKENDS` maps a tracker to the
function that writes them into its folder.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.analysis.table.costs import number
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import per_class
from fewshot_bench.utils import offline
from fewshot_bench.utils.text import printable

NAME = "fewshot-bench"
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


@dataclass(frozen=True)
class Contents:
    """A cell for a tracker: finite numbers, or printable text of bounded length.

    parameters: the run spec, hyper-parameters as `option.NAME`; metrics: with the prefix `time.`,
    `footprint.` or `selection.` if they are no metric of the result; tags: digests, versions, the
    signature, the status, and the error of a failed cell.
    """

    key: str
    name: str
    method: str
    status: str
    step: int
    parameters: Mapping[str, int | float | str | bool]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


def contents(record: Record) -> Contents:
    """The contents of one record, whatever its status."""
    spec, split = record.spec, record.split
    classes = split.get("fitted_classes") or split.get("classes") or 1
    metrics = {printable(name, LONGEST_NAME): value for name, value in _metrics(record)}
    return Contents(
        key=spec.key(),
        name=printable(spec.describe(), LONGEST),
        method=printable(spec.label, LONGEST),
        status=record.status,
        # If all images were used, the mean size of a class.
        step=per_class(spec.shots, split.get("train") or 0, classes),
        parameters=dict(_parameters(record)),
        metrics={
            name: float(v) for name, value in metrics.items() if (v := number(value)) is not None
        },
        tags={name: printable(str(v), LONGEST) for name, v in _tags(record) if v not in (None, "")},
    )


def _parameters(record: Record) -> Iterator[tuple[str, int | float | str | bool]]:
    values = record.spec.to_dict()
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


def tensorboard(cell: Contents, folder: Path) -> None:
    """Write the events of one cell to its own folder, in place of its earlier ones."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    # A name that is not hidden and does not lead out of the folder.
    name = re.sub(r"[^\w.-]+|^\.", "_", cell.method)[:60] or "_"
    run = folder / name / cell.key[:16]
    shutil.rmtree(run, ignore_errors=True)
    with SummaryWriter(str(run)) as writer:
        # For the table of hyper-parameters; `add_hparams` would make a second run beside this one.
        table: Any = hparams
        for part in table(dict(cell.parameters), dict(cell.metrics)):
            writer._get_file_writer().add_summary(part)
        for name, value in cell.metrics.items():
            writer.add_scalar(name, value, cell.step)
        lines = [f"    {name}: {value}" for name, value in {"name": cell.name, **cell.tags}.items()]
        writer.add_text("record", "\n".join(lines), cell.step)


def wandb(cell: Contents, folder: Path) -> None:
    """Write one cell. WANDB_MODE=online sends it at once, unless --offline overrides it."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # An unreachable server must not delay the cells that follow: W&B waits for 90 s.
    os.environ.setdefault("WANDB_INIT_TIMEOUT", str(_ANSWER_SECONDS))
    mode: Any = (not offline.is_on() and os.environ.get("WANDB_MODE")) or "offline"
    os.environ["WANDB_MODE"] = mode
    import wandb as library

    run = library.init(
        project=os.environ.get("WANDB_PROJECT", NAME),
        name=cell.name,
        group=cell.method,
        mode=mode,
        dir=str(folder),
        config={**cell.parameters, **{f"record.{n}": v for n, v in cell.tags.items()}},
        tags=[cell.status],
        settings=library.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
        ),
    )
    run.log(dict(cell.metrics))
    run.finish(exit_code=1 if cell.status == "failed" else 0)


def mlflow(cell: Contents, folder: Path) -> None:
    """Write one cell."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # A file store needs no server and no database driver, but MLflow requires this opt-in.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    # An unreachable server must not delay the cells that follow.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_ANSWER_SECONDS))
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or folder.absolute().as_uri())
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", NAME)
    # One of several starting workers creates the experiment.
    with FileLock(folder.parent / ".mlflow.lock", timeout=_LOCK_SECONDS):
        earlier = client.get_experiment_by_name(name)
        experiment = str(earlier.experiment_id if earlier else client.create_experiment(name))
    run = client.create_run(experiment, run_name=cell.name)
    now = int(time.time() * 1000)
    client.log_batch(
        run.info.run_id,
        metrics=[
            Metric(_make_plain(n), value, now, cell.step) for n, value in cell.metrics.items()
        ],
        params=[Param(_make_plain(n), str(value)) for n, value in cell.parameters.items()],
        tags=[RunTag(_make_plain(n), value) for n, value in cell.tags.items()],
    )
    status = "FAILED" if cell.status == "failed" else "FINISHED"
    client.set_terminated(run.info.run_id, status)


def _make_plain(text: str) -> str:
    """A name that MLflow accepts and that is no path, since it becomes a file name."""
    # Letters of any script stay: options named by Greek letters would have one name otherwise.
    name = re.sub(r"[^\w. -]|^\.", "_", text) or "_"
    return name.encode()[:_LONGEST_FILE_NAME].decode(errors="ignore")


BACKENDS: Mapping[str, Callable[[Contents, Path], None]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
}
