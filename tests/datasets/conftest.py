"""Fixtures that several files on data sets share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nothing_is_racy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was just written is not waited for."""
    monkeypatch.setattr("fewshot_bench.images.digests.RACY_SECONDS", 0.0)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only data root."""
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path))
    return tmp_path
