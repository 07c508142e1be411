"""Choices on the validation set: a constant among several, or the best step of a training.

`first_best` compares counts of `count_correct`; `BestOnValidation` keeps the tensors of the best
step. Neither waits for the device before the choice is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of logits (n, classes) that are largest at labels (n,), as a scalar tensor."""
    return (logits.argmax(dim=-1) == labels).sum()


def first_best(counts: Sequence[Tensor]) -> int:
    """The index of the largest count, the first of equals."""
    return int(np.argmax(torch.stack(list(counts)).cpu().numpy()))


class BestOnValidation:
    """Keeps the tensors of the step with the most correct answers: first or last of equals."""

    def __init__(self, labels: Tensor, *, last_of_equals: bool = False) -> None:
        self._labels = labels
        self._last_of_equals = last_of_equals
        self._seen = 0
        self._kept: list[Tensor] = []
        self.correct = torch.full((), -1, device=labels.device)
        self.step = torch.full((), -1, device=labels.device)

    @torch.no_grad()
    def offer(self, logits: Tensor, *tensors: Tensor) -> None:
        """Compare the logits (n, classes) of a step; `tensors` are kept if they are the best."""
        correct = count_correct(logits, self._labels)
        better = correct >= self.correct if self._last_of_equals else correct > self.correct
        kept = self._kept or tensors
        self._kept = [torch.where(better, new, old) for new, old in zip(tensors, kept, strict=True)]
        self.correct = torch.where(better, correct, self.correct)
        self.step = torch.where(better, self._seen, self.step)
        self._seen += 1

    @property
    def kept(self) -> list[Tensor]:
        """The tensors of the best step, in the order in which they were offered."""
        return self._kept
