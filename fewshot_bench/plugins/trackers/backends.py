"""TensorBoard, Weights & Biases and MLflow: one run per cell, on this machine by default.

`BACKENDS` maps a tracker to the function that writes one cell into its folder.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from fewshot_bench.plugins.trackers import switch
from fewshot_bench.plugins.trackers.contents import Contents
from fewshot_bench.utils import offline

NAME = "fewshot-bench"
_LOCK_SECONDS = 60.0
# Time for a server to answer.
_ANSWER_SECONDS = 15
# Bytes; most file systems take 255, MLflow 250 characters.
_LONGEST_FILE_NAME = 200


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
    mode: Any = (not offline.is_on() and os.environ.get(switch.WANDB_VARIABLE)) or "offline"
    os.environ[switch.WANDB_VARIABLE] = mode
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

    client = MlflowClient(os.environ.get(switch.MLFLOW_VARIABLE) or folder.absolute().as_uri())
    experiment = _experiment(client, folder)
    run = client.create_run(experiment, run_name=cell.name)
    now = int(time.time() * 1000)
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(_plain(n), value, now, cell.step) for n, value in cell.metrics.items()],
        params=[Param(_plain(n), str(value)) for n, value in cell.parameters.items()],
        tags=[RunTag(_plain(n), value) for n, value in cell.tags.items()],
    )
    status = "FAILED" if cell.status == "failed" else "FINISHED"
    client.set_terminated(run.info.run_id, status)


def _experiment(client: Any, folder: Path) -> str:
    """Id of the experiment; a lock makes one of several starting workers create it."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", NAME)
    with FileLock(folder.parent / ".mlflow.lock", timeout=_LOCK_SECONDS):
        experiment = client.get_experiment_by_name(name)
        return str(experiment.experiment_id if experiment else client.create_experiment(name))


def _plain(text: str) -> str:
    """A name that MLflow accepts and that is no path, since it becomes a file name."""
    # Letters of any script stay: options named by Greek letters would have one name otherwise.
    name = re.sub(r"[^\w. -]|^\.", "_", text) or "_"
    return name.encode()[:_LONGEST_FILE_NAME].decode(errors="ignore")


BACKENDS: Mapping[str, Callable[[Contents, Path], None]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
}
