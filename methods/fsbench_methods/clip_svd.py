"""CLIP-SVD: trained singular values of the matrices of both encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Task, hyper
from fewshot_bench.backbones import ImageTower, TextTower
from fewshot_bench.training import Derived, once_for
from fsbench_methods.lora_model import LoraClassifier, LoraModel
from fsbench_methods.tuned_weights import Own, Weights, WeightTuning, tower_tensors

_QKV = "attn.in_proj_weight"
_MATRICES = (_QKV, "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_CODE = "CLIP-SVD (Koleilat et al. 2025)"


@dataclass(frozen=True)
class Spectrum:
    """W (d_out, d_in) of one tensor, and U (parts, rows, r) and V' (parts, r, d_in) of its parts.

    A tensor of q, k and v has three parts. start: the singular values (parts, r) of W.
    """

    weight: Tensor
    left: Tensor
    start: Tensor
    right: Tensor

    def moved(self, values: Tensor) -> Tensor:
        """U diag(values) V', written as W + U diag(values - start) V': W exactly at the start."""
        change = self.left * (values - self.start).unsqueeze(-2) @ self.right
        return self.weight + change.reshape(self.weight.shape)


@torch.no_grad()
def decomposed(matrices: Mapping[str, Tensor]) -> Derived:
    """U, the singular values and V' of the parts of every tensor, in float32."""
    found = {}
    for name, one in matrices.items():
        parts = one.view(3 if name.endswith(_QKV) else 1, -1, one.shape[1])
        found[name] = torch.linalg.svd(parts, full_matrices=False)
    return found


@dataclass(frozen=True)
class Spectra:
    """Trained singular values (parts, r) by the tensor that they are of."""

    values: Mapping[str, Tensor]
    frozen: Mapping[str, Spectrum]

    @classmethod
    def of(
        cls, model: LoraModel, backbone: Backbone, values: Mapping[str, Tensor] | None = None
    ) -> Spectra:
        """Of the matrices of a model; without values, parameters at those of CLIP."""
        matrices = {
            name: one.float()
            for name, one in tower_tensors(model).items()
            if ".blocks." in name and name.endswith(_MATRICES)
        }
        parts = once_for(backbone, ClipSvd.name, lambda: decomposed(matrices))
        frozen = {name: Spectrum(one, *parts[name]) for name, one in matrices.items()}
        if values is None:
            values = {n: torch.nn.Parameter(one.start.clone()) for n, one in frozen.items()}
        return cls(values, frozen)

    def tensors(self) -> dict[str, Tensor]:
        """Every matrix with its singular values."""
        return {name: one.moved(self.values[name]) for name, one in self.frozen.items()}

    def applied(
        self, vision: ImageTower | None, text: TextTower | None
    ) -> tuple[ImageTower | None, TextTower | None]:
        """The towers with these matrices."""
        return Own(self.tensors()).applied(vision, text)

    def parameters(self) -> list[Tensor]:
        """The singular values."""
        return list(self.values.values())

    def detached(self) -> Spectra:
        """The same without gradients."""
        return replace(self, values={name: one.detach() for name, one in self.values.items()})

    def named_tensors(self) -> dict[str, Tensor]:
        """The singular values; the vectors are those of the backbone."""
        return dict(self.values)


@dataclass(frozen=True)
class ClipSvd(WeightTuning):
    """CLIP-SVD (Koleilat et al. 2025): singular values of all matrices of all blocks are trained.

    q, k, v, the output of attention and both matrices of the MLP are W = U diag(S) V'; S moves, U,
    V and biases stay. Weight decay pulls S to 0, as in the published code. Kept models hold S: U
    and V are computed from the backbone, once for all fits and models of a process.
    """

    name: ClassVar[str] = "clip-svd"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "clip-svd-200 per shot",
        official={"epochs, templates": "differ in base-to-new; one schedule here"},
        deviations=(
            "16 bits are trained with a loss scaler: the official code has none",
            "several templates are averaged, and the scale of logits is the backbone's own",
        ),
    )

    lr: float = hyper(5e-4, "learning rate of AdamW", source=f"{_CODE}, few-shot scripts")
    iterations: int = hyper(
        200, "training steps per shot", unit="steps/shot", source=f"{_CODE}, train.py:121"
    )

    def weights(self, model: LoraModel, backbone: Backbone) -> Spectra:
        """The singular values of CLIP's matrices."""
        return Spectra.of(model, backbone)

    def kept(self, tensors: Mapping[str, Tensor], model: LoraModel, backbone: Backbone) -> Spectra:
        """The singular values that were kept."""
        return Spectra.of(model, backbone, tensors)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LoraClassifier[Weights]:
        """Trains the singular values."""
        return self.trained(task, backbone, ctx, self.iterations * task.shots)
