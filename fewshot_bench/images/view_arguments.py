"""What a method asks of a view of images: checked, and refused with what to write instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fewshot_bench.api.task import Augment
from fewshot_bench.utils.errors import ContractError
from fewshot_bench.utils.mistyped import indices, whole_number


def visited(order: Any, count: int) -> list[int]:
    """Which of `count` images a pass visits, one after the other; all of them by default."""
    return list(range(count)) if order is None else indices("batches: order", order, count)


def labeled(batches: Iterator[Tensor], labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch with its part of the labels, which stand in the order of the images."""
    start = 0
    for pixels in batches:
        yield pixels, labels[start : start + len(pixels)].to(pixels.device)
        start += len(pixels)


def check_batches(size: Any, augment: Any, rng: Any) -> None:
    """ContractError for arguments of `batches` of another kind."""
    whole_number("batches: size", size, 1)
    if augment is not None:
        _augmented("batches", augment)
        _generator("augmented batches need", rng)


def check_views(count: Any, augment: Any, rng: Any, start: Any) -> None:
    """ContractError for arguments of `views` of another kind."""
    whole_number("views: count", count, 1)
    whole_number("views: start", start, 0)
    _augmented("views", augment)
    if rng is not None:
        _generator("views draw from", rng)


def _augmented(what: str, augment: Any) -> None:
    if not isinstance(augment, Augment):
        raise ContractError(f"{what}: augment is {augment!r}, expected Augment(...) or Augment()")


def _generator(what: str, rng: Any) -> None:
    if not isinstance(rng, torch.Generator):
        raise ContractError(f"{what} rng=ctx.rng('augment'), not {rng!r:.80}")
