"""Learned prompts for a frozen text tower: class features, logits and gradients.

`PromptModel` is the entry point. Prompts in parts (`RunContext.memory_parts`) and recomputed blocks
change results by rounding at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.api.backbone import Backbone, PromptPart, TextTower
from fewshot_bench.api.method import RunContext
from fewshot_bench.api.task import Images, Vocabulary
from fewshot_bench.training.memory import encode_in_parts, must_recompute
from fewshot_bench.training.prompts import Prompts
from fewshot_bench.training.steps import Autocast, Scale, unit
from fewshot_bench.utils.errors import NotApplicableError

CLASS_SPECIFIC = "with class_specific=true every context belongs to a class it was fitted on"
"""The reason that prompts with a context per class give for other classes."""


@dataclass(frozen=True)
class PromptBatch:
    """The batch that losses get, with all features at unit length.

    classes: features of the learned prompts, differentiable, (classes, embed), or
    (b, classes, embed) of prompts that depend on the image. images: (b, embed). labels: (b,).
    scale: the logit scale.

    >>> loss = batch.cross_entropy()
    """

    classes: Tensor
    images: Tensor
    labels: Tensor
    scale: float

    @property
    def logits(self) -> Tensor:
        """(b, classes) scaled cosines."""
        if self.classes.dim() == 3:
            return (self.classes @ (self.scale * self.images)[..., None]).squeeze(-1)
        return self.scale * self.images @ self.classes.T

    def cross_entropy(self) -> Tensor:
        """The mean cross-entropy over the batch."""
        return F.cross_entropy(self.logits, self.labels)


Loss = Callable[[PromptBatch], Tensor]
"""A scalar of a batch."""


class Encoding(Protocol):
    """The members of `RunContext` that a frozen model needs."""

    @property
    def memory_parts(self) -> int:
        """As in `RunContext`."""
        ...

    def autocast(self) -> AbstractContextManager[None]:
        """As in `RunContext`."""
        ...


@dataclass(frozen=True)
class WithoutRun:
    """The `Encoding` of a restored classifier: the backbone's precision, no division into parts."""

    backbone: Backbone
    memory_parts: int = 1

    def autocast(self) -> AbstractContextManager[None]:
        """The backbone's autocast; a null context if it has none."""
        own: Autocast = getattr(self.backbone, "autocast", nullcontext)
        return own()


@dataclass(frozen=True)
class PromptModel:
    """The frozen model from a context to class features and logits; contexts as in `Prompts`."""

    prompts: Prompts
    tower: TextTower
    scale: float
    autocast: Autocast
    recompute: bool = False
    parts: tuple[PromptPart, ...] = ()

    def within_memory(
        self, device: torch.device, ctx: RunContext, contexts: int = 1
    ) -> PromptModel:
        """This model, with recomputed blocks (noted in the record) if activations need too much."""
        packing, parts, precision = self.prompts.packing, ctx.memory_parts, ctx.precision
        tokens, slots = contexts * packing.tokens, contexts * packing.slots
        if not must_recompute(self.tower, tokens, device, parts, precision, slots=slots):
            return self
        ctx.note(recomputed=["text"])
        return replace(self, recompute=True)

    def class_features(self, context: Tensor) -> Tensor:
        """(classes, embed) unit features of the prompts with this context, in float32.

        (b, classes, embed) for b contexts.
        """
        if self.parts and not torch.is_grad_enabled():
            return unit(encode_in_parts(self.parts, partial(self._encode, context)))
        return unit(self._encode(context))

    def batch(self, context: Tensor, images: Tensor, labels: Tensor) -> PromptBatch:
        """The `PromptBatch` of unit image features (b, embed), differentiable in the context."""
        return PromptBatch(self.class_features(context), images, labels, self.scale)

    def gradients(
        self,
        context: Tensor,
        losses: Sequence[Loss],
        images: Tensor,
        labels: Tensor,
        scale: Scale,
    ) -> list[Tensor]:
        """The gradients of `scale(loss)` in the context, one per loss; all share a forward pass."""
        encode = partial(self._encode, context)
        raw = encode_in_parts(self.parts, encode) if self.parts else encode()
        leaf = raw.detach().requires_grad_()
        outer: list[Tensor] = []
        for loss in losses:
            batch = PromptBatch(unit(leaf), images, labels, self.scale)
            leaf.grad = None
            torch.autograd.backward(scale(loss(batch)))
            assert leaf.grad is not None
            outer.append(leaf.grad)
        if not self.parts:
            return _pull_back(raw, context, outer)
        by_part = [
            _pull_back(
                encode(part), context, [gradient[..., part.members, :] for gradient in outer]
            )
            for part in self.parts
        ]
        return [torch.stack(of_parts).sum(0) for of_parts in zip(*by_part, strict=True)]

    def _encode(self, context: Tensor, part: PromptPart | None = None) -> Tensor:
        with self.autocast():
            return self.prompts.features(self.tower, context, part, recompute=self.recompute)


def _pull_back(features: Tensor, context: Tensor, outer: Sequence[Tensor]) -> list[Tensor]:
    """Gradients in the features, backpropagated to the context."""
    last = len(outer) - 1
    return [
        torch.autograd.grad(features, context, gradient, retain_graph=index < last)[0]
        for index, gradient in enumerate(outer)
    ]


@dataclass(frozen=True)
class FixedPrompts:
    """Zero-shot classification with learned prompts encoded in advance, (classes, embed)."""

    context: Tensor
    class_features: Tensor
    scale: float

    def logits(self, queries: Images) -> Tensor:
        """(n, classes), bit-identical to the logits of the kept `PromptClassifier`."""
        return self.scale * queries.features @ self.class_features.T

    def tensors(self) -> Mapping[str, Tensor]:
        """The kept context."""
        return {"context": self.context}


@dataclass(frozen=True)
class PromptClassifier:
    """Zero-shot classification with learned prompts."""

    model: PromptModel
    context: Tensor
    model_for: Callable[[Vocabulary], PromptModel]

    @torch.no_grad()
    def logits(self, queries: Images) -> Tensor:
        """(n, classes) from the encoded prompts and the frozen query features."""
        return self.model.scale * queries.features @ self.model.class_features(self.context).T

    def for_classes(self, vocabulary: Vocabulary) -> PromptClassifier:
        """The learned context with other class names (CoOp's cross-dataset protocol).

        NotApplicableError if the context is class-specific.
        """
        if self.context.dim() > 2:
            raise NotApplicableError(CLASS_SPECIFIC)
        return replace(self, model=self.model_for(vocabulary))

    def tensors(self) -> Mapping[str, Tensor]:
        """The context vectors (M, width), or (classes, M, width)."""
        return {"context": self.context}
