"""Metrics from logits and labels; the only place where test labels are used."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
    """`top1` and `macro_accuracy` in percent, `nll` in nats (softmax of the logits), and `n`.

    Ties go to the class with the lower index.
    """
    hits = (logits.argmax(dim=1) == labels).double()
    present = labels.unique()  # type: ignore[no-untyped-call]
    per_class = torch.stack([hits[labels == label].mean() for label in present])
    return {
        "top1": round(100 * float(hits.mean()), 6),
        "macro_accuracy": round(100 * float(per_class.mean()), 6),
        "nll": round(float(F.cross_entropy(logits.double(), labels)), 6),
        "n": len(labels),
    }
