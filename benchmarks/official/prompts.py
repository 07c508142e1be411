"""Learned prompts in front of class names, with a frozen image encoder run in every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.official import clip, parts
from benchmarks.official.clip import image_features, plain_attentions, text_features
from benchmarks.official.step import Context, Setting, Step

WORDS = "a photo of a"


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
        if count <= parts.PART:
            F.cross_entropy(self.logits(pixels), labels).backward()  # type: ignore[no-untyped-call]
            return
        images = image_features(self.module, pixels, self.vision)
        rows = (slice(i, i + parts.PART) for i in range(0, count, parts.PART))
        parts.backward_in_parts(images, labels, count, map(self.class_features, rows))


class CoCoOp(Step):
    """CoCoOp: all prompts of every image, with a context that a network shifts."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.prompts = Context(self, 4, WORDS)
        self.context = nn.Parameter(self.prompts.first.clone())
        embed, width = self.module.text_projection.shape[1], self.context.shape[1]
        hidden = max(1, embed // 16)
        self.network = nn.Sequential(
            self.linear(embed, hidden), nn.ReLU(), self.linear(hidden, width)
        )
        self.learned = [self.context, *self.network.parameters()]

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        features = self.images(images)
        contexts = self.context + self.network(features)[:, None]
        rows = []
        for image, context in zip(features, contexts, strict=True):
            classes = clip.text_features(
                self.module, self.prompts(context), self.prompts.ends, self.text
            )
            rows.append(self.scale * image @ classes.T)
        return (F.cross_entropy(torch.stack(rows), labels),)


class _SharedContext(Step):
    """One context in front of all class names."""

    count, words = 4, WORDS

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.prompts = Context(self, self.count, self.words)
        self.context = nn.Parameter(self.prompts.first.clone())
        self.learned, self.frozen = [self.context], self.written()

    def classes(self, **edits: Any) -> Tensor:
        """Unit class features."""
        embedded = self.prompts(self.context)
        return clip.text_features(self.module, embedded, self.prompts.ends, self.text, **edits)

    def distance(self, classes: Tensor) -> Tensor:
        """One minus the mean cosine to the hand-written prompts."""
        return 1 - F.cosine_similarity(classes, self.frozen, dim=1).mean()


class KgCoOp(_SharedContext):
    """KgCoOp: CoOp with a distance to the hand-written prompts."""

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy and the weighted distance."""
        classes = self.classes()
        loss = self.cross_entropy(self.images(images), classes, labels)
        return (loss + 8.0 * self.distance(classes),)


class ProGrad(_SharedContext):
    """ProGrad: two gradients; the teacher has an image encoder of its own."""

    count, words = 16, ""

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropies with the labels, and with zero-shot CLIP's probabilities."""
        logits = self.scale * self.images(images) @ self.classes().T
        with torch.no_grad():
            teacher = (self.scale * self.images(images) @ self.frozen.T).softmax(dim=-1)
        to_teacher = -(teacher * logits.log_softmax(dim=-1)).sum(dim=1).mean()
        return F.cross_entropy(logits, labels), to_teacher

    def backward(self, images: Tensor, labels: Tensor) -> None:
        """The first gradient without its part against the second."""
        hard, soft = self.losses(images, labels)
        soft.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        kept = [parameter.grad.clone() for parameter in self.learned]  # type: ignore[union-attr]
        for parameter in self.learned:
            parameter.grad = None
        hard.backward()  # type: ignore[no-untyped-call]
        for parameter, soft_gradient in zip(self.learned, kept, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            along = soft_gradient / soft_gradient.norm()
            if F.cosine_similarity(gradient.flatten(), along.flatten(), dim=0) < 0:
                parameter.grad = gradient - (gradient.flatten() @ along.flatten()) * along


class Tcp(_SharedContext):
    """TCP: before a deep block, rows that a network makes of class features."""

    words, block = "", 9

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.context.data.normal_(std=0.02)
        embed, width = self.frozen.shape[1], self.context.shape[1]
        hidden = max(1, embed // 4)
        self.down, self.up = self.linear(embed, hidden), self.linear(hidden, self.count * width)
        self.learned += [*self.down.parameters(), *self.up.parameters()]

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy and the weighted distance."""
        hidden = self.down(self.frozen)
        rows = self.up(hidden * torch.sigmoid(1.702 * hidden))
        rows = rows.view(len(rows), self.count, -1).permute(1, 0, 2)
        deep = min(self.block, len(self.text)) - 1

        def edit(layer: int, x: Tensor) -> Tensor:
            return x if layer != deep else torch.cat([x[:1], rows, x[1 + len(rows) :]])

        classes = self.classes(edit=edit)
        loss = self.cross_entropy(self.images(images), classes, labels)
        return (loss + 8.0 * self.distance(classes),)

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.learned, lr=2e-3, eps=1e-3, weight_decay=5e-4)
