"""FLOPs of transformer blocks, forward and backward: two per multiplication and addition.

`block_flops` and `gradient_flops` follow from a layout and the tensors of a block. `counted` counts
the matrix products of branches, which are code of methods, as they run; nothing is traced unless
costs are being counted (`fewshot_bench.profiling.cost`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_bench.backbones.packing import Layout
from fewshot_bench.profiling.cost import count, count_backward, is_counting
from fewshot_bench.utils.tracing import is_exporting

Parts = Mapping[str, Tensor]


def block_flops(parts: Parts, layout: Layout, *, pooled: bool) -> int:
    """One block over the tokens of a layout; `pooled`: for the pooled tokens only."""
    products = _qkv(parts, layout, pooled=pooled) + _others(parts, layout, pooled=pooled)
    return products + _attention(parts, layout, pooled=pooled)


def gradient_flops(cost: int, parts: Parts, layout: Layout, pooled: bool, *, into: bool) -> int:
    """The backward pass of a block whose forward pass took `cost`.

    Every product has one gradient product for its input, and another for its matrix if that is
    trained; attention costs twice its forward pass. If nothing before the matrices q, k and v is
    trained (`into` is False and the norm is frozen), their input needs no gradient.
    """
    gradient = cost + _attention(parts, layout, pooled=pooled)
    if not (into or parts["ln_1.weight"].requires_grad or parts["ln_1.bias"].requires_grad):
        gradient -= _qkv(parts, layout, pooled=pooled)
    if parts["attn.in_proj_weight"].requires_grad:
        gradient += _qkv(parts, layout, pooled=pooled)
    rows = _rows(layout, pooled=pooled)
    others = ("attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    return gradient + sum(
        2 * rows * parts[name].numel() for name in others if parts[name].requires_grad
    )


def _width(parts: Parts) -> int:
    return parts["ln_1.weight"].shape[0]


def _rows(layout: Layout, *, pooled: bool) -> int:
    return layout.pooled.shape[0] if pooled else layout.tokens


def _qkv(parts: Parts, layout: Layout, *, pooled: bool) -> int:
    rows = _rows(layout, pooled=pooled) + 2 * layout.tokens
    return 2 * rows * _width(parts) ** 2


def _others(parts: Parts, layout: Layout, *, pooled: bool) -> int:
    hidden = parts["mlp.c_fc.weight"].shape[0]
    return 2 * _rows(layout, pooled=pooled) * (_width(parts) ** 2 + 2 * _width(parts) * hidden)


def _attention(parts: Parts, layout: Layout, *, pooled: bool) -> int:
    if pooled:
        queries = layout.pooled.shape[0] // layout.sequences
        pairs = queries * (layout.sequences * layout.prefix + layout.own_tokens)
    else:
        pairs = layout.own_pairs + layout.runs * layout.prefix**2
    return 4 * pairs * _width(parts)


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
    if not is_counting() or is_exporting():
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
