"""CoOp: prompt learning by context optimization."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import (
    Augment,
    Backbone,
    Images,
    NotApplicableError,
    RunContext,
    Task,
    Vocabulary,
    hyper,
)
from fewshot_bench.backbones import PromptPart, TextTower
from fewshot_bench.training import (
    Autocast,
    Prompts,
    Scale,
    backward_in_parts,
    build_prompts,
    chunks_for,
    coop_epochs,
    dassl_rate,
    encode_in_parts,
    epoch_views,
    minibatches,
    minimize_by,
    must_recompute,
    require,
    require_choices,
    require_not_negative,
    require_positive,
    set_rate,
    steps_per_epoch,
    unit,
    views_in_turn,
)

_CODE = "CoOp (Zhou et al. 2022)"
CLASS_SPECIFIC = "with class_specific=true every context belongs to a class it was fitted on"


@dataclass(frozen=True)
class PromptModel:
    """Everything frozen that turns a context into logits."""

    prompts: Prompts
    tower: TextTower
    scale: float
    autocast: Autocast
    recompute: bool = False
    parts: tuple[PromptPart, ...] = ()

    def class_features(self, context: Tensor) -> Tensor:
        """(classes, embed) unit features of the prompts with this context, in float32."""
        if self.parts and not torch.is_grad_enabled():
            return unit(encode_in_parts(self.parts, partial(self._encode, context)))
        return unit(self._encode(context))

    def _encode(self, context: Tensor, part: PromptPart | None = None) -> Tensor:
        with self.autocast():
            return self.prompts.features(self.tower, context, part, recompute=self.recompute)

    def loss(self, context: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of one batch of unit image features, differentiable in the context."""
        return self._loss(features, labels, self.class_features(context))

    def _loss(self, features: Tensor, labels: Tensor, class_features: Tensor) -> Tensor:
        return F.cross_entropy(self.scale * features @ class_features.T, labels)

    def backward(self, context: Tensor, features: Tensor, labels: Tensor, scale: Scale) -> None:
        """Add the gradient of `scale(loss)` to that of the context, prompts part by part."""
        if not self.parts:
            torch.autograd.backward(scale(self.loss(context, features, labels)))
            return
        encode = partial(self._encode, context)
        raw = encode_in_parts(self.parts, encode).requires_grad_()
        torch.autograd.backward(scale(self._loss(features, labels, unit(raw))))
        assert raw.grad is not None
        backward_in_parts(self.parts, encode, raw.grad)


@dataclass(frozen=True)
class PromptClassifier:
    """Zero-shot classification with learned prompts."""

    model: PromptModel
    context: Tensor
    model_for: Callable[[Vocabulary], PromptModel]

    @torch.no_grad()
    def logits(self, queries: Images) -> Tensor:
        """(n, classes): the prompts are encoded once, the queries are the frozen features."""
        return self.model.scale * queries.features @ self.model.class_features(self.context).T

    def for_classes(self, vocabulary: Vocabulary) -> PromptClassifier:
        """The learned context before other class names (CoOp's cross-dataset protocol)."""
        if self.context.dim() > 2:
            raise NotApplicableError(CLASS_SPECIFIC)
        return replace(self, model=self.model_for(vocabulary))

    def tensors(self) -> Mapping[str, Tensor]:
        """The context vectors (M, width), or (classes, M, width)."""
        return {"context": self.context}


