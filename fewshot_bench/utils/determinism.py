"""Reproducible kernels: what costs nothing is always on, the rest on request."""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "FSBENCH_DETERMINISTIC"
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACE_VALUE = ":4096:8"


def asked() -> bool:
    """True when `FSBENCH_DETERMINISTIC=1` asks for `strict`."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def free() -> None:
    """Choose convolution kernels by rule and not by trial: the same ones in every run."""
    import torch

    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def strict() -> None:
    """Let torch use deterministic algorithms alone, in full float32.

    An operation that has none raises, so that its cell fails. To be called before CUDA starts:
    cuBLAS reads `CUBLAS_WORKSPACE_CONFIG` then, which is set here unless it is there already.
    """
    import torch

    free()
    os.environ.setdefault(WORKSPACE, WORKSPACE_VALUE)
    torch.use_deterministic_algorithms(True)
    # Memory that nobody reads needs no filling.
    switches: Any = torch.utils.deterministic
    switches.fill_uninitialized_memory = False
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def apply() -> None:
    """`strict` where it is asked for, else `free`; every session starts with it."""
    (strict if asked() else free)()


def mode() -> str:
    """The mode in force: `strict`, `free`, or `off` where neither was called."""
    import torch

    if torch.are_deterministic_algorithms_enabled():
        return "strict"
    return "free" if torch.backends.cudnn.deterministic else "off"
