"""Steps that train some of the model's own tensors, or values of its matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.official import parts
from benchmarks.official.clip import (
    SplitAttention,
    frozen_copy,
    image_features,
    plain_attentions,
    split_projections,
    text_features,
)
from benchmarks.official.step import Setting, Step


class TunedStep:
    """Trains some of the model's own tensors: both encoders on every token.

    The official code of LN-tuning, 2SFS and BitFit tokenizes its prompts once.
    """

    def __init__(self, module: Any, tokens: Tensor, choice: Callable[[str], bool]) -> None:
        """tokens: (classes, 77) ids; choice: True for names of trained parameters."""
        self.module, self.tokens = frozen_copy(module), tokens
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(choice(name))
        self.vision = plain_attentions(self.module.visual.transformer)
        self.text = plain_attentions(self.module.transformer)

    def parameters(self) -> list[Tensor]:
        """The trained tensors."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def class_features(self, tokens: Tensor) -> Tensor:
        """Unit class features (classes, embed)."""
        embedded = self.module.token_embedding(tokens)
        return text_features(self.module, embedded, tokens.argmax(dim=-1), self.text)

    def logits(self, pixels: Tensor) -> Tensor:
        """Logits (b, classes)."""
        scale = self.module.logit_scale.exp().detach()
        images = image_features(self.module, pixels, self.vision)
        return scale * images @ self.class_features(self.tokens).T

    def backward(self, pixels: Tensor, labels: Tensor) -> None:
        """Accumulate the gradients of one batch."""
        if len(self.tokens) <= parts.PART:
            logits = self.logits(pixels)
            F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
            return
        images = image_features(self.module, pixels, self.vision)
        some = map(self.class_features, torch.split(self.tokens, parts.PART))
        parts.backward_in_parts(images, labels, len(self.tokens), some)


class TwoStage(Step):
    """2SFS, first stage: the LayerNorms of all blocks."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.ids = self.tokens()
        towers = self.module.visual.transformer, self.module.transformer
        norms = [
            norm for tower in towers for one in tower.resblocks for norm in (one.ln_1, one.ln_2)
        ]
        self.learned = [p.requires_grad_() for norm in norms for p in norm.parameters()]

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        return (self.cross_entropy(self.images(images), self.classes_of(self.ids), labels),)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.learned, lr=2e-4, weight_decay=1e-2)


class SpectralLinear(nn.Module):
    """x V S U' + b, a product for each of V and U."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        u, s, v = torch.linalg.svd(weight.detach().cpu(), full_matrices=False)
        self.u, self.v = u.contiguous().to(weight.device), v.contiguous().to(weight.device)
        self.s, self.bias = nn.Parameter(s.to(weight.device)), bias.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) to (..., d_out)."""
        return F.linear(F.linear(x, self.v) * self.s, self.u, self.bias)


class ClipSvd(Step):
    """CLIP-SVD: the singular values of all matrices; prompts are tokenized in every step."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.vision, self.text = (
            [self.split(block) for block in tower.resblocks]
            for tower in (self.module.visual.transformer, self.module.transformer)
        )

    def split(self, block: Any) -> SplitAttention:
        """Decompose a block's matrices; its attention."""

        def decompose(layer: Any) -> SpectralLinear:
            return SpectralLinear(layer.weight, layer.bias)

        qkv = [SpectralLinear(*pair) for pair in split_projections(block.attn)]
        attention = SplitAttention(block.attn, qkv, decompose(block.attn.out_proj))
        block.mlp.c_fc, block.mlp.c_proj = map(decompose, (block.mlp.c_fc, block.mlp.c_proj))
        layers = [*qkv, attention.out, block.mlp.c_fc, block.mlp.c_proj]
        self.learned += [layer.s for layer in layers]
        return attention

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        classes = self.classes_of(self.tokens())
        return (self.cross_entropy(self.images(images), classes, labels),)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.learned, lr=5e-4, weight_decay=1e-2)


class FullFineTuning(Step):
    """Full fine-tuning of the image encoder with a linear head, gradients clipped."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        start = self.scale * self.written()
        self.head = self.linear(start.shape[1], len(start))
        with torch.no_grad():
            self.head.weight.copy_(start)
            self.head.bias.zero_()
        visual = self.module.visual.requires_grad_()
        self.learned = [*visual.parameters(), *self.head.parameters()]

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy of the head."""
        return (F.cross_entropy(self.head(self.images(images)), labels),)

    def backward(self, images: Tensor, labels: Tensor) -> None:
        """Clipped gradients."""
        super().backward(images, labels)
        torch.nn.utils.clip_grad_norm_(self.learned, 1.0)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.learned, lr=3e-5, weight_decay=0.1)
