"""ProLIP: the projection of the image encoder, held near CLIP's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Augment, Backbone, MethodCard, RunContext, Task, Vocabulary, hyper
from fewshot_bench.training import (
    Encoding,
    WithoutRun,
    cosine,
    epoch_views,
    minimize,
    require,
    require_not_negative,
    require_positive,
    set_rate,
    unit,
)
from fsbench_methods.lora_model import (
    LoraClassifier,
    LoraModel,
    MergedClassifier,
    model_of,
    restored,
)
from fsbench_methods.tuned_weights import Own

PROJECTION = "vision.projection"
_CODE = "ProLIP (Fahes et al. 2024)"
# The official code adds this to the root of Adam's second moment.
_EPSILON = 1e-4


@dataclass(frozen=True)
class ProLip:
    """ProLIP (Fahes et al. 2024), its variant without validation images.

    The projection of the image encoder alone is trained, with cross-entropy and `penalty` / shots
    times the squared distance to CLIP's. Step i sees the i-th of `iterations` augmented views of
    all support images at once; text features stay.
    """

    name: ClassVar[str] = "prolip"
    version: ClassVar[str] = "1"
    unprojected_views: ClassVar[bool] = True
    card: ClassVar[MethodCard] = MethodCard(
        "prolip-300 (full batch)",
        official={"templates": "seven on ImageNet, one elsewhere"},
        deviations=(
            "the projection is trained in float32, not in half precision",
            "the scale of logits is the backbone's own, not 100",
        ),
    )

    iterations: int = hyper(300, "steps, each on a view of its own", source=_CODE)
    lr: float = hyper(
        1e-5, "learning rate of Adam", source=f"{_CODE}, few_shot_no_val_lr1e-5_lambda_1_N.sh"
    )
    penalty: float = hyper(1.0, "weight of the distance, times shots", source=f"{_CODE}, 1/N")
    crop: float = hyper(0.5, "smallest crop, as a share of the area", source=_CODE)

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_positive(self, "iterations", "lr")
        require_not_negative(self, "penalty")
        require(self, "crop", 0 < self.crop <= 1, "a share in (0, 1]")

    def quick(self) -> ProLip:
        """Few views, for the conformance kit."""
        return replace(self, iterations=4, lr=1e-3)

    def views_per_image(self, shots: int, classes: int) -> int:
        """One per step, of which the rows before the projection are kept."""
        return self.iterations

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LoraClassifier[Own]:
        """Trains the projection."""
        model = self._model(task, backbone, ctx)
        own = Own.copied(model, lambda name: name == PROJECTION)
        assert model.vision is not None
        assert model.frozen_text is not None
        (projection,) = own.parameters()
        start, weight = projection.detach().clone(), self.penalty / task.shots
        optimizer = torch.optim.Adam([projection], lr=self.lr, eps=_EPSILON, fused=True)
        scaler, labels = ctx.scaler(), task.train.labels
        crop = Augment(scale=(self.crop, 1.0))
        views = epoch_views(task.train, self.iterations, crop, model.vision.width, projected=False)
        for step, rows in enumerate(views):
            set_rate(optimizer, cosine(self.lr, step, self.iterations))
            logits = model.scale * unit(rows @ projection) @ model.frozen_text.T
            distance = (projection - start).square().sum()
            minimize(F.cross_entropy(logits, labels) + weight * distance, optimizer, scaler)
            ctx.progress(step + 1, self.iterations)
        return LoraClassifier(model, own.detached(), backbone)

    def _model(self, vocabulary: Vocabulary, backbone: Backbone, ctx: Encoding) -> LoraModel:
        return model_of(backbone, vocabulary, ctx, vision=True, text=False)

    @torch.no_grad()
    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> MergedClassifier:
        """CLIP with the projection that was kept."""
        return restored(self._model(vocabulary, backbone, WithoutRun(backbone)), Own(tensors))
