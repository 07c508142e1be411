"""Sources of methods that were classes of a script or notebook, as a store keeps them.

`source_place` is where. The folder of a source is named by the digest of its content, so that equal
places in two stores hold equal files.
"""

from __future__ import annotations

import re
from pathlib import Path

from fewshot_bench.api.method_code import parts
from fewshot_bench.store.store import METHODS


def source_place(method: str) -> Path | None:
    """The place of a method's source below its store; None for any other method."""
    file = Path((parts(method) or ("",))[0])
    place = Path(METHODS) / file.parent.name / file.name
    kept = file.parts[-3:] == place.parts and re.fullmatch("[0-9a-f]{16}", file.parent.name)
    return place if kept else None
