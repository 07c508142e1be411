"""2SFS: norms first, then a linear head on what they made of the features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Augment, Backbone, Images, MethodCard, RunContext, Task, Vocabulary, hyper
from fewshot_bench.training import Scale, WithoutRun, pixel_batches, require, unit
from fsbench_methods.encoder_training import Schedule
from fsbench_methods.layer_norms import COMMON, SCHEDULE, LnTuning
from fsbench_methods.lora_model import LoraModel
from fsbench_methods.tuned_weights import LAST_RATE, Own, require_steps

_PAPER = "2SFS (Farina et al. 2025)"


@dataclass(frozen=True)
class TwoStageClassifier:
    """Tuned encoders, and a head (classes, embed) of the classes that were fitted on.

    fitted: the class of each row of `head`. Other classes are answered by the tuned text encoder.
    """

    model: LoraModel
    norms: Own
    head: Tensor
    fitted: Vocabulary
    backbone: Backbone
    asked: Vocabulary

    @torch.no_grad()
    def logits(self, queries: Images) -> Tensor:
        """(n, classes): unit features of the tuned image encoder times those of the classes."""
        model = self.model.merged(self.norms)
        return model.predict(queries, self._class_features(model))

    def _class_features(self, model: LoraModel) -> Tensor:
        head, names, asked = unit(self.head), self.fitted.classnames, self.asked.classnames
        if asked == names:
            return head
        known = {name: row for row, name in enumerate(names) if names.count(name) == 1}
        features = model.class_features(None)
        rows = [
            head[known[name]] if name in known else features[place]
            for place, name in enumerate(asked)
        ]
        return torch.stack(rows)

    def for_classes(self, vocabulary: Vocabulary) -> TwoStageClassifier:
        """Classes that were fitted on by the head, others by their prompts."""
        model = self.model.for_classes(vocabulary, self.backbone)
        return replace(self, model=model, asked=vocabulary)

    def tensors(self) -> Mapping[str, Tensor]:
        """The norms, and the head."""
        return self.norms.named_tensors() | {"head": self.head}


@dataclass(frozen=True)
class TwoStage:
    """2SFS (Farina et al., CVPR 2025): two stages of few-shot adaptation.

    The norms of the blocks of both encoders are trained for the first `share` of the steps, as by
    `ln-tuning`; then the encoders stay and a linear head is trained that starts at the class
    features of the tuned text encoder. Classes of the head are answered by it, others by the text
    encoder: the list of classes decides.
    """

    name: ClassVar[str] = "2sfs"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        SCHEDULE, at_test="which classes were fitted on", deviations=COMMON
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
        require_steps(self)
        require(self, "share", 0 < self.share < 1, "a share in (0, 1)")

    @property
    def first_stage(self) -> LnTuning:
        """The method of the first stage, with the same settings."""
        return LnTuning(self.lr, self.weight_decay, self.batch_size, self.iterations)

    def quick(self) -> TwoStage:
        """Few steps, for the conformance kit."""
        return replace(self, iterations=4)

    def views_per_image(self, shots: int, classes: int) -> int:
        """None: both stages encode their images."""
        return 0

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> TwoStageClassifier:
        """Trains norms, then the head."""
        total = self.iterations * task.shots
        steps = max(1, int(self.share * total))
        batches = pixel_batches(
            task.train, self.batch_size, backbone.device, ctx, augment=Augment(), drop_last=False
        )
        tuned = self.first_stage.trained(task, backbone, ctx, steps, batches, of=total)
        with torch.no_grad():
            model = tuned.model.merged(tuned.adapter)
            head = torch.nn.Parameter(model.class_features(None).clone())

        def backward(batch: Tensor, labels: Tensor, scale: Scale) -> None:
            with torch.no_grad():
                features = model.image_features(batch, None)
            loss = F.cross_entropy(model.scale * features @ unit(head).T, labels)
            torch.autograd.backward(scale(loss))

        rest = Schedule(
            max(1, total - steps), self.lr, LAST_RATE, self.weight_decay, done=steps, of=total
        )
        rest.train([head], backward, batches, ctx)
        asked = Vocabulary(task.classnames, task.templates)
        norms = Own(tuned.adapter.named_tensors())
        return TwoStageClassifier(tuned.model, norms, head.detach(), asked, backbone, asked)

    @torch.no_grad()
    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> TwoStageClassifier:
        """The norms and the head that were kept."""
        model = self.first_stage.model(vocabulary, backbone, WithoutRun(backbone))
        norms = Own({name: one for name, one in tensors.items() if name != "head"})
        asked = Vocabulary(vocabulary.classnames, vocabulary.templates)
        return TwoStageClassifier(model, norms, tensors["head"], asked, backbone, asked)
