"""Trained weights of both encoders: norms, biases, or what weights are computed from.

`WeightTuning` is what such methods share; each says which weights it trains, as `Weights`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from fewshot_bench import Augment, Backbone, RunContext, Task, Vocabulary, hyper
from fewshot_bench.backbones import ImageTower, TextTower
from fewshot_bench.training import (
    Encoding,
    Scale,
    WithoutRun,
    pixel_batches,
    require,
    require_not_negative,
    require_positive,
)
from fsbench_methods.encoder_training import Batches, Schedule
from fsbench_methods.lora_layers import Change
from fsbench_methods.lora_model import (
    LoraClassifier,
    LoraModel,
    MergedClassifier,
    model_of,
    restored,
)

LAST_RATE = 1e-6


class Weights(Change, Protocol):
    """Trained values, and the tensors of the towers that follow from them."""

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of the towers, such as `vision.blocks.0.ln_1.weight`; differentiable."""
        ...

    def parameters(self) -> list[Tensor]:
        """What is trained."""
        ...

    def detached(self) -> Weights:
        """The same for prediction."""
        ...


def of_encoder(tensors: Mapping[str, Tensor], encoder: str) -> dict[str, Tensor]:
    """The tensors of one encoder, by the names that its tower has."""
    start = f"{encoder}."
    return {name[len(start) :]: one for name, one in tensors.items() if name.startswith(start)}


def tower_tensors(model: LoraModel) -> dict[str, Tensor]:
    """Every tensor of the towers of a model, by encoder and name."""
    towers = {"vision": model.vision, "text": model.text}
    return {
        f"{encoder}.{name}": one
        for encoder, tower in towers.items()
        if tower is not None
        for name, one in tower.parameters().items()
    }


@dataclass(frozen=True)
class Own:
    """Tensors of the towers that are trained themselves, by encoder and name, in float32."""

    values: Mapping[str, Tensor]

    @classmethod
    def copied(cls, model: LoraModel, chosen: Callable[[str], bool]) -> Own:
        """Parameters with the values of the chosen tensors of a model."""
        found = tower_tensors(model)
        return cls(
            {
                name: torch.nn.Parameter(one.detach().float().clone())
                for name, one in found.items()
                if chosen(name)
            }
        )

    def applied(
        self, vision: ImageTower | None, text: TextTower | None
    ) -> tuple[ImageTower | None, TextTower | None]:
        """The towers with these tensors."""
        own = {encoder: of_encoder(self.values, encoder) for encoder in ("vision", "text")}
        changed = None if vision is None else vision.with_parameters(own["vision"])
        return changed, None if text is None else text.with_parameters(own["text"])

    def tensors(self) -> dict[str, Tensor]:
        """Themselves."""
        return dict(self.values)

    def parameters(self) -> list[Tensor]:
        """All of them."""
        return list(self.values.values())

    def detached(self) -> Own:
        """The same without gradients."""
        return Own({name: one.detach() for name, one in self.values.items()})

    def named_tensors(self) -> dict[str, Tensor]:
        """All of them by name."""
        return dict(self.values)


def backward(
    model: LoraModel, weights: Weights, batch: Tensor, labels: Tensor, scale: Scale
) -> None:
    """Add the gradients of the scaled loss of a batch to those of trained weights.

    Gradients meet at the tensors of the towers, so that parts of a step share what led to them.
    """
    tensors = weights.tensors()
    leaves = {name: one.detach().requires_grad_() for name, one in tensors.items()}
    model.merged(Own(leaves)).backward(batch, labels, None, scale)
    met = [name for name, leaf in leaves.items() if leaf.grad is not None]
    torch.autograd.backward([tensors[n] for n in met], [leaves[n].grad for n in met])


def require_steps(method: Any) -> None:
    """UsageError for values of a method's training that are out of range."""
    require_positive(method, "lr", "batch_size", "iterations")
    expected = f"at least {LAST_RATE}, where the cosine ends"
    require(method, "lr", method.lr >= LAST_RATE, expected)
    require_not_negative(method, "weight_decay")


@dataclass(frozen=True)
class WeightTuning(ABC):
    """Weights of both encoders, trained with cross-entropy by AdamW along a cosine."""

    name: ClassVar[str]

    lr: float = hyper(2e-4, "learning rate of AdamW")
    weight_decay: float = hyper(1e-2, "weight decay of AdamW")
    batch_size: int = hyper(32, "images per step", unit="images")
    iterations: int = hyper(300, "training steps per shot", unit="steps/shot")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_steps(self)

    def quick(self) -> Any:
        """A short schedule for the conformance kit."""
        return replace(self, iterations=2)

    def views_per_image(self, shots: int, classes: int) -> int:
        """None: every step encodes its images."""
        return 0

    @abstractmethod
    def weights(self, model: LoraModel, backbone: Backbone) -> Weights:
        """What is trained, with the values that CLIP has."""

    @abstractmethod
    def kept(self, tensors: Mapping[str, Tensor], model: LoraModel, backbone: Backbone) -> Weights:
        """The weights that gave these tensors."""

    @abstractmethod
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        """Trains on a task."""

    def model(self, vocabulary: Vocabulary, backbone: Backbone, ctx: Encoding) -> LoraModel:
        """The frozen model."""
        return model_of(backbone, vocabulary, ctx, vision=True, text=True)

    def trained(
        self,
        task: Task,
        backbone: Backbone,
        ctx: RunContext,
        steps: int,
        batches: Batches | None = None,
        of: int = 0,
    ) -> LoraClassifier[Weights]:
        """The model after `steps` steps. of: all steps, where other ones follow."""
        size, device = min(self.batch_size, len(task.train)), backbone.device
        model = self.model(task, backbone, ctx).within_memory(size, device, ctx.memory_parts)
        if model.recompute:
            ctx.note(recomputed=sorted(model.recompute))
        weights = self.weights(model, backbone)
        schedule = Schedule(steps, self.lr, LAST_RATE, self.weight_decay, of=of)
        if batches is None:
            batches = pixel_batches(
                task.train, self.batch_size, device, ctx, augment=Augment(), drop_last=False
            )
        step = partial(backward, model, weights)
        schedule.train(weights.parameters(), step, batches, ctx)
        return LoraClassifier(model, weights.detached(), backbone)

    @torch.no_grad()
    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> MergedClassifier:
        """CLIP with the weights that were kept."""
        model = self.model(vocabulary, backbone, WithoutRun(backbone))
        return restored(model, self.kept(tensors, model, backbone))
