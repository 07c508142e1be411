"""Settings of a process that a method leaves changed are named, and put back if that is plain."""

from __future__ import annotations

import locale
import logging
import os
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import ImageFile

from fewshot_bench.testing.observe import ProcessState

CHANGES: dict[str, Callable[[], object]] = {
    "the working directory from": lambda: os.chdir(os.sep),
    "environment variables ('HOME', 'RECKLESS')": lambda: os.environ.update(RECKLESS="1", HOME="x"),
    "torch's default dtype from torch.float32 to torch.float64": lambda: torch.set_default_dtype(
        torch.float64
    ),
    "torch.backends.cudnn.benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch's denormal numbers": lambda: torch.set_flush_denormal(True),
    "sys.path": lambda: sys.path.insert(0, "nowhere"),
    "NumPy's error state": lambda: np.seterr(all="ignore"),
    "PIL.ImageFile.LOAD_TRUNCATED_IMAGES": lambda: setattr(
        ImageFile, "LOAD_TRUNCATED_IMAGES", True
    ),
    "torch's fast path of attention": lambda: torch.backends.mha.set_fastpath_enabled(False),
}


@pytest.mark.parametrize("text", CHANGES)
def test_a_change_is_named_and_put_back(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    outer, inner = ProcessState(), ProcessState()
    CHANGES[text]()
    (change,) = inner.restore()
    assert text in change
    assert outer.restore() == []


def test_what_no_call_puts_back_is_named() -> None:
    state, before = ProcessState(), locale.setlocale(locale.LC_ALL)
    logging.disable(logging.CRITICAL)
    locale.setlocale(locale.LC_ALL, "C.UTF-8" if before == "C" else "C")
    changes = state.restore()
    logging.disable(logging.NOTSET)
    locale.setlocale(locale.LC_ALL, before)
    assert [change.partition(" (")[0].partition(" from")[0] for change in changes] == [
        "the logging configuration",
        "the locale",
    ]
