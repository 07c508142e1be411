"""2SFS: trains LayerNorms first, then a linear head on the adapted features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Task, Vocabulary, hyper
from fewshot_bench.training import Encoders, Learned, StepLearner, cosine, require, unit
from fewshot_bench.training.provisional import (
    Backward,
    EncoderClassifier,
    EncoderHooks,
    EncoderModel,
    Encoding,
    Scale,
)
from fsbench_methods import papers
from fsbench_methods.layer_norms import PROMPTS, SCHEDULE, chosen, is_block_norm

_PAPER = "2SFS (Farina et al. 2025)"


@dataclass(frozen=True)
class Mixed(EncoderHooks):
    """Class features for any list of classes: head rows for fitted ones, prompts for the others.

    rows: class name to row of the head; names: the requested classes.
    """

    rows: Mapping[str, int]
    names: tuple[str, ...]

    def read_classes(self, raw: Sequence[Tensor], learned: Learned, frozen: Encoders) -> Tensor:
        """(classes, embed) at unit length."""
        features, head = super().read_classes(raw, learned, frozen), unit(learned["head"])
        each = zip(self.names, features, strict=True)
        columns = [head[self.rows[name]] if name in self.rows else own for name, own in each]
        return torch.stack(columns)


@dataclass
class Stages:
    """The gradients of the LayerNorms for `first` steps, then those of the head."""

    model: EncoderModel
    learned: Learned
    tune: Backward
    first: int
    done: int = 0

    @torch.no_grad()
    def before_step(self) -> bool:
        """True if the second stage begins: the head starts at the tuned class features."""
        self.done += 1
        if self.done != self.first + 1:
            return False
        self.learned["head"].copy_(self.model.class_features(self.learned))
        return True

    def __call__(self, pixels: Tensor, labels: Tensor, scale: Scale) -> None:
        """Add the gradients of one batch."""
        if self.done <= self.first:
            self.tune(pixels, labels, scale)
            return
        with torch.no_grad():
            features = self.model.image_features(pixels, self.learned)
        head = unit(self.learned["head"])
        loss = F.cross_entropy(self.model.scale * features @ head.T, labels)
        torch.autograd.backward(scale(loss))


@dataclass(frozen=True)
class TwoStage(StepLearner):
    """2SFS (Farina et al., CVPR 2025): two stages of few-shot adaptation.

    For the first `share` of the steps, the LayerNorms of the blocks of both encoders are trained as
    in `ln-tuning`; then the encoders are frozen and a linear head is trained, which starts at the
    class features of the tuned text encoder. Fitted classes are predicted by the head, others by
    the tuned text encoder; the list of classes decides which.
    """

    name: ClassVar[str] = "2sfs"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        SCHEDULE,
        family="weights inside",
        paper=papers.OF_METHOD["2sfs"],
        cost="minutes",
        trained=lambda s: 4 * s.blocks + s.classes * s.features,
        at_test="which classes were fitted on",
        deviations=(
            PROMPTS,
            "a step that a loss scaler skips counts as one",
            "the second stage continues the epoch of the first; the official code starts a new one",
        ),
    )

    iterations: int = hyper(
        300, "steps per shot, of both stages", unit="steps/shot", source=f"{_PAPER}, section 5"
    )
    share: float = hyper(0.6, "share of the steps that train norms", source=f"{_PAPER}, section 5")
    lr: float = hyper(2e-4, "learning rate of both stages", source=f"{_PAPER}, section 5")
    weight_decay: float = hyper(1e-2, "AdamW's decay in both stages", source=_PAPER)
    batch_size: int = hyper(32, "images of a step", unit="images", source=_PAPER)

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require(self, "share", 0 < self.share < 1, "a share in (0, 1)")

    def quick(self) -> Self:
        """Few steps, for the conformance kit."""
        return replace(self, iterations=4)

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """The LayerNorms of the blocks, and a zero head that is set when its stage begins."""
        head = torch.zeros(len(task.classnames), backbone.embed_dim)
        return chosen(backbone, is_block_norm) | {"head": head}

    def first(self, total: int) -> int:
        """The steps of the first stage."""
        return max(1, int(self.share * total))

    def steps(self, shots: int, per_epoch: int) -> int:
        """`iterations` per shot, at least one in each stage."""
        return max(2, super().steps(shots, per_epoch))

    def rate(self, step: int, per_epoch: int, total: int) -> float:
        """A cosine in each stage."""
        first = self.first(total)
        step, steps = (step, first) if step < first else (step - first, total - first)
        return cosine(self.lr, step, steps, self.eta_min)

    def backward(
        self, model: EncoderModel, learned: Learned, task: Task, backbone: Backbone, ctx: RunContext
    ) -> Backward:
        """Gradients of the LayerNorms in the first stage, of the head in the second."""
        tune = super().backward(model, learned, task, backbone, ctx)
        return Stages(model, learned, tune, self.first(self.steps(task.shots, 1)))

    def fitted(
        self, learned: Learned, task: Vocabulary, backbone: Backbone, ctx: Encoding
    ) -> EncoderClassifier:
        """The classifier with tuned encoders and a head for the classes of the task."""
        names = task.classnames
        rows = {name: row for row, name in enumerate(names) if names.count(name) == 1}

        def model_for(asked: Vocabulary) -> EncoderModel:
            model = self.model(asked, backbone, ctx)
            if asked.classnames == names:
                return replace(model, prompts=(), fixed=unit(learned["head"]))
            return replace(model, hooks=Mixed(rows, asked.classnames))

        return EncoderClassifier(model_for(task), learned, model_for)
