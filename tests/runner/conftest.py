"""Commands that import the package of a plug-in anew, as new processes do."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fewshot_bench.api import code_closure
from fewshot_bench.api.registry import registry
from tests.support.helpers import Result, fsbench
from tests.support.plugin_edited import PACKAGE


def unload() -> None:
    """Unload the package, so that the next import is fresh."""
    registry.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
        code_closure.forget(name)
    importlib.invalidate_caches()


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """The command line in this process; each command reimports the package, like a new process."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), before))))

    def run(*arguments: object) -> Result:
        unload()
        return fsbench(*arguments)

    yield run
    unload()
