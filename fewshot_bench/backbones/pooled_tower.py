"""ResNets of CLIP as pooled rows and the projection that ends them.

`read_pooled_tower` is the entry point; features equal those of the model's own image encoder. The
network before the projection stays as it is: it has no blocks that a method could change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.api.backbone import Adapter, Edits, Encoder
from fewshot_bench.backbones.tower import Tower, at_its_precision
from fewshot_bench.profiling.cost import count, tell_pixels
from fewshot_bench.utils.errors import UnsupportedBackboneError

_STAGES = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class PooledTower(Tower):
    """A frozen network from pixels to pooled rows (b, width), and the projection of these rows."""

    encoder: ClassVar[Encoder] = "vision"

    pool: Callable[[Tensor], Tensor]
    projection: Tensor
    projection_bias: Tensor
    dtype: torch.dtype

    @property
    def precision(self) -> tuple[str, torch.dtype]:
        """Type of the device, and dtype in which the run computes; all weights are float32."""
        return self.projection.device.type, self.dtype

    @property
    def width(self) -> int:
        """Width of a pooled row."""
        return self.projection.shape[0]

    @property
    def tokens(self) -> int:
        """One pooled row per image."""
        return 1

    @at_its_precision
    def encode(
        self,
        pixels: Tensor,
        adapter: Adapter | None = None,
        *,
        edits: Edits | None = None,
        recompute: bool = False,
        start: int = 0,
    ) -> Tensor:
        """(b, 3, h, w) preprocessed pixels to (b, embed) raw features; (b, width) not projected.

        UnsupportedBackboneError for adapters and other edits. Nothing is recomputed, and `start` is
        0: there are no blocks.
        """
        if adapter is not None or (edits and edits != Edits(projected=edits.projected)):
            raise UnsupportedBackboneError(
                "the image encoder is a ResNet, which takes no adapter and no edit but "
                "Edits(projected=False)"
            )
        tell_pixels(pixels)
        count(images=pixels.shape[0], uncounted=pixels.shape[0])
        rows = self.pool(pixels)
        if edits and not edits.projected:
            return rows
        return F.linear(rows, self.projection.T, self.projection_bias)

    def advance(self, pixels: Tensor, layer: int) -> Tensor:
        """UnsupportedBackboneError: there are no blocks to pass."""
        raise UnsupportedBackboneError(f"the image encoder is a ResNet, without a block {layer}")


def read_pooled_tower(visual: Any, dtype: torch.dtype) -> PooledTower | None:
    """The tower of an open_clip image encoder; None unless a ResNet that pools by attention."""
    pool = getattr(visual, "attnpool", None)
    last = getattr(pool, "c_proj", None)
    parts = [getattr(visual, name, None) for name in ("stem", *_STAGES)]
    if None in parts or not isinstance(last, torch.nn.Linear):
        return None
    return PooledTower((), _Pool(visual), last.weight.detach().T, last.bias.detach(), dtype)


@dataclass(frozen=True, eq=False)
class _Pool:
    """open_clip's forward pass up to the projection, which is the identity here."""

    visual: Any

    def __call__(self, pixels: Tensor) -> Tensor:
        visual, pool = self.visual, self.visual.attnpool
        x = visual.stem(pixels)
        for stage in _STAGES:
            x = getattr(visual, stage)(x)
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(dim=0, keepdim=True), x])
        x = x + pool.positional_embedding[:, None, :].to(x.dtype)
        width = x.shape[-1]
        weight = pool.c_proj.weight
        # Only the first token is read: a query of its own gives the same row at a fraction of it.
        rows, _ = F.multi_head_attention_forward(
            query=x[:1],
            key=x,
            value=x,
            embed_dim_to_check=width,
            num_heads=pool.num_heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=torch.eye(width, dtype=weight.dtype, device=weight.device),
            out_proj_bias=weight.new_zeros(width),
            training=False,
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=pool.q_proj.weight,
            k_proj_weight=pool.k_proj.weight,
            v_proj_weight=pool.v_proj.weight,
        )
        pooled: Tensor = rows[0]
        return pooled
