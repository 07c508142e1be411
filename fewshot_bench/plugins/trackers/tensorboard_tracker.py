"""TensorBoard: one run per cell; the steps of its scalars are the shots."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from fewshot_bench.plugins.trackers.contents import Contents


def track(cell: Contents, folder: Path) -> None:
    """Write the events of one cell to a folder of its own, in place of earlier ones of it."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    # Neither hidden nor a step out of the folder.
    name = re.sub(r"[^\w.-]+|^\.", "_", cell.method)[:60] or "_"
    place = folder / name / cell.key[:16]
    shutil.rmtree(place, ignore_errors=True)
    with SummaryWriter(str(place)) as writer:
        # What a table of hyper-parameters shows; `add_hparams` would make a run beside this one.
        table: Any = hparams
        for part in table(dict(cell.parameters), dict(cell.metrics)):
            writer._get_file_writer().add_summary(part)
        for name, value in cell.metrics.items():
            writer.add_scalar(name, value, cell.step)
        lines = [f"    {name}: {value}" for name, value in {"name": cell.name, **cell.tags}.items()]
        writer.add_text("record", "\n".join(lines), cell.step)
