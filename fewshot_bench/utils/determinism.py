"""Reproducible kernels: `apply` always makes the free settings, the strict ones on request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fewshot_bench.utils.offline import is_switched_on

VARIABLE = "FSBENCH_DETERMINISTIC"
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACE_VALUE = ":4096:8"


def is_asked() -> bool:
    """True if `FSBENCH_DETERMINISTIC` requests `strict`; UsageError for neither yes nor no."""
    return is_switched_on(VARIABLE, "use deterministic kernels alone")


def free() -> None:
    """Select convolution kernels without benchmarking, and float32 that is not TF32.

    torch rounds inputs of convolutions to TF32 unless told otherwise.
    """
    import torch

    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def strict() -> None:
    """Restrict torch to deterministic algorithms.

    An operation without one raises, so that its cell fails. Call it before CUDA starts: cuBLAS
    then reads `CUBLAS_WORKSPACE_CONFIG`, which is set here unless it is already set.
    """
    import torch

    free()
    os.environ.setdefault(WORKSPACE, WORKSPACE_VALUE)
    torch.use_deterministic_algorithms(True)
    # Filling uninitialized memory would only cost time.
    switches: Any = torch.utils.deterministic
    switches.fill_uninitialized_memory = False


def apply() -> None:
    """`strict` if requested, else `free`; called at the start of every session."""
    (strict if is_asked() else free)()


@contextmanager
def restore() -> Iterator[None]:
    """Afterwards, everything that `apply` sets is in torch and the environment as before."""
    import torch

    switches: Any = torch.utils.deterministic
    cudnn, filled = torch.backends.cudnn, switches.fill_uninitialized_memory
    flags = cudnn.benchmark, cudnn.deterministic
    precision, tf32 = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    strict, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    workspace = os.environ.get(WORKSPACE)
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = flags
        torch.set_float32_matmul_precision(precision)
        cudnn.allow_tf32 = tf32
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        switches.fill_uninitialized_memory = filled
        if workspace is None:
            os.environ.pop(WORKSPACE, None)


def allows_tf32() -> bool:
    """True if products or convolutions in float32 may round their inputs to TF32."""
    import torch

    products = torch.get_float32_matmul_precision() != "highest"
    return products or bool(torch.backends.cudnn.allow_tf32)


def mode() -> str:
    """The active mode: `strict`, `free`, or `off` if neither was called."""
    import torch

    if torch.are_deterministic_algorithms_enabled():
        return "strict"
    return "free" if torch.backends.cudnn.deterministic else "off"
