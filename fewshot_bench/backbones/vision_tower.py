"""CLIP's vision transformer as a function with support for adapters and edits."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_bench.api.backbone import Adapter, Edits, Encoder
from fewshot_bench.backbones.parameters import Norm, read_norm
from fewshot_bench.backbones.token_edits import cast_edits, image_layout, write_images
from fewshot_bench.backbones.tower import Tower, at_its_precision
from fewshot_bench.backbones.transformer import read_blocks, run_blocks
from fewshot_bench.profiling.cost import count, count_backward, tell_pixels
from fewshot_bench.utils.errors import UnsupportedBackboneError


@dataclasses.dataclass(frozen=True)
class VisionTower(Tower):
    """Frozen ViT weights; `encode` equals open_clip's own encoder up to rounding."""

    encoder: ClassVar[Encoder] = "vision"

    patch_weight: Tensor
    class_embedding: Tensor
    positions: Tensor
    ln_pre: Norm | None
    ln_post: Norm
    projection: Tensor

    @property
    def tokens(self) -> int:
        """Tokens per image."""
        return self.positions.shape[0]

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
        """(b, 3, h, w) preprocessed pixels to (b, embed) raw features; rows if `start` is given."""
        x = self.rounded(pixels if start else self._embed(pixels))
        if edits:
            edits = cast_edits(edits.within(self.layers, self.width).from_block(start), x.dtype)
            x = write_images(x, edits.before(0))
        if not start and self.ln_pre is not None:
            x = self.ln_pre(x)
        number, length = x.shape[:2]
        layout = image_layout(number, length, x.device)
        out = run_blocks(
            x.flatten(0, 1),
            self.blocks,
            layout,
            "vision",
            adapter,
            edits=edits,
            recompute=recompute,
            start=start,
        )
        features = read_out(out, self.ln_post, self.projection, edits)
        count(images=number)
        if self.patch_weight.requires_grad:
            count_backward(features, self._patch_flops(number))
        if edits and edits.rows is not None:
            return features.view(number, len(edits.rows), -1)
        return features

    @torch.no_grad()
    @at_its_precision
    def advance(self, pixels: Tensor, layer: int) -> Tensor:
        """(b, 3, h, w) preprocessed pixels to rows (b, tokens, width) before block `layer`."""
        x = self.rounded(self._embed(pixels))
        x = x if self.ln_pre is None else self.ln_pre(x)
        layout = image_layout(x.shape[0], x.shape[1], x.device)
        return run_blocks(x.flatten(0, 1), self.blocks, layout, "vision", stop=layer).view(x.shape)

    def _patch_flops(self, images: int) -> int:
        return 2 * images * (self.tokens - 1) * self.patch_weight.numel()

    def _embed(self, pixels: Tensor) -> Tensor:
        """(b, tokens, width): patches and the class token with their positions."""
        tell_pixels(pixels)
        count(flops=self._patch_flops(pixels.shape[0]))
        patches = F.conv2d(pixels, self.patch_weight, stride=self.patch_weight.shape[-2:])
        patches = patches.flatten(2).transpose(1, 2)
        start = self.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        return torch.cat([start, patches], dim=1) + self.positions.to(patches.dtype)


def read_out(
    pooled: Tensor, norm: Norm, projection: Tensor, edits: Edits | None, order: Tensor | None = None
) -> Tensor:
    """Normalize pooled rows (n, width), reordered by `order`, and project unless edits disable it.

    Counts the FLOPs of the projection and its gradients.
    """
    pooled = pooled if order is None else pooled[order]
    normed = norm(pooled)
    if edits and not edits.projected:
        return normed
    features: Tensor = normed @ projection
    cost = 2 * features.shape[0] * projection.numel()
    count(flops=cost)
    trained = int(projection.requires_grad) + int(normed.requires_grad)
    count_backward(features, cost * trained)
    return features


def read_vision_tower(visual: Any, dtype: torch.dtype, owner: str) -> VisionTower:
    """The vision tower of an open_clip model; UnsupportedBackboneError unless a plain CLIP ViT."""
    reasons = _find_obstacle(visual)
    if reasons:
        raise UnsupportedBackboneError(
            f"{owner} has no plain CLIP vision transformer ({reasons}); use a method that runs on "
            "frozen features, or another backbone (ViT-B-16/openai)"
        )
    ln_post = read_norm(visual.ln_post)
    assert ln_post is not None
    tower = VisionTower(
        read_blocks(visual.transformer, f"{owner} (vision)"),
        visual.conv1.weight.detach(),
        visual.class_embedding.detach(),
        visual.positional_embedding.detach(),
        read_norm(visual.ln_pre),
        ln_post,
        visual.proj.detach(),
    )
    return tower.at(dtype)


def _find_obstacle(visual: Any) -> str:
    needed = ("conv1", "class_embedding", "positional_embedding", "transformer", "ln_post", "proj")
    missing = [name for name in needed if getattr(visual, name, None) is None]
    if missing or not hasattr(visual.transformer, "resblocks"):
        return f"it lacks {', '.join(missing) or 'residual blocks'}"
    if getattr(visual, "attn_pool", None) is not None:
        return "it pools by attention"
    if getattr(visual, "pool_type", "tok") != "tok":
        return f"it pools by {visual.pool_type}"
    if visual.conv1.bias is not None:
        return "its patch embedding has a bias"
    if read_norm(visual.ln_post) is None:
        return f"its last norm is {type(visual.ln_post).__name__}"
    before = getattr(visual, "ln_pre", None)
    if read_norm(before) is None and not isinstance(before, nn.Identity):
        return f"its first norm is {type(before).__name__}"
    return ""
