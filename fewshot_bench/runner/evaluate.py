"""The answers of a classifier as plain arrays; the process that does this has no labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewshot_bench.utils.errors import ContractError

if TYPE_CHECKING:
    import numpy as np


def plain_logits(logits: object, queries: int, classes: int) -> np.ndarray:
    """A copy of (queries, classes) finite logits as float32; ContractError says what came instead.

    What a subclass of Tensor redefines is not called: its values count, not what it says of them.
    """
    if not isinstance(logits, Tensor):
        raise ContractError(f"logits() returned {type(logits).__name__}, expected a tensor")
    try:
        with torch._C.DisableTorchFunctionSubclass():
            return _read(logits, queries, classes)
    except ContractError:
        raise
    except Exception as error:
        # Fake or wrapped by a transform: torch refuses each in another place.
        raise ContractError(
            f"logits() returned a tensor that cannot be read ({type(error).__name__}: "
            f"{_reason(error)}); return a plain dense one"
        ) from error


def _read(logits: Tensor, queries: int, classes: int) -> np.ndarray:
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
    if logits.is_nested:
        raise ContractError(
            "logits() returned a tensor that cannot be read (it is nested); return a dense one"
        )
    kind = f"{logits.layout}, {logits.dtype}"
    if logits.layout != torch.strided or logits.is_quantized or logits.is_complex():
        raise ContractError(f"logits() returned a tensor of {kind}; return dense real numbers")
    _refuse_freed(logits)
    try:
        found = Tensor.to(Tensor.detach(logits), device="cpu", dtype=torch.float32, copy=True)
    except (RuntimeError, NotImplementedError) as error:
        raise ContractError(
            f"logits() returned a tensor that cannot be read (on device '{logits.device}': "
            f"{_reason(error)}); return a plain dense one on the backbone's device"
        ) from error
    return Tensor.as_subclass(found, Tensor).contiguous()


def _refuse_freed(logits: Tensor) -> None:
    """ContractError where the memory is smaller than the tensor: a copy would end the process."""
    if not logits.numel():
        return
    reach = sum(
        (size - 1) * stride for size, stride in zip(logits.shape, logits.stride(), strict=True)
    )
    needed = (logits.storage_offset() + reach + 1) * logits.element_size()
    held = logits.untyped_storage().nbytes()
    if held < needed:
        raise ContractError(
            f"logits() returned a tensor that cannot be read (its storage holds {held} of {needed} "
            "bytes: it was freed or resized); return one that keeps its values"
        )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
