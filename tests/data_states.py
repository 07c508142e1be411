"""Helpers for tests of `fsbench data status`: private data roots, the command, its output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Result, fsbench


def own_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set an empty data root and a cache of the test's own; return the root."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("FSBENCH_DATA", str(root))
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    return root


def status(*names: object) -> Result:
    """Run `fsbench data status`; assert success without warnings."""
    result = fsbench("data", "status", *names)
    assert (result.code, result.err) == (0, ""), result
    return result


def row(name: str) -> dict[str, Any]:
    """Status of one data set, from the JSON output."""
    (found,) = json.loads(status(name, "--format", "json").out)["datasets"]
    assert found["name"] == name
    return dict(found)
