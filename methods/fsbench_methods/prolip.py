"""ProLIP: trains the projection of the image encoder, regularized toward CLIP's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import (
    Augment,
    Backbone,
    MethodCard,
    Published,
    RunContext,
    Task,
    UnsupportedBackboneError,
    Vocabulary,
    hyper,
)
from fewshot_bench.backbones import ImageTower, ProjectingBackbone
from fewshot_bench.training import (
    Encoders,
    Learned,
    cosine,
    epoch_views,
    require,
    require_not_negative,
    require_positive,
    unit,
)
from fewshot_bench.training.provisional import (
    EncoderClassifier,
    EncoderHooks,
    EncoderModel,
    Encoding,
    WithoutRun,
)
from fsbench_methods import papers

PROJECTION, BIAS = "vision.projection", "vision.projection_bias"
_CODE = "ProLIP (Fahes et al. 2024)"
# The official code adds this to the root of Adam's second moment.
_EPSILON = 1e-4


@dataclass(frozen=True)
class ProLip(EncoderHooks):
    """ProLIP (Fahes et al. 2024), the variant without validation images.

    Only the projection of the image encoder is trained, with cross-entropy plus `penalty` / shots
    times the squared distance to CLIP's projection; the bias that a ResNet adds stays as it is.
    Each step uses the whole support set: step i sees the i-th of `iterations` augmented views of
    all images. Text features are frozen.
    """

    name: ClassVar[str] = "prolip"
    version: ClassVar[str] = "2"
    unprojected_views: ClassVar[bool] = True
    card: ClassVar[MethodCard] = MethodCard(
        "prolip-300 (full batch)",
        family="weights inside",
        paper=papers.OF_METHOD["prolip"],
        cost="minutes",
        trained=lambda s: s.vision * s.features,
        official={"templates": "seven on ImageNet, one elsewhere"},
        deviations=(
            "projection, gradient and Adam's moments are in float32; in half precision, as "
            "published, second moments of gradients below 5e-3 underflow to 0, and at small "
            "learning rates Adam is momentum SGD with 1 / eps times the rate",
            "the published rows at a rate of 1e-5 are of that optimizer: in float32 no weight "
            "moves by more than 1.5e-3 in the whole fit; 1e-3 was published too, and is not worse "
            "(75.73 against 75.20 at 16 shots, ResNet-50)",
            "few-shot rows were published with ResNet-50 alone: those on ViTs are other people's",
            "the scale of logits is the backbone's own, not 100",
        ),
        published=(
            Published(
                {"lr": 1e-5},
                base_to_new=True,
                source=f"{_CODE}, configs/experiments/base_to_new_VITB16.yaml",
            ),
        ),
    )

    iterations: int = hyper(300, "steps, each on a view of its own", source=_CODE)
    lr: float = hyper(
        1e-3, "learning rate of Adam", source=f"{_CODE}, few_shot_no_val_lr1e-3_lambda_1_N.sh"
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
        """One view per step, whose features before the projection are cached."""
        return self.iterations

    def fit_bytes(self, images: int, classes: int, width: int) -> int:
        """The logits of all images with their gradients."""
        return 10 * 4 * images * classes

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> EncoderClassifier:
        """Trains the projection."""
        model = self.model(task, backbone, ctx)
        assert model.frozen.vision is not None
        assert model.fixed is not None
        frozen = model.frozen.parameters()
        start = frozen[PROJECTION].detach().float().clone()
        bias = frozen[BIAS].float() if BIAS in frozen else start.new_zeros(())
        projection, weight = torch.nn.Parameter(start.clone()), self.penalty / task.shots
        optimizer = torch.optim.Adam([projection], lr=self.lr, eps=_EPSILON, fused=True)
        fixed, labels = model.fixed, task.train.labels

        def loss(rows: Tensor) -> Tensor:
            logits = model.scale * unit(rows @ projection + bias) @ fixed.T
            distance = F.mse_loss(projection, start, reduction="sum")
            return F.cross_entropy(logits, labels) + weight * distance

        take = ctx.train_step(loss, optimizer)
        crop, width = Augment(scale=(self.crop, 1.0)), model.frozen.vision.width
        views = epoch_views(task.train, self.iterations, crop, width, projected=False)
        for step, rows in enumerate(views):
            take(rows, rate=cosine(self.lr, step, self.iterations))
            ctx.progress(step + 1, self.iterations)
        return self._fit({PROJECTION: projection.detach()}, task, backbone, ctx)

    def model(self, task: Vocabulary, backbone: Backbone, ctx: Encoding) -> EncoderModel:
        """The frozen part of the model, with fixed class features.

        UnsupportedBackboneError if the image encoder ends in no projection.
        """
        frozen = Encoders(_tower(backbone), None)
        if PROJECTION not in frozen.parameters():
            raise UnsupportedBackboneError(
                f"{self.name}: the image encoder of {backbone.name} ends in no projection that "
                "could be trained; use another method, or a backbone with one (ViT-B-16/openai)"
            )
        fixed = backbone.class_features(task)
        scale, names = backbone.logit_scale, task.classnames
        return EncoderModel(self, names, frozen, (), fixed, scale, ctx.autocast)

    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> EncoderClassifier:
        """Rebuild the classifier from the saved projection."""
        return self._fit(tensors, vocabulary, backbone, WithoutRun(backbone)).ahead()

    def _fit(
        self, learned: Learned, task: Vocabulary, backbone: Backbone, ctx: Encoding
    ) -> EncoderClassifier:
        model_for = partial(self.model, backbone=backbone, ctx=ctx)
        return EncoderClassifier(model_for(task), learned, model_for)


def _tower(backbone: Backbone) -> ImageTower:
    """The image encoder of a backbone, ResNets included."""
    if isinstance(backbone, ProjectingBackbone):
        return backbone.projection_tower()
    return backbone.image_tower()
