"""`EncoderLearner`: the base class of methods that train tensors inside the encoders on pixels.

A method defines initial tensors and how they change the towers (`EncoderHooks`); batches, memory,
keeping and transfer are implemented here. All draws come from the streams `order` and `augment`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW, Optimizer

from fewshot_bench.api.backbone import Backbone
from fewshot_bench.api.method import Classifier, RunContext, hyper
from fewshot_bench.api.task import Augment, Shots, Task, Vocabulary
from fewshot_bench.training.batches import (
    pixel_batches,
    steps_per_epoch,
    view_batches,
)
from fewshot_bench.training.checks import (
    require,
    require_choices,
    require_not_negative,
    require_positive,
)
from fewshot_bench.training.encoder_model import (
    BatchLoss,
    EncoderBatch,
    EncoderClassifier,
    EncoderHooks,
    EncoderModel,
    Encoders,
    Learned,
    TemplatePrompts,
    TextPrompts,
)
from fewshot_bench.training.prompt_model import Encoding, WithoutRun
from fewshot_bench.training.steps import (
    cosine,
    dassl_rate,
    momentum_sgd,
)

ENCODES_TEXTS = "its text encoder is trained, and would read all texts of all classes in every step"
"""The reason why a method takes no texts of classes."""
AfterStep = Callable[[int, int], None]
"""Called with the number of steps that are done, and of all steps."""
Backward = Callable[..., None]
"""(*batch, scale), such as (pixels, labels, scale): adds the gradients of the scaled loss of a
batch to the parameters'."""


