"""Model selection on the validation set: the best of several constants, or the best training step.

`first_best` compares counts from `count_correct`; `BestOnValidation` keeps the tensors of the best
step. Neither synchronizes with the device before the choice is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of rows of logits (n, classes) with argmax equal to labels (n,), a scalar tensor."""
    return (logits.argmax(dim=-1) == labels).sum()


def first_best(counts: Sequence[Tensor]) -> int:
    """The index of the largest count, the first one on ties."""
    return int(np.argmax(torch.stack(list(counts)).cpu().numpy()))


class BestOnValidation:
    """Keeps the tensors of the step with most correct predictions; the first or last on ties.

    >>> best = BestOnValidation(task.val.labels)
    >>> ctx.log(val_accuracy=best.offer(logits, weights))
    >>> best.kept
    """

    def __init__(self, labels: Tensor, *, last_of_equals: bool = False) -> None:
        self._labels = labels
        self._last_of_equals = last_of_equals
        self._seen = 0
        self._kept: list[Tensor] = []
        self.correct = torch.full((), -1, device=labels.device)
        self.step = torch.full((), -1, device=labels.device)

    @torch.no_grad()
    def offer(self, logits: Tensor, *tensors: Tensor) -> Tensor:
        """Compare the logits (n, classes) of a step; keep `tensors` if it is the best so far.

        Returns the accuracy of the step in percent, a scalar.
        """
        correct = count_correct(logits, self._labels)
        better = correct >= self.correct if self._last_of_equals else correct > self.correct
        kept = self._kept or tensors
        self._kept = [torch.where(better, new, old) for new, old in zip(tensors, kept, strict=True)]
        self.correct = torch.where(better, correct, self.correct)
        self.step = torch.where(better, self._seen, self.step)
        self._seen += 1
        return correct * (100 / len(self._labels))

    @property
    def kept(self) -> list[Tensor]:
        """The tensors of the best step, in the order of `offer`."""
        return self._kept
