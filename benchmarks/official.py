"""The published training steps as their official code runs them, for timing against ours.

Written from the papers and repositories: 77 tokens for every prompt, prompts tokenized in every
step, B A multiplied out in every matrix and step, separate q, k and v products, no sharing between
classes, the frozen image encoder run in every step. Nothing here is slower than in the original.

With very many classes, such a step exceeds the memory of small machines. Then its text side runs in
parts of `PART` classes, each forward and backward, with random stand-ins for the class features in
the loss: the same work, for timing only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PART = 125


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


class LoraAttention(nn.Module):
    """Multi-head attention with separate, adapted q, k and v; length first, as in OpenAI's CLIP."""

    def __init__(self, attention: Any, layers: Sequence[LoraLinear]) -> None:
        super().__init__()
        self.q, self.k, self.v = layers
        self.out = attention.out_proj
        self.heads = attention.num_heads

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(length, n, width) to the same shape."""
        length, count, width = x.shape
        q, k, v = (
            layer(x).contiguous().view(length, count * self.heads, -1).transpose(0, 1)
            for layer in (self.q, self.k, self.v)
        )
        q, k, v = (part.view(count, self.heads, length, -1) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed = mixed.permute(2, 0, 1, 3).contiguous().view(length, count, width)
        out: Tensor = self.out(mixed)
        return out


class PlainAttention(nn.Module):
    """The frozen model's own attention, length first."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(length, n, width) to the same shape."""
        x = x.transpose(0, 1)
        out: Tensor = self.attention(x, x, x, need_weights=False, attn_mask=mask)[0]
        return out.transpose(0, 1)


Attentions = Sequence[Any]


def run_blocks(x: Tensor, transformer: Any, attentions: Attentions, mask: Tensor | None) -> Tensor:
    """Run (n, length, width) through all blocks, every token in every block."""
    x = x.permute(1, 0, 2)
    for module, attention in zip(transformer.resblocks, attentions, strict=True):
        x = x + attention(module.ln_1(x), mask)
        x = x + module.mlp(module.ln_2(x))
    return x.permute(1, 0, 2)


def image_features(module: Any, pixels: Tensor, attentions: Attentions) -> Tensor:
    """(b, embed) unit features."""
    visual = module.visual
    x = visual.conv1(pixels).flatten(2).permute(0, 2, 1)
    start = visual.class_embedding + x.new_zeros(len(x), 1, x.shape[-1])
    x = visual.ln_pre(torch.cat([start, x], dim=1) + visual.positional_embedding)
    x = run_blocks(x, visual.transformer, attentions, None)
    return F.normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1)


def text_features(module: Any, embedded: Tensor, ends: Tensor, attentions: Attentions) -> Tensor:
    """(n, embed) unit features of (n, 77, width) token embeddings."""
    x = embedded + module.positional_embedding
    x = run_blocks(x, module.transformer, attentions, module.attn_mask)
    x = module.ln_final(x)
    return F.normalize(x[torch.arange(len(x)), ends] @ module.text_projection, dim=-1)


def plain_attentions(transformer: Any) -> list[nn.Module]:
    """The frozen attention of every block."""
    return [PlainAttention(block.attn) for block in transformer.resblocks]


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
                LoraAttention(block.attn, _adapted(encoder, i, block, factors, scaling, rate))
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
        if len(prompts) <= PART:
            self.loss(pixels, labels, prompts).backward()  # type: ignore[no-untyped-call]
            return
        images = image_features(self.module, pixels, self.attentions["vision"])
        parts = (prompts[i : i + PART] for i in range(0, len(prompts), PART))
        _backward_in_parts(images, labels, len(prompts), map(self.class_features, parts))

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
    weights = block.attn.in_proj_weight.detach().chunk(3)
    biases = block.attn.in_proj_bias.detach().chunk(3)
    return [
        LoraLinear(weight, bias, factors[encoder, index, name], scaling, rate)
        for name, weight, bias in zip("qkv", weights, biases, strict=True)
    ]


