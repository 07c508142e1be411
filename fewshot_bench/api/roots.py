"""The folders that are searched for public data sets."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "FSBENCH_DATA"


def data_roots() -> tuple[Path, ...]:
    """The folders listed in FSBENCH_DATA, or ./data."""
    listed = [part for part in os.environ.get(DATA_VARIABLE, "").split(os.pathsep) if part]
    return tuple(Path(part).expanduser() for part in listed) or (Path("data"),)
