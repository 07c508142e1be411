"""Low-rank updates at q, k and v of all blocks: CLIP-LoRA's step, and DoRA and AdaLoRA in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.official import parts
from benchmarks.official.clip import (
    SplitAttention,
    image_features,
    split_projections,
    text_features,
)
from benchmarks.official.step import Setting, Step

RANK, RATE = 2, 0.25


class LoraLinear(nn.Module):
    """x W' + b + dropout(x) (s B A)'; the update s B A is multiplied out at every call."""

    def __init__(
        self, weight: Tensor, bias: Tensor, pair: tuple[Tensor, Tensor], scaling: float, rate: float
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.clone(), requires_grad=False)
        self.a, self.b = (nn.Parameter(part.detach().clone()) for part in pair)
        self.scaling = scaling
        self.dropout = nn.Dropout(rate)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) to (..., d_out)."""
        update = (self.b @ self.a) * self.scaling
        return F.linear(x, self.weight, self.bias) + self.dropout(x) @ update.T


class ClipLoraStep:
    """CLIP-LoRA's step: both encoders on every token, forward and backward."""

    def __init__(
        self,
        module: Any,
        tokenize: Callable[[list[str]], Tensor],
        factors: Mapping[Any, tuple[Tensor, Tensor]],
        scaling: float,
        rate: float,
    ) -> None:
        """`factors` maps (encoder, layer, matrix), with matrix q, k or v, to A and B."""
        self.module, self.tokenize = module, tokenize
        towers = {"vision": module.visual.transformer, "text": module.transformer}
        self.attentions = {
            encoder: [
                SplitAttention(block.attn, _adapted(encoder, i, block, factors, scaling, rate))
                for i, block in enumerate(tower.resblocks)
            ]
            for encoder, tower in towers.items()
        }

    def parameters(self) -> list[Tensor]:
        """Every A and B."""
        layers = [part for blocks in self.attentions.values() for part in blocks]
        return [p for part in layers for p in part.parameters() if p.requires_grad]

    def class_features(self, prompts: Sequence[str]) -> Tensor:
        """Unit class features (classes, embed)."""
        tokens = self.tokenize(list(prompts))
        embedded = self.module.token_embedding(tokens)
        return text_features(self.module, embedded, tokens.argmax(dim=-1), self.attentions["text"])

    def logits(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Logits (b, classes)."""
        classes = self.class_features(prompts)
        scale = self.module.logit_scale.exp().detach()
        return scale * image_features(self.module, pixels, self.attentions["vision"]) @ classes.T

    def loss(self, pixels: Tensor, labels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cross-entropy of one batch."""
        return F.cross_entropy(self.logits(pixels, prompts), labels)

    def backward(self, pixels: Tensor, labels: Tensor, prompts: Sequence[str]) -> None:
        """Accumulate the gradients of one batch."""
        if len(prompts) <= parts.PART:
            self.loss(pixels, labels, prompts).backward()  # type: ignore[no-untyped-call]
            return
        images = image_features(self.module, pixels, self.attentions["vision"])
        some = (prompts[i : i + parts.PART] for i in range(0, len(prompts), parts.PART))
        parts.backward_in_parts(images, labels, len(prompts), map(self.class_features, some))

    def load(self, factors: Mapping[Any, tuple[Tensor, Tensor]]) -> None:
        """Copy A and B of each site into this step."""
        for one, other in zip(self.in_order(factors), _flat(factors.values()), strict=True):
            one.data.copy_(other.data)

    def in_order(self, factors: Mapping[Any, tuple[Tensor, Tensor]]) -> list[Tensor]:
        """This step's A and B in the order of `factors`."""
        layers = [
            getattr(self.attentions[site.encoder][site.layer], site.matrix) for site in factors
        ]
        return _flat((layer.a, layer.b) for layer in layers)

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""
        for blocks in self.attentions.values():
            for part in blocks:
                for layer in part.children():
                    layer.train(mode)


def _adapted(
    encoder: str,
    index: int,
    block: Any,
    factors: Mapping[Any, tuple[Tensor, Tensor]],
    scaling: float,
    rate: float,
) -> list[LoraLinear]:
    return [
        LoraLinear(weight, bias, factors[encoder, index, name], scaling, rate)
        for name, (weight, bias) in zip("qkv", split_projections(block.attn), strict=True)
    ]


def _flat(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [part for pair in pairs for part in pair]


class _Adapted(Step):
    """CLIP-LoRA's step with other updates; prompts are tokenized in every step."""

    def __init__(self, setting: Setting, rate: float = RATE) -> None:
        super().__init__(setting)
        self.rate = rate
        self.vision, self.text = (
            [
                SplitAttention(
                    one.attn, [self.layer(*pair) for pair in split_projections(one.attn)]
                )
                for one in tower.resblocks
            ]
            for tower in (self.module.visual.transformer, self.module.transformer)
        )
        blocks = [*self.vision, *self.text]
        self.layers: list[Any] = [getattr(block, name) for block in blocks for name in "qkv"]

    def layer(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """The layer in place of a projection."""
        raise NotImplementedError

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        classes = self.classes_of(self.tokens())
        return (self.cross_entropy(self.images(images), classes, labels),)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.learned, lr=2e-4, weight_decay=1e-2)


class DoraLinear(nn.Module):
    """m / |W + s B A| (W + s B A), whose norms are computed anew at every call."""

    def __init__(self, weight: Tensor, bias: Tensor, rank: int, rate: float) -> None:
        super().__init__()
        self.weight, self.bias = weight.clone(), bias.clone()
        self.magnitude = nn.Parameter(weight.norm(dim=1))
        self.a = nn.Linear(weight.shape[1], rank, bias=False, device=weight.device)
        self.b = nn.Linear(rank, len(weight), bias=False, device=weight.device)
        nn.init.zeros_(self.b.weight)
        self.scaling, self.dropout = rank**-0.5, nn.Dropout(rate)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) to (..., d_out)."""
        moved = self.weight + self.scaling * (self.b.weight @ self.a.weight)
        gain = self.magnitude / moved.norm(dim=1).detach()
        dropped = self.dropout(x)
        out = F.linear(x, self.weight) + (gain - 1) * F.linear(dropped, self.weight) + self.bias
        return out + gain * self.b(self.a(dropped)) * self.scaling


class Dora(_Adapted):
    """DoRA's layers; the update's input and that of W share one dropout."""

    def __init__(self, setting: Setting, rate: float = RATE) -> None:
        super().__init__(setting, rate)
        factors = [part.weight for layer in self.layers for part in (layer.a, layer.b)]
        self.learned = [*factors, *(layer.magnitude for layer in self.layers)]

    def layer(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """A decomposed layer."""
        return DoraLinear(weight, bias, RANK, self.rate)


class SvdLinear(nn.Module):
    """x W' + b + s dropout(x) (E Q)' P', a product for each factor."""

    def __init__(self, weight: Tensor, bias: Tensor, rank: int, rate: float) -> None:
        super().__init__()
        self.weight, self.bias = weight.clone(), bias.clone()
        rows, columns = weight.shape
        self.q = nn.Parameter(0.02 * torch.randn(rank, columns, device=weight.device))
        self.p = nn.Parameter(0.02 * torch.randn(rows, rank, device=weight.device))
        self.e = nn.Parameter(torch.zeros(rank, 1, device=weight.device))
        self.scaling, self.dropout = RANK**-0.5, nn.Dropout(rate)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) to (..., d_out)."""
        update = self.dropout(x) @ (self.q * self.e).T @ self.p.T
        return F.linear(x, self.weight, self.bias) + update * self.scaling


class AdaLora(_Adapted):
    """AdaLoRA's layers, its penalty, and the allocation of ranks, matrix by matrix."""

    RANK, WEIGHT, SMOOTH = 3, 0.5, 0.85

    def __init__(self, setting: Setting, rate: float = RATE) -> None:
        super().__init__(setting, rate)
        self.learned = [x for layer in self.layers for x in (layer.q, layer.p, layer.e)]
        self.smooth, self.doubt = ([torch.zeros_like(x) for x in self.learned] for _ in range(2))

    def layer(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """A layer with an update in three factors."""
        return SvdLinear(weight, bias, self.RANK, self.rate)

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy, and the mean distance of Q Q' and P' P from the identity."""
        total = torch.zeros((), device=self.device)
        for layer in self.layers:
            for gram in (layer.q @ layer.q.T, layer.p.T @ layer.p):
                total = total + torch.norm(gram - torch.eye(len(gram), device=self.device))
        return *super().losses(images, labels), self.WEIGHT * total / (2 * len(self.layers))

    @torch.no_grad()
    def after(self) -> None:
        """Update the importance of every value; set those of the least important ranks to zero."""
        for index, x in enumerate(self.learned):
            assert x.grad is not None
            now, smooth, doubt = (x * x.grad).abs(), self.smooth[index], self.doubt[index]
            self.smooth[index] = self.SMOOTH * smooth + (1 - self.SMOOTH) * now
            away = (now - self.smooth[index]).abs()
            self.doubt[index] = self.SMOOTH * doubt + (1 - self.SMOOTH) * away
        scores = []
        for place in range(0, len(self.learned), 3):
            q, p, e = (self.smooth[place + i] * self.doubt[place + i] for i in range(3))
            scores.append(e[:, 0] + q.mean(dim=1) + p.mean(dim=0))
        every = torch.cat(scores)
        least = every.kthvalue(max(1, len(every) // 6)).values.item()
        for layer, score in zip(self.layers, scores, strict=True):
            layer.e.masked_fill_(score[:, None] <= least, 0.0)
