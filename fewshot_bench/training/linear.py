"""The linear classifier on unit image features that methods on frozen features return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_bench.api.task import Images


@dataclass(frozen=True)
class LinearClassifier:
    """Weight (classes, embed), including the scale, and bias (classes,) on unit image features.

    >>> LinearClassifier(backbone.logit_scale * text).logits(queries)
    """

    weight: Tensor
    bias: Tensor | None = None

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): f W' + b."""
        product = queries.features @ self.weight.T
        return product if self.bias is None else product + self.bias

    def tensors(self) -> Mapping[str, Tensor]:
        """The weight, and the bias if there is one."""
        weight = {"weight": self.weight}
        return weight if self.bias is None else weight | {"bias": self.bias}


def linear_start(outputs: int, inputs: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight (outputs, inputs) and bias (outputs,), initialized as in torch.nn.Linear.

    Uniform within +-1 / sqrt(inputs), the weight drawn first.

    >>> weight, bias = linear_start(10, 512, ctx.rng("init"))
    """
    bound = inputs**-0.5
    shapes: tuple[tuple[int, ...], ...] = ((outputs, inputs), (outputs,))
    weight, bias = (torch.empty(shape).uniform_(-bound, bound, generator=rng) for shape in shapes)
    return weight, bias
