"""FLOPs of transformer blocks, forward and backward: two per multiplication and addition.

`block_flops` and `gradient_flops` follow from a layout and the tensors of a block. `counted` counts
the matrix products of branches, which are code of methods, as they run; nothing is traced unless
costs are being counted (`fewshot_bench.profiling.cost`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_bench.api.backbone import Factors
from fewshot_bench.backbones.packing import Layout
from fewshot_bench.profiling.cost import count, count_backward, is_counting
from fewshot_bench.utils.tracing import is_exporting

QKV, OTHERS = (
    "attn.in_proj_weight",
    ("attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"),
)


class Matrices(Protocol):
    """A block as far as its matrices go."""

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """Its tensors by name."""
        ...

    @property
    def factors(self) -> Mapping[str, Factors]:
        """Factors of the matrices that are never formed, by name."""
        ...


def block_flops(block: Matrices, layout: Layout, *, pooled: bool, ahead: int = 0) -> int:
    """One block over the tokens of a layout; `pooled`: for the pooled tokens only.

    ahead: keys of prefixes that every position sees.
    """
    products = _qkv(_entries(block, QKV), layout, pooled=pooled)
    products += 2 * _rows(layout, pooled=pooled) * sum(_entries(block, name) for name in OTHERS)
    return products + _attention(block, layout, ahead, pooled=pooled)


def gradient_flops(
    cost: int, block: Matrices, layout: Layout, pooled: bool, *, into: bool, ahead: int = 0
) -> int:
    """The backward pass of a block whose forward pass took `cost`.

    Every product has one gradient product for its input, and another for its matrix if that is
    trained; attention costs twice its forward pass. If nothing before the matrices q, k and v is
    trained (`into` is False and the norm is frozen), their input needs no gradient.
    """
    parts, rows = block.parts, _rows(layout, pooled=pooled)
    gradient = cost + _attention(block, layout, ahead, pooled=pooled)
    if not (into or parts["ln_1.weight"].requires_grad or parts["ln_1.bias"].requires_grad):
        factors = block.factors.get(QKV)
        entries = factors.right.numel() if factors else _entries(block, QKV)
        gradient -= _qkv(entries, layout, pooled=pooled)
    if parts[QKV].requires_grad:
        gradient += _qkv(parts[QKV].numel(), layout, pooled=pooled)
    return gradient + sum(2 * rows * parts[n].numel() for n in OTHERS if parts[n].requires_grad)


def _entries(block: Matrices, name: str) -> int:
    """Multiplications of a token with a matrix, or with its factors."""
    factors = block.factors.get(name)
    return factors.left.numel() + factors.right.numel() if factors else block.parts[name].numel()


def _rows(layout: Layout, *, pooled: bool) -> int:
    return layout.pooled.shape[0] if pooled else layout.tokens


def _qkv(entries: int, layout: Layout, *, pooled: bool) -> int:
    """The fused product, of which `pooled` tokens alone have a query."""
    return 2 * (_rows(layout, pooled=pooled) + 2 * layout.tokens) * entries // 3


def _attention(block: Matrices, layout: Layout, ahead: int, *, pooled: bool) -> int:
    if pooled:
        queries = layout.pooled.shape[0] // layout.sequences
        pairs = queries * (layout.sequences * layout.prefix + layout.own_tokens)
    else:
        pairs = layout.own_pairs + layout.runs * layout.prefix**2
    pairs += ahead * _rows(layout, pooled=pooled)
    return 4 * pairs * block.parts["ln_1.weight"].shape[0]


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
