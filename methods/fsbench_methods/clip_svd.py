"""CLIP-SVD: trained singular values of the matrices of both encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Vocabulary, hyper
from fewshot_bench.backbones import Factors
from fewshot_bench.training import Encoders, Learned, StepLearner
from fewshot_bench.training.provisional import (
    Derived,
    EncoderHooks,
    EncoderModel,
    Encoding,
    once_for,
)
from fsbench_methods import papers

_QKV = "attn.in_proj_weight"
_MATRICES = (_QKV, "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_CODE = "CLIP-SVD (Koleilat et al. 2025)"


@dataclass(frozen=True)
class Spectrum:
    """A weight W (d_out, d_in) and the SVD of its parts: U (parts, rows, r), V' (parts, r, d_in).

    A fused q, k, v tensor has three parts, others one. start: singular values (parts, r) of W.
    factors: U, the first values and V', with U and V' in the dtype of the run.
    """

    weight: Tensor
    left: Tensor
    start: Tensor
    right: Tensor
    factors: Factors

    def moved(self, values: Tensor) -> Tensor:
        """U diag(values) V', written as W + U diag(values - start) V': W exactly at the start."""
        change = self.left * (values - self.start).unsqueeze(-2) @ self.right
        return self.weight + change.reshape(self.weight.shape)


@torch.no_grad()
def decomposed(matrices: Mapping[str, Tensor]) -> Derived:
    """U, the singular values and V' of the parts of every tensor, in float32."""
    factors = {}
    for name, matrix in matrices.items():
        parts = matrix.float().view(3 if name.endswith(_QKV) else 1, -1, matrix.shape[1])
        factors[name] = torch.linalg.svd(parts, full_matrices=False)
    return factors


@dataclass(frozen=True)
class Spectra(EncoderHooks):
    """The decomposed matrices of all blocks of both encoders, by tensor name."""

    frozen: Mapping[str, Spectrum]

    @classmethod
    def of(cls, backbone: Backbone, dtype: torch.dtype = torch.float32) -> Spectra:
        """The decomposed matrices of a backbone; the SVD is computed once per backbone.

        dtype: that in which towers compute.
        """
        every = Encoders(backbone.image_tower(), backbone.text_tower()).parameters()
        matrices = {
            name: matrix
            for name, matrix in every.items()
            if ".blocks." in name and name.endswith(_MATRICES)
        }
        parts = once_for(backbone, ClipSvd.name, lambda: decomposed(matrices))
        frozen = {}
        for name, matrix in matrices.items():
            left, start, right = parts[name]
            factors = Factors(left.to(dtype), start, right.to(dtype))
            frozen[name] = Spectrum(matrix.float(), left, start, right, factors)
        return cls(frozen)

    def encoders(self, learned: Learned, frozen: Encoders) -> Encoders:
        """Towers that multiply by U, the learned singular values (parts, r) and V' in turn."""
        return frozen.with_factors(
            {
                name: replace(spectrum.factors, values=learned[name])
                for name, spectrum in self.frozen.items()
            }
        )

    def merged(self, learned: Learned, frozen: Encoders) -> Encoders:
        """Towers with every matrix rebuilt from the learned singular values."""
        return frozen.with_parameters(
            {name: spectrum.moved(learned[name]) for name, spectrum in self.frozen.items()}
        )


@dataclass(frozen=True)
class ClipSvd(StepLearner):
    """CLIP-SVD (Koleilat et al. 2025): trains the singular values of all matrices of all blocks.

    q, k, v, the attention output and both MLP matrices are decomposed as W = U diag(S) V'; only S
    is trained, U, V and biases are frozen. Weight decay pulls S toward 0, as in the published code.
    Training multiplies by V, S and U in turn, which is CLIP up to rounding at the start; prediction
    uses matrices rebuilt once, W + U diag(S - S0) V'.
    Saved models contain S; U and V are recomputed from the backbone, once for all fits and models
    of a process.
    """

    name: ClassVar[str] = "clip-svd"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "clip-svd-200 per shot",
        family="weights inside",
        paper=papers.OF_METHOD["clip-svd"],
        cost="minutes",
        trained=lambda s: 6 * s.blocks,
        official={
            "epochs, lr, templates": "others in base-to-new (4e-4, an oscillating rate) and in "
            "cross-dataset runs (10 epochs); one schedule here"
        },
        deviations=(
            "16 bits are trained with a loss scaler: the official code has none",
            "several templates are averaged, and the scale of logits is the backbone's own",
            "the template of Food101 in few-shot runs is officially `a photo of a {}, a type of "
            "food.`, here the run's",
        ),
    )

    lr: float = hyper(5e-4, "learning rate of AdamW", source=f"{_CODE}, few-shot scripts")
    iterations: int = hyper(
        200, "training steps per shot", unit="steps/shot", source=f"{_CODE}, train.py:121"
    )

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """The singular values of CLIP's matrices."""
        return {name: spectrum.start for name, spectrum in Spectra.of(backbone).frozen.items()}

    def model(self, task: Vocabulary, backbone: Backbone, ctx: Encoding) -> EncoderModel:
        """The frozen part of the model, including U and V."""
        device, dtype = backbone.device.type, torch.float32
        with ctx.autocast():
            if torch.is_autocast_enabled(device):
                dtype = torch.get_autocast_dtype(device)
        return replace(super().model(task, backbone, ctx), hooks=Spectra.of(backbone, dtype))
