"""A browser for tests of pages, data sets to prepare, and records of runs on clusters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.plugins.trackers import plugin as trackers
from tests.support.clusters import CELLS, DEMO, results
from tests.support.helpers import fsbench
from tests.support.preparing import Shop, open_shop

NEEDED = os.environ.get("FSBENCH_TEST_BROWSER") == "1"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; tests are skipped without one unless FSBENCH_TEST_BROWSER=1."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        if NEEDED:
            pytest.fail("FSBENCH_TEST_BROWSER=1 needs chromium and the Python package playwright")
        pytest.skip("needs chromium and the Python package playwright")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A server, a data root and data sets to prepare."""
    with open_shop(tmp_path, monkeypatch) as opened:
        yield opened


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """Records of the matrix run by the local engine."""
    store = tmp_path_factory.mktemp("local")
    done = fsbench(*DEMO, "--store", store)
    assert done.code == 0, done
    found = results(store)
    assert len(found) == CELLS
    return found


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder of trackers."""
    monkeypatch.setenv(trackers.FOLDER_VARIABLE, str(tmp_path / "tracking"))
    for name in (trackers.MLFLOW_VARIABLE, "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "tracking"
