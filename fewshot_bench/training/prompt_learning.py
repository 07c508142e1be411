"""`PromptLearner`: the base class of methods that learn a context on frozen features, as CoOp does.

A method overrides `losses` and others as needed. Batches, rates and views follow CoOp under Dassl;
all draws come from the streams `init`, `order` and `augment` of the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from fewshot_bench.api.backbone import Backbone, TextTower
from fewshot_bench.api.method import Classifier, RunContext, hyper
from fewshot_bench.api.task import Augment, Task, Vocabulary
from fewshot_bench.training.batches import Step, epoch_views, train_epochs, views_in_turn
from fewshot_bench.training.checks import (
    require,
    require_choices,
    require_not_negative,
    require_positive,
)
from fewshot_bench.training.memory import chunks_for
from fewshot_bench.training.prompt_model import (
    Encoding,
    FixedPrompts,
    Loss,
    PromptBatch,
    PromptClassifier,
    PromptModel,
    WithoutRun,
)
from fewshot_bench.training.prompts import Prompts, build_prompts
from fewshot_bench.training.steps import Scale, coop_epochs, dassl_rate, momentum_sgd


@dataclass(frozen=True)
class PromptLearner:
    """Context tokens before the class name, trained by SGD on augmented views of the support set.

    All other weights are frozen. The learning rate is a cosine per epoch after one epoch at
    `warmup_lr`; the last epoch is kept.

    >>> PromptLearner(context_tokens=4, epochs=50)
    """

    name: ClassVar[str]
    fits_words: ClassVar[bool] = False
    """True where the words of `context_init` are fitted into `context_tokens` tokens."""

    context_tokens: int = hyper(
        16,
        "context tokens M; with context_init, its words are the context",
        unit="tokens",
        source="CoOp train.py:91-95",
    )
    context_init: str = hyper(
        "", "words whose embeddings start the context; empty: random", source="coop.py:72-80"
    )
    epochs: int = hyper(
        0,
        "passes over the support set; 0: by shots (1: 50, 2 to 4: 100, more: 200)",
        unit="epochs",
        source="CoOp COOP.md:13-21",
    )
    lr: float = hyper(2e-3, "learning rate of SGD", source="CoOp configs/trainers/CoOp")
    momentum: float = hyper(0.9, "momentum of SGD", source="Dassl config/defaults.py:154")
    weight_decay: float = hyper(5e-4, "weight decay of SGD", source="Dassl config/defaults.py:153")
    warmup_lr: float = hyper(
        1e-5, "learning rate of the first epoch", source="CoOp configs/trainers/CoOp"
    )
    batch_size: int = hyper(
        32, "images per step", unit="images", source="CoOp configs/trainers/CoOp"
    )
    class_views: int = hyper(
        0,
        "augmented views per class, spread over its support images and taken in turn; "
        "0: every image has a view of its own in every epoch, as in the official code",
        unit="views",
        source="ours",
    )
    init_std: float = hyper(0.02, "standard deviation of a random context", source="coop.py:90")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_choices(self)
        require_positive(self, "context_tokens", "lr", "batch_size", "init_std")
        require_not_negative(self, "epochs", "class_views", "momentum", "weight_decay", "warmup_lr")
        blank = bool(self.context_init) and not self.context_init.strip()
        require(self, "context_init", not blank, "words, or nothing at all")
        if self.context_init and not self.fits_words:
            expected = (
                f"no value beside the words of context_init={self.context_init!r}, which are the "
                "context; an empty context_init starts at random"
            )
            self.require_unset("context_tokens", expected)
            self.require_unset("init_std", expected)

    def require_unset(self, field: str, expected: str) -> None:
        """UsageError unless the field has its default.

        For options without effect beside others: they would still stand in names of rows.
        """
        require(self, field, getattr(self, field) == self._default(field), expected)

    @classmethod
    def _default(cls, field: str) -> Any:
        return cls.__dataclass_fields__[field].default

    def losses(self, task: Vocabulary, backbone: Backbone) -> tuple[Loss, ...]:
        """The losses of a batch, each differentiated separately; default: cross-entropy alone."""
        return (PromptBatch.cross_entropy,)

    def combined(self, gradients: Sequence[Tensor]) -> Tensor:
        """The gradient of a step from the context gradients of the losses; default: their sum."""
        return sum(gradients[1:], start=gradients[0])

    def initial_context(
        self, task: Vocabulary, backbone: Backbone, tower: TextTower, ctx: RunContext
    ) -> Tensor:
        """(M, width): random normal, or the embeddings of `context_init`."""
        if self.context_init:
            return embedded_words(self.context_init, backbone, tower)
        return self.random_context((self.context_tokens, tower.width), backbone, ctx)

    def random_context(self, shape: tuple[int, ...], backbone: Backbone, ctx: RunContext) -> Tensor:
        """Normal random numbers with standard deviation `init_std`, on the backbone's device."""
        context = torch.empty(shape).normal_(std=self.init_std, generator=ctx.rng("init"))
        return context.to(backbone.device)

    def build(self, task: Vocabulary, backbone: Backbone, tower: TextTower, tokens: int) -> Prompts:
        """Prompts with `tokens` shared context tokens and the class name last."""
        return build_prompts(
            task.classnames, backbone, tower, tokens=tokens, position="end", class_specific=False
        )

    def quick(self) -> Self:
        """A short schedule with a context of words, for the conformance kit's random text tower."""
        unused = {name: self._default(name) for name in ("context_tokens", "init_std")}
        return replace(self, epochs=40, context_init="a photo of a", **unused)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> PromptClassifier:
        """Train the context on frozen image features."""
        tower = backbone.text_tower()
        context = torch.nn.Parameter(self.initial_context(task, backbone, tower, ctx))
        model_for = partial(
            self.model, backbone=backbone, tower=tower, tokens=context.shape[-2], ctx=ctx
        )
        model, losses = model_for(task), self.losses(task, backbone)
        trained = model.within_memory(backbone.device, ctx)
        step = partial(self.backward, trained, context, losses)
        self.train([context], step, task, backbone, ctx)
        return PromptClassifier(model, context.detach(), model_for)

    @torch.no_grad()
    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> Classifier:
        """A classifier with the kept context."""
        tower, context = backbone.text_tower(), tensors["context"]
        tokens, run = context.shape[-2], WithoutRun(backbone)
        model = self.model(vocabulary, backbone, tower, tokens, run)
        return FixedPrompts(context, model.class_features(context), model.scale)

    def model(
        self, task: Vocabulary, backbone: Backbone, tower: TextTower, tokens: int, ctx: Encoding
    ) -> PromptModel:
        """The frozen part of the model for `tokens` context tokens."""
        prompts = self.build(task, backbone, tower, tokens)
        chunks = chunks_for(ctx.memory_parts)
        parts = tuple(prompts.packing.divide(chunks)) if chunks > 1 else ()
        return PromptModel(prompts, tower, backbone.logit_scale, ctx.autocast, parts=parts)

    def backward(
        self,
        model: PromptModel,
        context: Tensor,
        losses: Sequence[Loss],
        images: Tensor,
        labels: Tensor,
        scale: Scale,
    ) -> None:
        """Set `context.grad` to the gradient of a batch."""
        context.grad = self.combined(model.gradients(context, losses, images, labels, scale))

    def epochs_for(self, shots: int) -> int:
        """The number of epochs: `epochs`, or CoOp's by shots."""
        return self.epochs or coop_epochs(shots)

    def views_for(self, shots: int) -> int:
        """Views per support image: one per epoch, or fewer with `class_views`."""
        epochs = self.epochs_for(shots)
        return min(math.ceil(self.class_views / max(1, shots)) or epochs, epochs)

    def views_per_image(self, shots: int, classes: int) -> int:
        """The number of encoded views of each support image."""
        return self.views_for(shots)

    def views(self, task: Task, backbone: Backbone, ctx: RunContext) -> Iterator[Tensor]:
        """The image features of every epoch, (n, embed); a batch of them is `PromptBatch.images`.

        A method that compares views of an image yields more dimensions: (n, views, embed).
        """
        epochs, own = self.epochs_for(task.shots), self.views_for(task.shots)
        width, crop = backbone.embed_dim, Augment()
        if own < epochs:
            return views_in_turn(task.train, epochs, crop, ctx.rng("augment"), own, width)
        return epoch_views(task.train, epochs, crop, width)

    def train(
        self,
        parameters: Sequence[Tensor],
        step: Step,
        task: Task,
        backbone: Backbone,
        ctx: RunContext,
    ) -> None:
        """Run the whole schedule: one optimizer step per batch with the gradients of `step`."""
        optimizer = momentum_sgd(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        epochs = self.epochs_for(task.shots)
        train_epochs(
            step,
            optimizer,
            self.views(task, backbone, ctx),
            task.train.labels,
            ctx,
            epochs=epochs,
            batch_size=self.batch_size,
            rate=lambda epoch: dassl_rate(epoch, epochs, self.lr, self.warmup_lr),
        )


def embedded_words(words: str, backbone: Backbone, tower: TextTower) -> Tensor:
    """(tokens, width) token embeddings of the words in float32; underscores become blanks."""
    ids = backbone.tokenize([words.replace("_", " ")])[0]
    return tower.embed(ids[1 : int(ids.argmax())]).float().clone()
