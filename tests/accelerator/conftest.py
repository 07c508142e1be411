"""The rehearsal device, shown to the tests of this folder alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from fewshot_bench.testing.rehearsal import find_missing, load

# The session's cache is a temporary folder: the compiled device stays in the machine's.
CACHE = os.environ.get("FSBENCH_CACHE")


@pytest.fixture(scope="session")
def compiled() -> Any:
    """`torch.rehearsal`, with no device until a test shows some."""
    missing = find_missing()
    if missing and not os.environ.get("FSBENCH_TEST_COMPILER"):
        pytest.skip(missing)
    with pytest.MonkeyPatch.context() as patch:
        if CACHE is None:
            patch.delenv("FSBENCH_CACHE")
        else:
            patch.setenv("FSBENCH_CACHE", CACHE)
        # Child processes of other tests know no such device.
        patch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        module = load()
    module.show_devices(0)
    return module


@pytest.fixture
def rehearsal(compiled: Any) -> Iterator[Any]:
    """`torch.rehearsal`, with two devices."""
    compiled.show_devices(2)
    yield compiled
    compiled.show_devices(0)
