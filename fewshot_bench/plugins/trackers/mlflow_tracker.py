"""MLflow: one run per cell, in files of the store, or on the server of MLFLOW_TRACKING_URI."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from fewshot_bench.plugins.trackers.contents import Contents
from fewshot_bench.plugins.trackers.switch import MLFLOW_VARIABLE

EXPERIMENT = "fewshot-bench"
_LOCK_SECONDS = 60.0


def track(cell: Contents, folder: Path) -> None:
    """Write one cell."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Files need no server and no database driver; MLflow asks for this consent to them.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    # A server that is gone must not hold up the cells that follow.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    client = MlflowClient(os.environ.get(MLFLOW_VARIABLE) or folder.absolute().as_uri())
    experiment = _experiment(client, folder)
    run = client.create_run(experiment, run_name=cell.name)
    now = int(time.time() * 1000)
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(_name(n), value, now, cell.step) for n, value in cell.metrics.items()],
        params=[Param(_name(n), str(value)) for n, value in cell.parameters.items()],
        tags=[RunTag(_name(n), value) for n, value in cell.tags.items()],
    )
    status = "FAILED" if cell.status == "failed" else "FINISHED"
    client.set_terminated(run.info.run_id, status)


def _experiment(client: Any, folder: Path) -> str:
    """The experiment's id; of workers that start together, one makes it."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    with FileLock(folder.parent / ".mlflow.lock", timeout=_LOCK_SECONDS):
        found = client.get_experiment_by_name(name)
        return str(found.experiment_id if found else client.create_experiment(name))


def _name(text: str) -> str:
    """A name that MLflow takes, and that is no path: it names a file."""
    return re.sub(r"[^\w. -]|^\.", "_", text, flags=re.ASCII) or "_"
