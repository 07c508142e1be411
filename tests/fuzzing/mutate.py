"""Changes to files: to their bytes, and to their content by format."""

from __future__ import annotations

import random
import struct
import tarfile

from tests.fuzzing.change_archives import changed_gzip, changed_tar, changed_zip
from tests.fuzzing.change_bytes import PLAIN, Change, flipped
from tests.fuzzing.change_formats import (
    changed_pickle,
    changed_png,
    changed_safetensors,
)
from tests.fuzzing.change_trees import changed_json, changed_json_lines, changed_yaml

BY_KIND: dict[str, Change] = {
    "json": changed_json,
    "jsonl": changed_json_lines,
    "yaml": changed_yaml,
    "zip": changed_zip,
    "tar": changed_tar,
    "tar.gz": changed_gzip,
    "safetensors": changed_safetensors,
    "pickle": changed_pickle,
    "png": changed_png,
}


def mutated(rng: random.Random, data: bytes, kind: str) -> bytes:
    """Change a file: half of the time by its format, otherwise by bytes."""
    change = BY_KIND.get(kind)
    if change is not None and rng.random() < 0.5:
        try:
            data = change(rng, data)
        except (ValueError, OSError, struct.error, tarfile.TarError, RecursionError):
            # The format cannot represent the changed value.
            data = flipped(rng, data)
        if rng.random() < 0.8:
            return data
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if data:
            data = rng.choice(PLAIN)(rng, data)
    return data
