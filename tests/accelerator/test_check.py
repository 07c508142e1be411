"""`fsbench check --device rehearsal`: the rules of devices, each with a method that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewshot_bench.testing import run_checks
from fewshot_bench.testing.kit import checks_on
from fewshot_bench.testing.rehearsal import build
from fewshot_bench.utils.errors import UsageError
from tests.accelerator.rehearsal import DEVICE
from tests.accelerator.test_rehearsal import Planted, Step
from tests.helpers import fsbench


def _overflow(logits: Tensor) -> Tensor:
    return logits * 1e4


BROKEN: dict[str, tuple[Planted, str]] = {
    "check_the_host_does_not_wait": (
        Planted(lambda step: step.loss.item() and None),
        "in a training step: 'read by _local_scalar_dense at test_check.py:",
    ),
    "check_gives_the_logits_of_a_cpu": (
        Planted(finish=lambda logits: logits * (2 if logits.device.type != "cpu" else 1)),
        "logits differ from those of a CPU",
    ),
    "check_fits_and_predicts_in_fp16": (
        Planted(finish=lambda logits: logits.half() * 1e6 if False else logits),
        "",
    ),
}
