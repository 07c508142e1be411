"""Training steps in parts: the gradients of the whole, with less held at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewshot_bench import PromptPart
from fsbench_methods.lora_layers import LowRank, Masks

Encode = Callable[[PromptPart], Tensor]
"""Prompts of a part to their (m, embed) raw features."""


def chunks_for(parts: int) -> int:
    """How many chunks a step is divided into; with two parts, recomputed blocks are enough."""
    return max(1, parts // 2)


def encode_in_parts(parts: Sequence[PromptPart], encode: Encode) -> Tensor:
    """(n, embed) raw features of all prompts, without gradients."""
    with torch.no_grad():
        features = torch.cat([encode(part) for part in parts])
        return features[torch.cat([part.members for part in parts]).argsort()]


def backward_in_parts(parts: Sequence[PromptPart], encode: Encode, gradient: Tensor) -> None:
    """Encode each part again, and pass its rows of the (n, embed) gradient on."""
    for part in parts:
        torch.autograd.backward(encode(part), gradient[part.members])


@dataclass(frozen=True)
class PartMasks:
    """What `whole` draws for all sequences, of which a part takes its rows.

    tokens, sequences: rows of the whole, before and after pooling; rows, pooled: the part's.
    """

    whole: Masks
    tokens: int
    rows: Tensor
    sequences: int
    pooled: Tensor

    @property
    def rate(self) -> float:
        """The share of elements that are dropped."""
        return self.whole.rate

    def mask(self, x: Tensor) -> Tensor:
        """True where an element of `x`, the part's tokens or its pooled ones, is kept."""
        full = len(x) == len(self.rows)
        count, rows = (self.tokens, self.rows) if full else (self.sequences, self.pooled)
        return self.whole.mask(x[:1].expand(count, -1))[rows]

    def snapshot(self) -> Any:
        """The state that masks are drawn from."""
        return self.whole.snapshot()

    def rewind(self, snapshot: Any) -> None:
        """Draw again what came after a snapshot."""
        self.whole.rewind(snapshot)


def for_prompts(adapter: LowRank, part: PromptPart, tokens: int, count: int) -> LowRank:
    """The adapter for a part of `count` prompts of together `tokens` tokens."""
    if adapter.dropout is None:
        return adapter
    masks = PartMasks(adapter.dropout, tokens, part.rows, count, part.pooled)
    return replace(adapter, dropout=masks)


def for_images(adapter: LowRank, images: Tensor, count: int, tokens: int) -> LowRank:
    """The adapter for the images of these numbers among `count`, of `tokens` tokens each."""
    if adapter.dropout is None:
        return adapter
    rows = images[:, None] * tokens + torch.arange(tokens, device=images.device)
    masks = PartMasks(adapter.dropout, count * tokens, rows.flatten(), count, images)
    return replace(adapter, dropout=masks)