class TunedStep:
    """A step that trains some of the model's own tensors: both encoders on every token."""

    def __init__(
        self, module: Any, tokenize: Callable[[list[str]], Tensor], choice: Callable[[str], bool]
    ) -> None:
        """choice: True for the names of the trained parameters, as in the module."""
        self.module, self.tokenize = frozen_copy(module), tokenize
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(choice(name))
        self.vision = plain_attentions(self.module.visual.transformer)
        self.text = plain_attentions(self.module.transformer)

    def parameters(self) -> list[Tensor]:
        """The trained tensors."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def class_features(self, prompts: Sequence[str]) -> Tensor:
        """Unit class features (classes, embed)."""
        tokens = self.tokenize(list(prompts))
        embedded = self.module.token_embedding(tokens)
        return text_features(self.module, embedded, tokens.argmax(dim=-1), self.text)

    def logits(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Logits (b, classes)."""
        scale = self.module.logit_scale.exp().detach()
        images = image_features(self.module, pixels, self.vision)
        return scale * images @ self.class_features(prompts).T

    def backward(self, pixels: Tensor, labels: Tensor, prompts: Sequence[str]) -> None:
        """Accumulate the gradients of one batch."""
        if len(prompts) <= PART:
            logits = self.logits(pixels, prompts)
            F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
            return
        images = image_features(self.module, pixels, self.vision)
        parts = (prompts[i : i + PART] for i in range(0, len(prompts), PART))
        _backward_in_parts(images, labels, len(prompts), map(self.class_features, parts))


class CoOpStep:
    """CoOp's step: a frozen image encoder on the batch, all prompts with 77 tokens."""

    def __init__(
        self,
        module: Any,
        tokenize: Callable[[list[str]], Tensor],
        classnames: Sequence[str],
        context: Tensor,
    ) -> None:
        """A shared context (M, width) in front of the class names."""
        self.module = module
        self.context = nn.Parameter(context.detach().clone())
        count = len(context)
        words = " ".join(["X"] * count)
        tokens = tokenize([f"{words} {name.replace('_', ' ')}." for name in classnames])
        embedded = module.token_embedding(tokens).detach()
        self.start, self.rest = embedded[:, :1], embedded[:, 1 + count :]
        self.ends = tokens.argmax(dim=-1)
        self.text = plain_attentions(module.transformer)
        self.vision = plain_attentions(module.visual.transformer)

    def class_features(self, rows: slice = slice(None)) -> Tensor:
        """Unit class features (classes, embed)."""
        own = self.context.expand(len(self.rest[rows]), -1, -1)
        embedded = torch.cat([self.start[rows], own, self.rest[rows]], dim=1)
        return text_features(self.module, embedded, self.ends[rows], self.text)

    def logits(self, pixels: Tensor) -> Tensor:
        """Logits (b, classes)."""
        scale = self.module.logit_scale.exp()
        return scale * image_features(self.module, pixels, self.vision) @ self.class_features().T

    def backward(self, pixels: Tensor, labels: Tensor) -> None:
        """Accumulate the gradient of one batch."""
        count = len(self.rest)
        if count <= PART:
            F.cross_entropy(self.logits(pixels), labels).backward()  # type: ignore[no-untyped-call]
            return
        images = image_features(self.module, pixels, self.vision)
        rows = (slice(i, i + PART) for i in range(0, count, PART))
        _backward_in_parts(images, labels, count, map(self.class_features, rows))


def _flat(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [part for pair in pairs for part in pair]


def _backward_in_parts(
    images: Tensor, labels: Tensor, classes: int, parts: Iterator[Tensor]
) -> None:
    """Do the work of a step: images at once, class features in parts (see the module docstring)."""
    rng = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(classes, images.shape[1], generator=rng), dim=-1)
    features = features.to(images.device).requires_grad_()
    F.cross_entropy(100.0 * images @ features.T, labels).backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    start = 0
    for part in parts:
        part.backward(features.grad[start : start + len(part)])  # type: ignore[no-untyped-call]
        start += len(part)


def tip_search(
    features: Tensor,
    targets: Tensor,
    text: Tensor,
    keys: Tensor,
    values: Tensor,
    betas: Sequence[float],
    alphas: Sequence[float],
) -> tuple[float, float]:
    """Tip-Adapter's search; the affinity is recomputed at every point of the grid."""
    best, chosen = -1.0, (math.nan, math.nan)
    for beta in betas:
        for alpha in alphas:
            affinity = features @ keys
            cached = ((-1) * (beta - beta * affinity)).exp() @ values
            logits = 100.0 * features @ text.T + alpha * cached
            correct = logits.topk(1, 1, True, True)[1].t().eq(targets.view(1, -1))
            accuracy = 100 * float(correct.float().sum()) / len(targets)
            if accuracy > best:
                best, chosen = accuracy, (beta, alpha)
    return chosen


def frozen_copy(module: Any) -> Any:
    """A copy of the model without gradients, in evaluation mode."""
    return copy.deepcopy(module).requires_grad_(False).eval()
