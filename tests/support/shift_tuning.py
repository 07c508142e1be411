"""A method with a training loop of its own on pixels, and an adapter of the image tower."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Augment, Backbone, Images, RunContext, Task, Vocabulary, hyper
from fewshot_bench.backbones import ImageTower, Site


@dataclass(frozen=True)
class Shifted:
    """CLIP with a vector added to the output of every MLP; it is the adapter of its own tower."""

    tower: ImageTower
    shift: Tensor
    classes: Tensor
    scale: float

    def delta(self, site: Site, x: Tensor) -> Tensor | None:
        """What is added at a site, for every token; None where nothing is adapted."""
        if site.matrix != "proj":
            return None
        return self.shift[site.layer].expand(*x.shape[:-1], -1)

    def of(self, pixels: Tensor) -> Tensor:
        """(b, classes) scaled cosines of a batch."""
        features = F.normalize(self.tower.encode(pixels, self), dim=-1)
        return self.scale * features @ self.classes.T

    def logits(self, queries: Images) -> Tensor:
        """(n, classes) scaled cosines."""
        batches = queries.batches(64, device=self.classes.device)
        return torch.cat([self.of(pixels) for pixels in batches])

    def tensors(self) -> Mapping[str, Tensor]:
        """The shifts by layer, and the class features."""
        return {"shift": self.shift, "classes": self.classes}


@dataclass(frozen=True)
class ShiftTuning:
    """Learns one vector per block, added to the output of its MLP."""

    name: ClassVar[str] = "shift-tuning"
    steps: int = hyper(20, "optimizer steps")
    rate: float = hyper(1e-3, "learning rate of AdamW")

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Shifted:
        """Train on augmented images, in batches of 32."""
        tower, classes = backbone.image_tower(), backbone.class_features(task)
        shift = torch.zeros(tower.layers, tower.width, device=ctx.device, requires_grad=True)
        model = Shifted(tower, shift, classes, backbone.logit_scale)

        def loss(pixels: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(model.of(pixels), labels)

        step = ctx.train_step(loss, torch.optim.AdamW([shift], lr=self.rate))
        count, rng = len(task.train), ctx.rng("batches")
        orders = (torch.randperm(count, generator=rng)[:32] for _ in range(self.steps))
        how = {"labels": True, "augment": Augment(), "rng": ctx.rng("augment")}
        batches = task.train.batches(32, order=orders, device=ctx.device, **how)
        for done, (pixels, labels) in enumerate(batches, 1):
            step(pixels, labels)
            ctx.progress(done, self.steps)
        return replace(model, shift=shift.detach())

    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> Shifted:
        """From what `tensors()` gave."""
        return Shifted(backbone.image_tower(), **tensors, scale=backbone.logit_scale)