@dataclass(frozen=True)
class EncoderLearner(EncoderHooks):
    """Tensors inside the encoders, trained on augmented pixels; the last step is kept.

    A method overrides `initial`, and others as needed; subclasses define the
    schedule: `EpochLearner`, `EpochSchedule` or `StepLearner`.
    """

    name: ClassVar[str]
    trains: ClassVar[tuple[str, ...]] = ("vision", "text")
    """The towers that trained tensors change; features of the other are frozen."""
    from_classes: ClassVar[bool] = False
    """True where `encoders` needs the frozen class features."""
    with_frozen: ClassVar[bool] = False
    """True where the loss compares with frozen features of the same crops (`EncoderBatch.frozen`);
    batches then have them as a third tensor."""
    max_norm: ClassVar[float] = 0.0
    """The largest norm of all gradients of a step; 0 for no bound."""
    drop_last: ClassVar[bool] = True
    stage: ClassVar[tuple[int, int]] = (0, 1)
    """The index of this training among stages with as many steps each, and their number."""
    augment: ClassVar[Augment] = Augment()

    batch_size: int = hyper(32, "images per step", unit="images")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_choices(self)
        require_positive(self, "batch_size")

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """The initial values of the trained tensors, by name."""
        raise NotImplementedError(f"{type(self).__name__}.initial: the tensors to be trained")

    def buffers(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """Fixed tensors that `encoders` needs and a kept model stores, by name; default: none.

        Names differ from the names of `initial`. Draw random ones from a stream of `ctx`.
        """
        return {}

    @property
    def cannot_take_texts(self) -> str:
        """The reason why no texts describe its classes, where it trains the text encoder."""
        encodes = "text" in self.trains and type(self).prompts is EncoderLearner.prompts
        return ENCODES_TEXTS if encodes else ""

    def prompts(self, vocabulary: Vocabulary, backbone: Backbone) -> tuple[TextPrompts, ...]:
        """The prompts of all classes, one entry per template."""
        tower, (_, blocks) = backbone.text_tower(), self.unchanged(backbone)
        tokens = [
            backbone.tokenize(vocabulary.prompts(template)) for template in vocabulary.templates
        ]
        packed = [tower.pack_tokens(ids) for ids in tokens]
        if blocks:
            packed = [tower.advance(one, blocks) for one in packed]
        return tuple(TemplatePrompts(one) for one in packed)

    def unchanged(self, backbone: Backbone) -> tuple[int, int]:
        """The numbers of first blocks of the vision and text tower that no trained tensor changes.

        They run without gradients: once per image of a step, and once per fit for the prompts of
        templates.
        """
        return 0, 0

    def loss(self, task: Task, backbone: Backbone, ctx: RunContext) -> BatchLoss:
        """The loss of a batch; default: cross-entropy of `scores`."""

        def loss(batch: EncoderBatch) -> Tensor:
            scores = self.scores(batch.images, batch.classes, batch.scale, fitted=True)
            return F.cross_entropy(scores, batch.labels)

        return loss

    def backward(
        self, model: EncoderModel, learned: Learned, task: Task, backbone: Backbone, ctx: RunContext
    ) -> Backward:
        """The backward pass of a batch, a function made once per fit; default: of `loss`."""
        loss = self.loss(task, backbone, ctx)

        def backward(pixels: Tensor, labels: Tensor, *more: Any) -> None:
            *frozen, scale = more
            model.backward(pixels, labels, loss, learned, scale, *frozen)

        return backward

    def optimizer(self, parameters: Sequence[Tensor]) -> Optimizer:
        """The optimizer of the learned tensors."""
        raise NotImplementedError(f"{type(self).__name__}.optimizer")

    def steps(self, shots: int, per_epoch: int) -> int:
        """The number of optimizer steps."""
        raise NotImplementedError(f"{type(self).__name__}.steps")

    def rate(self, step: int, per_epoch: int, total: int) -> float:
        """The learning rate of a step, counted from 0."""
        raise NotImplementedError(f"{type(self).__name__}.rate")

    def views_per_image(self, shots: int, classes: int) -> int:
        """Encoded views of each support image, where frozen features of views are needed."""
        if "vision" in self.trains and not self.with_frozen:
            return 0
        per_epoch = steps_per_epoch(shots * classes, self.batch_size, drop_last=self.drop_last)
        return -(-self.steps(shots, per_epoch) // max(1, per_epoch))

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Classifier:
        """Train the tensors of `initial`."""
        return self.fitted(self.trained(task, backbone, ctx), task, backbone, ctx)

    def trained(self, task: Task, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """The tensors after the last step."""
        start, fixed = self.initial(task, backbone, ctx), self.buffers(task, backbone, ctx)
        learned: dict[str, Tensor] = {
            name: torch.nn.Parameter(value.detach().clone().to(backbone.device))
            for name, value in start.items()
        }
        learned |= {name: value.detach().to(backbone.device) for name, value in fixed.items()}
        self.train(learned, task, backbone, ctx)
        return {name: value.detach() for name, value in learned.items()}

    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> Classifier:
        """A classifier with the kept tensors."""
        return self.fitted(tensors, vocabulary, backbone, WithoutRun(backbone)).ahead()

    def fitted(
        self, learned: Learned, task: Vocabulary, backbone: Backbone, ctx: Encoding
    ) -> EncoderClassifier:
        """The classifier with the learned tensors."""
        model_for = partial(self.model, backbone=backbone, ctx=ctx)
        return EncoderClassifier(model_for(task), learned, model_for)

    def model(self, task: Vocabulary, backbone: Backbone, ctx: Encoding) -> EncoderModel:
        """The frozen part of the model for the classes of `task`."""
        text = "text" in self.trains
        frozen = Encoders(
            backbone.image_tower() if "vision" in self.trains else None,
            backbone.text_tower() if text else None,
            classes=backbone.class_features(task) if self.from_classes else None,
            image_start=self.unchanged(backbone)[0],
        )
        return EncoderModel(
            self,
            task.classnames,
            frozen,
            self.prompts(task, backbone) if text else (),
            None if text else backbone.class_features(task),
            backbone.logit_scale,
            ctx.autocast,
        )

    def train(
        self,
        learned: Learned,
        task: Task,
        backbone: Backbone,
        ctx: RunContext,
        after: AfterStep | None = None,
    ) -> None:
        """Train `learned` in place over the whole schedule; `after` is called after every step."""
        size = min(self.batch_size, len(task.train))
        model = self.model(task, backbone, ctx)
        model = model.within_memory(size, backbone.device, ctx.memory_parts, ctx.precision)
        if model.recompute:
            ctx.note(recomputed=sorted(model.recompute))
        backward = self.backward(model, learned, task, backbone, ctx)
        optimizer = self.optimizer([value for value in learned.values() if value.requires_grad])
        take = ctx.train_step_by(backward, optimizer, self.max_norm)
        per_epoch = steps_per_epoch(len(task.train), size, drop_last=self.drop_last)
        total = self.steps(task.shots, per_epoch)
        batches = self.batches(task.train, backbone, ctx, -(-total // per_epoch))
        stage, stages = self.stage
        for step, batch in enumerate(itertools.islice(batches, total)):
            take(*batch, rate=self.rate(step, per_epoch, total))
            if after is not None:
                after(step + 1, total)
            ctx.progress(stage * total + step + 1, stages * total)

    def batches(
        self, train: Shots, backbone: Backbone, ctx: RunContext, epochs: int
    ) -> Iterator[tuple[Tensor, ...]]:
        """Shuffled batches with labels: augmented pixels, or frozen features of augmented views.

        Frozen features of the pixels follow if the loss needs them (`with_frozen`). `drop_last`
        decides whether a short last batch of an epoch is dropped.
        """
        how: dict[str, Any] = {
            "augment": self.augment,
            "drop_last": self.drop_last,
            "epochs": epochs,
        }
        views = partial(view_batches, train, self.batch_size, backbone.embed_dim, ctx, **how)
        if "vision" not in self.trains:
            return views()
        pixels = pixel_batches(train, self.batch_size, backbone.device, ctx, **how)
        if not self.with_frozen:
            return pixels
        pairs = zip(pixels, views(as_pixels=True), strict=True)
        return ((*batch, frozen) for batch, (frozen, _) in pairs)


@dataclass(frozen=True)
class CosineEpochs(EncoderLearner):
    """Epochs whose learning rate is a cosine per epoch, without warm-up."""

    epochs: int = hyper(5, "passes over the support set", unit="epochs")
    lr: float = hyper(2.5e-3, "learning rate")
    weight_decay: float = hyper(5e-4, "weight decay", source="Dassl defaults")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_positive(self, "lr")
        require_not_negative(self, "weight_decay")
        finite = 0 < self.epochs_for(1) < float("inf")
        require(self, "epochs", finite, "a finite number above 0")

    def quick(self) -> Self:
        """Ten epochs, for the conformance kit."""
        return replace(self, epochs=10)

    def epochs_for(self, shots: int) -> int:
        """The number of epochs."""
        return self.epochs

    def steps(self, shots: int, per_epoch: int) -> int:
        """The steps of all epochs."""
        return self.epochs_for(shots) * per_epoch

    def rate(self, step: int, per_epoch: int, total: int) -> float:
        """The cosine at the step's epoch."""
        return cosine(self.lr, step // per_epoch, total // per_epoch)


@dataclass(frozen=True)
class EpochSchedule(CosineEpochs):
    """Dassl's schedule: a cosine learning rate per epoch after one epoch at `warmup_lr`."""

    warmup_lr: float = hyper(1e-5, "learning rate of the first epoch", source="Dassl defaults")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_not_negative(self, "warmup_lr")

    def rate(self, step: int, per_epoch: int, total: int) -> float:
        """The learning rate of the step's epoch."""
        return dassl_rate(step // per_epoch, total // per_epoch, self.lr, self.warmup_lr)


@dataclass(frozen=True)
class EpochLearner(EpochSchedule):
    """SGD with momentum on the schedule of `EpochSchedule`.

    >>> EpochLearner(epochs=5, lr=2e-3)
    """

    momentum: float = hyper(0.9, "momentum of SGD", source="Dassl defaults")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_not_negative(self, "momentum")

    def optimizer(self, parameters: Sequence[Tensor]) -> Optimizer:
        """SGD with momentum."""
        return momentum_sgd(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )


@dataclass(frozen=True)
class StepLearner(EncoderLearner):
    """AdamW for a number of steps per shot, with a cosine rate over all steps, as in CLIP-LoRA.

    The short last batch of an epoch is kept.

    >>> StepLearner(iterations=500, lr=2e-4)
    """

    drop_last: ClassVar[bool] = False

    iterations: int = hyper(300, "training steps per shot", unit="steps/shot")
    lr: float = hyper(2e-4, "learning rate of AdamW")
    eta_min: float = hyper(1e-6, "learning rate at the end of the cosine")
    weight_decay: float = hyper(1e-2, "weight decay of AdamW")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_positive(self, "iterations", "lr")
        require_not_negative(self, "eta_min", "weight_decay")
        expected = f"at least eta_min={self.eta_min!r}, where the cosine ends"
        require(self, "lr", self.lr >= self.eta_min, expected)

    def quick(self) -> Self:
        """Two steps per shot, for the conformance kit."""
        return replace(self, iterations=2)

    def optimizer(self, parameters: Sequence[Tensor]) -> Optimizer:
        """AdamW."""
        return AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)

    def steps(self, shots: int, per_epoch: int) -> int:
        """`iterations` per shot."""
        return self.iterations * shots

    def rate(self, step: int, per_epoch: int, total: int) -> float:
        """The cosine learning rate of a step."""
        return cosine(self.lr, step, total, self.eta_min)
