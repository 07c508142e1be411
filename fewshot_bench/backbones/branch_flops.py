"""FLOPs of branches, which are code of methods: matrix products are counted as they run.

`counted` is the entry point. Nothing is traced unless costs are being counted
(`fewshot_bench.profiling.cost`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_bench.profiling.cost import count, count_backward, is_counting


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the FLOPs of the matrix products inside, by torch's own formulas."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils.flop_counter import flop_registry

        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


def counted(branch: Callable[[], Tensor | None]) -> Tensor | None:
    """Run a branch and count its FLOPs, also those of a later backward pass.

    The gradients of a product, for its input and its matrix, are two further products.
    """
    if not is_counting() or torch.compiler.is_exporting():
        return branch()
    products = _Products()
    try:
        with products:
            added = branch()
    finally:
        # Recomputing a block may stop early, by an exception, once it has all needed tensors.
        count(flops=products.flops)
    if added is not None:
        count_backward(added, 2 * products.flops)
    return added
