"""Tuning CLIP's own weights by plain loops over open_clip's module, by name, with autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

Batches = Sequence[tuple[Tensor, Tensor]]
Tensors = dict[str, Tensor]


def tower_name(name: str) -> str:
    """Translate an open_clip parameter name into the name of that parameter in a tower."""
    outer = {
        "visual.proj": "vision.projection",
        "text_projection": "text.projection",
        "token_embedding.weight": "text.token_embedding",
        "positional_embedding": "text.positions",
        "visual.class_embedding": "vision.class_embedding",
        "visual.positional_embedding": "vision.positions",
        "visual.conv1.weight": "vision.patch_weight",
    }
    if name in outer:
        return outer[name]
    encoder, name = ("vision", name[7:]) if name.startswith("visual.") else ("text", name)
    return f"{encoder}.{name.replace('transformer.resblocks.', 'blocks.')}"


class Logits(torch.nn.Module):
    """Logits of pixels (b, classes) for token ids (classes, 77)."""

    def __init__(self, clip: Any) -> None:
        """Wrap an open_clip model."""
        super().__init__()
        self.clip = clip

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        images = F.normalize(self.clip.encode_image(pixels), dim=-1)
        texts = F.normalize(self.clip.encode_text(tokens), dim=-1)
        return self.clip.logit_scale.exp() * images @ texts.T  # type: ignore[no-any-return]


def logits(module: Any, weights: Mapping[str, Tensor], pixels: Tensor, tokens: Tensor) -> Tensor:
    """Logits of an open_clip model, some parameters replaced; `weights` is keyed by its names."""
    replaced = {f"clip.{name}": value for name, value in weights.items()}
    return functional_call(Logits(module), replaced, (pixels, tokens))  # type: ignore[no-any-return]


def values(module: Any, chosen: Callable[[str], bool]) -> Tensors:
    """Trainable copies of the parameters whose names `chosen` accepts."""
    return {
        name: value.detach().clone().requires_grad_()
        for name, value in module.named_parameters()
        if chosen(name)
    }


def singular(module: Any, names: Sequence[str]) -> tuple[Tensors, Callable[[Tensors], Tensors]]:
    """S of every matrix (q, k and v separately), and a function from S to matrices U diag(S) V'."""
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    spectra: Tensors = {}
    named = dict(module.named_parameters())
    for name in names:
        pieces = named[name].detach().chunk(3 if name.endswith("in_proj_weight") else 1)
        for place, piece in enumerate(pieces):
            u, s, v = torch.linalg.svd(piece, full_matrices=False)
            parts[f"{name}:{place}"], spectra[f"{name}:{place}"] = (u, v), s.requires_grad_()

    def matrices(now: Tensors) -> Tensors:
        pieces: dict[str, list[Tensor]] = {}
        for key, s in now.items():
            u, v = parts[key]
            pieces.setdefault(key.rpartition(":")[0], []).append(u @ torch.diag(s) @ v)
        return {name: torch.cat(of_name) for name, of_name in pieces.items()}

    return spectra, matrices


def adamw(trained: Sequence[Tensor], rate: float, decay: float, steps: int) -> Any:
    """AdamW and a cosine schedule per step, down to 1e-6."""
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=decay)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-6)


def fitted(
    module: Any,
    trained: Tensors,
    batches: Batches,
    tokens: Tensor,
    rate: float,
    weights: Callable[[Tensors], Tensors] = dict,
    decay: float = 1e-2,
) -> Tensors:
    """The weights after one step of AdamW on the cross-entropy of each batch."""
    optimizer, schedule = adamw(list(trained.values()), rate, decay, len(batches))
    for pixels, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(logits(module, weights(trained), pixels, tokens), labels).backward()
        optimizer.step()
        schedule.step()
    return {name: value.detach() for name, value in weights(trained).items()}


def head_fitted(
    module: Any, batches: Batches, tokens: Tensor, rate: float, decay: float = 1e-2
) -> Tensor:
    """2SFS's second stage on a tuned model: W (classes, embed), started at its class features."""
    with torch.no_grad():
        head = F.normalize(module.encode_text(tokens), dim=-1).requires_grad_()
    head = head.clone().detach().requires_grad_()
    optimizer, schedule = adamw([head], rate, decay, len(batches))
    for pixels, labels in batches:
        with torch.no_grad():
            images = F.normalize(module.encode_image(pixels), dim=-1)
        scores = module.logit_scale.exp() * images @ F.normalize(head, dim=-1).T
        optimizer.zero_grad()
        F.cross_entropy(scores, labels).backward()
        optimizer.step()
        schedule.step()
    return head.detach()


def projection_fitted(
    module: Any, name: str, views: Batches, tokens: Tensor, rate: float, penalty: float
) -> Tensor:
    """ProLIP's W, the parameter `name`: Adam with eps 1e-4, a view per step, cosine to 0.

    The penalty is `penalty` times |W - W0|^2.
    """
    start = module.get_parameter(name).detach().clone()
    moved = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=rate, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(views), 0.0)
    for pixels, labels in views:
        scores = logits(module, {name: moved}, pixels, tokens)
        optimizer.zero_grad()
        (F.cross_entropy(scores, labels) + penalty * (moved - start).square().sum()).backward()
        optimizer.step()
        schedule.step()
    return moved.detach()


def with_weights(module: Any, weights: Mapping[str, Tensor]) -> Any:
    """Copy of an open_clip model with the given parameters replaced."""
    copied = copy.deepcopy(module)
    named = dict(copied.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            named[name].copy_(value)
    return copied
