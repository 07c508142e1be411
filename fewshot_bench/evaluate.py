"""The answers of a classifier as plain arrays; the process that does this has no labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewshot_bench.errors import ContractError

if TYPE_CHECKING:
    import numpy as np


def plain_logits(logits: object, queries: int, classes: int) -> np.ndarray:
    """A copy of (queries, classes) finite logits as float32; ContractError says what came instead.

    What a subclass of Tensor redefines is not called: its values count, not what it says of them.
    """
    if not isinstance(logits, Tensor):
        raise ContractError(f"logits() returned {type(logits).__name__}, expected a tensor")
    with torch._C.DisableTorchFunctionSubclass():
        plain = _on_the_host(logits)
    if tuple(plain.shape) != (queries, classes):
        raise ContractError(
            f"logits() returned shape {tuple(plain.shape)}, expected ({queries}, {classes}): "
            "one row per query and one column per class"
        )
    bad = int((~plain.isfinite().all(dim=1)).sum())
    if bad:
        raise ContractError(
            f"logits() has {bad} of {queries} rows with values that are not finite; lower the "
            "learning rate, or use --precision fp32"
        )
    array: np.ndarray = plain.numpy()
    return array


def _on_the_host(logits: Tensor) -> Tensor:
    """Float32 values in host memory of our own, as a plain tensor."""
    kind = f"{logits.layout}, {logits.dtype}"
    if logits.layout != torch.strided or logits.is_quantized or logits.is_complex():
        raise ContractError(f"logits() returned a tensor of {kind}; return dense real numbers")
    try:
        found = Tensor.to(Tensor.detach(logits), device="cpu", dtype=torch.float32, copy=True)
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ContractError(
            f"logits() returned values on device '{logits.device}' that cannot be read ({reason}); "
            "return them on the backbone's device"
        ) from error
    return Tensor.as_subclass(found, Tensor).contiguous()
