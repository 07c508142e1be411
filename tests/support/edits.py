"""Draw tokens for edits of towers, and compare fast encoders with plain ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fewshot_bench.backbones import Tokens
from tests.reference import encoders
from tests.reference.toy import relative_gap

TOLERANCE = 1e-5


ONE_GROUP = [f"a photo of a {name}." for name in ("cat", "dog", "bird")]


FOUR_GROUPS = [f"a photo of a {' '.join(['cat'] * (1 + 9 * (i % 4)))}." for i in range(9)]


def drawn(seed: int, *shape: int) -> Tensor:
    """Random trainable values."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_()


def written(tokens: Sequence[Tokens]) -> encoders.Before:
    """Write the rows into whole sequences, like the papers' loops."""

    def before(layer: int, x: Tensor) -> Tensor:
        for one in tokens:
            if one.layer != layer:
                continue
            values = one.values.expand(len(x), *one.values.shape[-2:])
            skipped = one.count if one.mode == "replace" else 0
            if one.place == "start":
                x = torch.cat([x[:, :1], values, x[:, 1 + skipped :]], dim=1)
            else:
                x = torch.cat([x[:, : x.shape[1] - skipped], values], dim=1)
        return x

    return before


def agree(
    trained: Sequence[Tensor], ours: Callable[[], Tensor], theirs: Callable[[], Tensor]
) -> None:
    """Assert equal features, and equal gradients of their weighted sum."""
    found = []
    for compute in (ours, theirs):
        features = compute()
        weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
        found.append([features, *torch.autograd.grad((features * weights).sum(), trained)])
    for one, other in zip(*found, strict=True):
        assert relative_gap(one, other) < TOLERANCE


def theirs(name: str, encoder: str) -> str:
    """open_clip's name of a tower's tensor."""
    vision = {
        "patch_weight": "visual.conv1.weight",
        "class_embedding": "visual.class_embedding",
        "positions": "visual.positional_embedding",
        "projection": "visual.proj",
    }
    text = {
        "token_embedding": "token_embedding.weight",
        "positions": "positional_embedding",
        "projection": "text_projection",
    }
    named, before = (vision, "visual.") if encoder == "vision" else (text, "")
    if name in named:
        return named[name]
    return before + name.replace("blocks.", "transformer.resblocks.", 1)
