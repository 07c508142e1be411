"""Weights & Biases: one run per cell, kept on this machine until `wandb sync`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fewshot_bench.plugins.trackers.contents import Contents
from fewshot_bench.utils import offline

PROJECT = "fewshot-bench"


def track(cell: Contents, folder: Path) -> None:
    """Write one cell. WANDB_MODE=online sends it at once, which --offline overrules."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    mode: Any = "offline" if offline.is_on() else os.environ.get("WANDB_MODE", "offline")
    if offline.is_on():
        os.environ["WANDB_MODE"] = "offline"
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=cell.name,
        group=cell.method,
        mode=mode,
        dir=str(folder),
        config={**cell.parameters, **{f"record.{n}": v for n, v in cell.tags.items()}},
        tags=[cell.status],
        settings=wandb.Settings(
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