@dataclass(frozen=True)
class CoOp:
    """Context optimization (Zhou et al. 2022): M context vectors are learned, the rest is frozen.

    The frozen image encoder sees a new augmented view of every support image in every epoch; views
    are encoded ahead of training, each once for all shots of a seed. `class_views` bounds how many
    there are: up to fifty times cheaper, at some cost in accuracy (docs/performance.md). SGD,
    cosine per epoch after one epoch at `warmup_lr` (`fewshot_bench.training.dassl_rate`). The last
    checkpoint is kept. One schedule for all data sets: the official 50 epochs on ImageNet at every
    shot are `epochs=50`.
    """

    name: ClassVar[str] = "coop"
    version: ClassVar[str] = "4"

    context_tokens: int = hyper(
        16,
        "context tokens M (unused with context_init)",
        unit="tokens",
        source="CoOp train.py:91-95",
    )
    context_init: str = hyper(
        "", "words whose embeddings start the context; empty: random", source="coop.py:72-80"
    )
    class_specific: bool = hyper(
        False, "one context per class (CSC) instead of a shared one", source="coop.py:84-86"
    )
    position: Literal["end", "middle", "front"] = hyper(
        "end", "where the class name stands in the prompt", source="coop.py:126-180"
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

    @property
    def tied_to_classes(self) -> str:
        """Why other classes than the fitted ones cannot be predicted; empty when they can."""
        return CLASS_SPECIFIC if self.class_specific else ""

    def quick(self) -> CoOp:
        """A short schedule from words, for the conformance kit and its random text encoder."""
        return replace(self, epochs=40, context_init="a photo of a")

    def views_per_image(self, shots: int, classes: int) -> int:
        """Views of each support image that are encoded."""
        return self.views_for(shots)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> PromptClassifier:
        """Trains the context on frozen image features."""
        tower = backbone.text_tower()
        context = self.initial_context(len(task.classnames), backbone, tower, ctx)
        model_for = partial(
            self.model, backbone=backbone, tower=tower, tokens=context.shape[-2], ctx=ctx
        )
        model = model_for(task)
        context = torch.nn.Parameter(context)
        self._train(model, context, task, backbone.embed_dim, ctx)
        return PromptClassifier(model, context.detach(), model_for)

    def model(
        self, task: Vocabulary, backbone: Backbone, tower: TextTower, tokens: int, ctx: RunContext
    ) -> PromptModel:
        """The frozen part of the model for `tokens` context tokens."""
        prompts = build_prompts(
            task.classnames,
            backbone,
            tower,
            tokens=tokens,
            position=self.position,
            class_specific=self.class_specific,
        )
        chunks = chunks_for(ctx.memory_parts)
        parts = tuple(prompts.packing.divide(chunks)) if chunks > 1 else ()
        return PromptModel(prompts, tower, backbone.logit_scale, ctx.autocast, parts=parts)

    def initial_context(
        self, classes: int, backbone: Backbone, tower: TextTower, ctx: RunContext
    ) -> Tensor:
        """(M, width), or (classes, M, width): random normal, or the embeddings of given words."""
        if self.context_init:
            ids = backbone.tokenize([self.context_init.replace("_", " ")])[0]
            words = tower.embed(ids[1 : int(ids.argmax())]).float()
            return words.expand(classes, -1, -1).clone() if self.class_specific else words.clone()
        shape: tuple[int, ...] = (self.context_tokens, tower.width)
        shape = (classes, *shape) if self.class_specific else shape
        context = torch.empty(shape).normal_(std=self.init_std, generator=ctx.rng("init"))
        return context.to(backbone.device)

    def epochs_for(self, shots: int) -> int:
        """The length of the schedule."""
        return self.epochs or coop_epochs(shots)

    def views_for(self, shots: int) -> int:
        """Views per support image: one per epoch, or fewer."""
        epochs = self.epochs_for(shots)
        return min(math.ceil(self.class_views / max(1, shots)) or epochs, epochs)

    def _train(
        self,
        model: PromptModel,
        context: torch.nn.Parameter,
        task: Task,
        width: int,
        ctx: RunContext,
    ) -> None:
        tokens = model.prompts.packing.tokens
        if must_recompute(model.tower, tokens, context.device, ctx.memory_parts):
            model = replace(model, recompute=True)
            ctx.note(recomputed=["text"])
        optimizer = torch.optim.SGD(
            [context],
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            fused=context.is_cuda,
        )
        scaler, order = ctx.scaler(), ctx.rng("order")
        count, labels, done = len(task.train), task.train.labels, 0
        epochs = self.epochs_for(task.shots)
        total = epochs * steps_per_epoch(count, self.batch_size, drop_last=True)
        views = epoch_views(task.train, epochs, Augment(), width)
        if self.views_for(task.shots) < epochs:
            count, rng = self.views_for(task.shots), ctx.rng("augment")
            views = views_in_turn(task.train, epochs, Augment(), rng, count, width)
        for epoch, features in enumerate(views):
            set_rate(optimizer, dassl_rate(epoch, epochs, self.lr, self.warmup_lr))
            for index in minibatches(count, self.batch_size, order, labels.device, drop_last=True):
                step = partial(model.backward, context, features[index], labels[index])
                minimize_by(step, optimizer, scaler)
                done += 1
                ctx.progress(done, total)
