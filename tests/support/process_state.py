"""What running a cell could leave changed in a process."""

from __future__ import annotations

import os
from typing import Any

import torch

from fewshot_bench.utils import cache_dir


def state() -> tuple[Any, ...]:
    """Variables of ours, and settings of torch and of caches."""
    cudnn = torch.backends.cudnn
    return (
        # Libraries set others when they are imported.
        {
            name: value
            for name, value in os.environ.items()
            if "FSBENCH" in name or "CUBLAS" in name
        },
        torch.get_num_threads(),
        torch.random.get_rng_state().tolist(),
        torch.get_float32_matmul_precision(),
        (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        torch.are_deterministic_algorithms_enabled(),
        cache_dir.is_shared(),
    )
