"""Helpers for tests of users' own data: small images, tar shards and hub data sets."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Members = Iterable[tuple[str, bytes]]


def picture(seed: int, kind: str = "PNG") -> bytes:
    """An encoded image of one color, distinct for every seed below 251."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (seed % 251, 3 * seed % 256, 7 * seed % 256)).save(buffer, kind)
    return buffer.getvalue()


def hub_package() -> Any:
    """Hugging Face's package `datasets`, or None; not this repository's folder `datasets`."""
    spec = find_spec("datasets")
    return import_module("datasets") if spec is not None and spec.origin else None


def hub_or_skip() -> Any:
    """The package `datasets`; skips the test or module if it is not installed."""
    found = hub_package()
    if found is None:
        pytest.skip("needs the package datasets", allow_module_level=True)
    return found


def write_shard(path: Path, members: Members) -> Path:
    """Write a tar archive with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(count: int, start: int = 0) -> Members:
    """Samples with alternating labels 0 and 1, as `.cls` beside `.png`."""
    for number in range(start, start + count):
        yield f"{number:06d}.png", picture(number)
        yield f"{number:06d}.cls", str(number % 2).encode()
