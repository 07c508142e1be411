"""Training steps in less memory: recomputed blocks, and prompts encoded in parts.

`must_recompute` decides before training; `encode_in_parts` and `backward_in_parts` compute the
gradients of one batch with less memory. Results change by rounding at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fewshot_bench.api.backbone import ImageTower, PromptPart, TextTower
from fewshot_bench.utils.devices import free_bytes
from fewshot_bench.utils.memory import count_sharers

KEPT_PER_TOKEN, KEPT_PER_SLOT = 10, 4
"""About how many values times its width a block keeps of a token for the backward pass, and of
each slot in attention: query, key, value and result."""
MEMORY_SHARE = 0.4
"""The share of the free memory that the activations of one encoder may take, in all workers."""
VIEW_COPIES = 3
"""Copies of features on their way to a method: as computed, at unit length, in its order."""
Encode = Callable[[PromptPart], Tensor]
"""Prompts of a part to their (..., m, embed) raw features."""


def must_recompute(
    tower: ImageTower | TextTower | None,
    tokens: int,
    device: torch.device,
    parts: int = 1,
    precision: str = "fp32",
    *,
    slots: int | None = None,
) -> bool:
    """True if the activations of a step on `tokens` tokens take too much memory.

    Blocks are then recomputed in the backward pass, which changes no number. Always True after
    memory ran out, i.e. with `parts` (`RunContext.memory_parts`) above 1; False without a tower.
    precision: `RunContext.precision`. slots: as in `PackedPrompts`; `tokens` if None.
    """
    if tower is None:
        return False
    if parts > 1:
        return True
    size = 4 if precision == "fp32" else 2
    values = KEPT_PER_TOKEN * tokens + KEPT_PER_SLOT * (tokens if slots is None else slots)
    kept = values * size * tower.width * tower.layers
    # Workers start together, and each sees memory that the others are about to take.
    return kept * count_sharers() > MEMORY_SHARE * free_bytes(device)


def bytes_of_views(views: int, images: int, width: int) -> int:
    """The memory that this many views of every image take if they are requested at once."""
    return VIEW_COPIES * 4 * views * images * width


def chunks_for(parts: int) -> int:
    """The number of chunks of a step: half of `parts`, as recomputation suffices for two parts."""
    return max(1, parts // 2)


def encode_in_parts(parts: Sequence[PromptPart], encode: Encode) -> Tensor:
    """(..., n, embed) raw features of all prompts, without gradients."""
    with torch.no_grad():
        features = torch.cat([encode(part) for part in parts], dim=-2)
        return features[..., torch.cat([part.members for part in parts]).argsort(), :]


def backward_in_parts(parts: Sequence[PromptPart], encode: Encode, gradient: Tensor) -> None:
    """Encode each part again and backpropagate its rows of the gradient (..., n, embed)."""
    for part in parts:
        torch.autograd.backward(encode(part), gradient[..., part.members, :])
