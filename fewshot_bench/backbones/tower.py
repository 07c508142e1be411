"""Base of towers, as far as it depends on blocks: sizes, tensors by name, merged updates.

`Tower` is the base of all towers; each adds `encode` and the parts around its blocks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Concatenate, ParamSpec, Self, TypeVar

import torch
from torch import Tensor

from fewshot_bench.api.backbone import Encoder, Factors, Site
from fewshot_bench.backbones.parameters import (
    factored,
    in_dtype,
    names_of_norms,
    replaced,
    tower_parameters,
)
from fewshot_bench.backbones.transformer import Block
from fewshot_bench.utils.devices import fewer_kernels


@dataclass(frozen=True)
class Tower:
    """Frozen blocks of one encoder; `exact` is the tower in float32 whose tensors it rounds."""

    encoder: ClassVar[Encoder]
    in_float32: ClassVar[frozenset[str]] = frozenset()
    """Names of tensors that stay in float32: a step reads few of their rows, or none."""

    blocks: tuple[Block, ...]
    exact: Self | None = field(default=None, kw_only=True)

    @property
    def precision(self) -> tuple[str, torch.dtype]:
        """Type of the device, and dtype in which the run computes: that of the blocks' matrices."""
        matrix = self.blocks[0].weight("o")
        return matrix.device.type, matrix.dtype

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """Size of the residual stream."""
        return self.blocks[0].width

    @property
    def heads(self) -> int:
        """Heads of attention in every block; 0 without blocks."""
        return self.blocks[0].heads if self.blocks else 0

    def at(self, dtype: torch.dtype) -> Self:
        """This tower for runs in `dtype`."""
        if dtype == torch.float32:
            return self
        return dataclasses.replace(in_dtype(self, dtype, self.in_float32), exact=self)

    def rounded(self, x: Tensor) -> Tensor:
        """The input of the blocks: in their dtype on accelerators, so that nothing is cast there.

        On a CPU, the residual stream of texts stays in float32.
        """
        return x.to(self.precision[1]) if fewer_kernels(x.device) else x

    def parameters(self) -> dict[str, Tensor]:
        """Every frozen tensor by name, such as `blocks.0.ln_1.weight` or `projection`."""
        return tower_parameters(self.exact or self)

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Self:
        """A tower with these tensors in place of its own, differentiable in them."""
        if self.exact is None:
            return replaced(self, parameters)
        exact = replaced(self.exact, parameters)
        own = tower_parameters(exact)
        norms = {name: own[name] for name in names_of_norms(parameters)}
        return dataclasses.replace(replaced(self, {**parameters, **norms}), exact=exact)

    def with_factors(self, factors: Mapping[str, Factors]) -> Self:
        """A tower that multiplies by these factors in place of whole matrices."""
        return factored(self, factors)

    def weight(self, site: Site) -> Tensor:
        """(d_out, d_in) the frozen matrix at `site`; fc of a gated MLP holds gates, then values."""
        blocks = (self.exact or self).blocks
        return blocks[site.within(self.layers).layer].weight(site.matrix)

    def with_deltas(self, deltas: dict[Site, Tensor]) -> Self:
        """A tower with (d_out, d_in) deltas merged into its matrices, in float32.

        Sites of the other encoder are skipped. In 16 bits, the sum is rounded: a delta that is
        small beside a rounded matrix would be lost.
        """
        blocks, merged = (self.exact or self).blocks, dict[str, Tensor]()
        for site, delta in deltas.items():
            if site.encoder == self.encoder:
                block = blocks[site.within(self.layers).layer]
                part, rows = block.locate(site.matrix)
                name = f"blocks.{site.layer}.{part}"
                if name not in merged:
                    merged[name] = block.parts[part].clone()
                merged[name][rows] += delta.to(merged[name])
        return self.with_parameters(merged)


_Tower = TypeVar("_Tower", bound=Tower)
_Inputs = ParamSpec("_Inputs")
_Encode = Callable[Concatenate[_Tower, _Inputs], Tensor]


def at_its_precision(encode: _Encode[_Tower, _Inputs]) -> _Encode[_Tower, _Inputs]:
    """`encode` under autocast at the tower's precision, to float32 features.

    Within an autocast context of the caller, it runs in that one, and features keep its dtype.
    """

    def run(self: _Tower, /, *inputs: _Inputs.args, **named: _Inputs.kwargs) -> Tensor:
        device, dtype = self.precision
        if dtype == torch.float32 or torch.is_autocast_enabled(device):
            return encode(self, *inputs, **named)
        with torch.autocast(device, dtype):
            return encode(self, *inputs, **named).float()

    functools.update_wrapper(run, encode)
    return run
