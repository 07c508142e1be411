"""Shared by tests of `fsbench data status`: roots of their own, the command, its answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Result, fsbench


def own_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, and a cache, that are the only ones; the root."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("FSBENCH_DATA", str(root))
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    return root


def status(*names: object) -> Result:
    """`fsbench data status` of data sets, which ends well and warns of nothing."""
    result = fsbench("data", "status", *names)
    assert (result.code, result.err) == (0, ""), result
    return result


def row(name: str) -> dict[str, Any]:
    """The status of one data set, as JSON tells it."""
    (found,) = json.loads(status(name, "--format", "json").out)["datasets"]
    assert found["name"] == name
    return dict(found)
