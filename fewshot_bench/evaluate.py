"""Metrics from logits and labels; the only place where test labels are used."""

from __future__ import annotations

from torch import Tensor

from fewshot_bench import quality
from fewshot_bench.errors import ContractError


def check_logits(logits: object, queries: int, classes: int) -> Tensor:
    """(queries, classes) finite float32 on the CPU; ContractError says what came instead."""
    if not isinstance(logits, Tensor):
        raise ContractError(f"logits() returned {type(logits).__name__}, expected a tensor")
    if tuple(logits.shape) != (queries, classes):
        raise ContractError(
            f"logits() returned shape {tuple(logits.shape)}, expected ({queries}, {classes}): "
            "one row per query and one column per class"
        )
    values = logits.detach().float().cpu()
    bad = int((~values.isfinite().all(dim=1)).sum())
    if bad:
        raise ContractError(
            f"logits() has {bad} of {queries} rows with values that are not finite; lower the "
            "learning rate, or use --precision fp32"
        )
    return values


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float | int]:
    """The metrics of a record, `quality.metrics`, to six digits behind the decimal point."""
    values = quality.metrics(logits.numpy(), labels.numpy())
    return {name: round(value, 6) for name, value in values.items()}
