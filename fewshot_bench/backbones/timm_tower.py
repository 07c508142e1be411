"""Vision transformers of timm behind open_clip's interface: SigLIP, EVA02-CLIP, MobileCLIP.

`read_timm_tower` is the entry point. Blocks are those of `transformer.py`; the layers before and
after them are timm's own modules, frozen, so that features equal those of the model's own forward
pass.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fewshot_bench.api.backbone import Adapter, Edits, Encoder
from fewshot_bench.backbones.packing import Layout
from fewshot_bench.backbones.token_edits import cast_edits, image_layout, write_images
from fewshot_bench.backbones.tower import Tower, at_its_precision
from fewshot_bench.backbones.transformer import Block, run_blocks
from fewshot_bench.profiling.cost import count, count_backward, tell_pixels
from fewshot_bench.utils.errors import UnsupportedBackboneError


@dataclasses.dataclass(frozen=True)
class TimmTower(Tower):
    """Frozen blocks between a stem (pixels to tokens) and a read-out (rows to features).

    whole: the read-out pools over all tokens, not over the class token alone. marked: the first
    token is a class token. flops: FLOPs of the stem and of the read-out, per image.
    """

    encoder: ClassVar[Encoder] = "vision"

    stem: Callable[[Tensor], Tensor]
    read_out: Callable[[Tensor], Tensor]
    tokens: int
    whole: bool
    marked: bool
    flops: tuple[int, int]

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
            edits = cast_edits(self._possible(edits).from_block(start), x.dtype)
            x = write_images(x, edits.before(0))
        number, length = x.shape[:2]
        layout = self._layout(number, length, x.device)
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
        features = self.read_out(out.view(number, -1, self.width))
        count(images=number, flops=number * self.flops[1])
        count_backward(features, number * self.flops[1])
        return features

    @torch.no_grad()
    @at_its_precision
    def advance(self, pixels: Tensor, layer: int) -> Tensor:
        """(b, 3, h, w) preprocessed pixels to rows (b, tokens, width) before block `layer`."""
        x = self.rounded(self._embed(pixels))
        layout = image_layout(x.shape[0], x.shape[1], x.device)
        return run_blocks(x.flatten(0, 1), self.blocks, layout, "vision", stop=layer).view(x.shape)

    def _embed(self, pixels: Tensor) -> Tensor:
        tell_pixels(pixels)
        count(flops=pixels.shape[0] * self.flops[0])
        return self.stem(pixels)

    def _layout(self, number: int, length: int, device: torch.device) -> Layout:
        layout = image_layout(number, length, device)
        if not self.whole:
            return layout
        return dataclasses.replace(layout, pooled=torch.arange(number * length, device=device))

    def _possible(self, edits: Edits) -> Edits:
        """Validate edits; UnsupportedBackboneError for those that this tower does not support."""
        reason = ""
        if edits.rows is not None or not edits.projected:
            reason = "Edits.rows and projected=False: its read-out is not a projection of rows"
        elif edits.tokens and self.blocks[0].rotary is not None:
            reason = "Edits.tokens: its tokens are turned by their place, and others have none"
        elif not self.marked and any(tokens.place == "start" for tokens in edits.tokens):
            reason = "Tokens.place='start': it has no class token; use 'end'"
        elif self.whole and any(
            tokens.layer and tokens.mode == "insert" for tokens in edits.tokens
        ):
            reason = "Tokens inserted in a later layer: it pools over all tokens; use layer 0"
        if reason:
            raise UnsupportedBackboneError(f"the image encoder cannot take {reason}")
        return edits.within(self.layers, self.width)


def read_timm_tower(
    visual: Any, size: tuple[int, int], dtype: torch.dtype, owner: str
) -> TimmTower:
    """The tower of a timm model in open_clip; UnsupportedBackboneError unless a pre-norm ViT."""
    trunk = visual.trunk
    pool = getattr(trunk, "global_pool", "")
    if not hasattr(trunk, "blocks") or not hasattr(trunk, "_pos_embed"):
        raise _refusal(owner, f"{type(trunk).__name__} has no transformer blocks")
    if pool not in ("token", "map", "avg"):
        raise _refusal(owner, f"it pools by {pool or 'nothing'}")
    if getattr(trunk, "dist_token", None) is not None:
        raise _refusal(owner, "it reads a token of distillation, too")
    device = next(trunk.parameters()).device
    blank = torch.zeros(1, 3, *size, device=device)
    with torch.no_grad():
        embedded = trunk._pos_embed(trunk.patch_embed(blank))
        rope = embedded[1] if isinstance(embedded, tuple) else None
    if rope is not None and rope.ndim != 2:
        raise _refusal(owner, "its tokens are turned differently in every block")
    marked = int(getattr(trunk, "num_prefix_tokens", 0))
    rotary = None if rope is None else _places(rope, marked)
    blocks = tuple(
        _read_block(block, rotary, f"{owner} (vision), block {index}")
        for index, block in enumerate(trunk.blocks)
    )

    def stem(pixels: Tensor) -> Tensor:
        embedded = trunk._pos_embed(trunk.patch_embed(pixels))
        x = embedded[0] if isinstance(embedded, tuple) else embedded
        return trunk.norm_pre(x)  # type: ignore[no-any-return]

    def read_out(rows: Tensor) -> Tensor:
        return visual.head(trunk.forward_head(trunk.norm(rows)))  # type: ignore[no-any-return]

    with torch.no_grad():
        rows = stem(blank)
        whole = pool != "token"
        read = rows if whole else rows[:, :1]
        flops = _flops(lambda: stem(blank)), _flops(lambda: read_out(read))
    tower = TimmTower(blocks, stem, read_out, rows.shape[1], whole, marked == 1, flops)
    return tower.at(dtype)


def _flops(run: Callable[[], Any]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def _places(rope: Tensor, marked: int) -> Tensor:
    """(tokens, 2 d) sine and cosine, with no rotation for the first `marked` tokens."""
    sine, cosine = rope.detach().chunk(2, dim=-1)
    still = torch.zeros(marked, sine.shape[-1]).to(sine)
    sine = torch.cat([still, sine])
    return torch.cat([sine, torch.cat([still + 1, cosine])], dim=-1)


_THEIRS = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.proj": "attn.out_proj",
    "attn.norm": "attn.norm",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "mlp.norm": "mlp.norm",
}
_MLPS = ("Mlp", "SwiGLU")
_JOINED = ("attn.qkv", "attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.fc1_g", "mlp.fc1_x")


def _read_block(block: Any, rotary: Tensor | None, owner: str) -> Block:
    """Read a block of timm; UnsupportedBackboneError for unsupported parameters or attention."""
    parameters = {name: value.detach() for name, value in block.named_parameters()}
    parts: dict[str, Tensor] = {}
    for name, value in parameters.items():
        module, _, kind = name.rpartition(".")
        if module in _THEIRS:
            parts[f"{_THEIRS[module]}.{kind}"] = value
        elif module not in _JOINED and name not in ("attn.q_bias", "attn.v_bias"):
            raise _refusal(owner, f"it has {name}")
    attn, mlp = block.attn, block.mlp
    if getattr(attn, "fused_attn", None) is None or getattr(attn, "rotate_half", False):
        raise _refusal(owner, f"its attention is {type(attn).__name__}")
    if type(mlp).__name__ not in _MLPS:
        raise _refusal(owner, f"its MLP is {type(mlp).__name__}")
    weight, bias = _join(attn, ("q_proj", "k_proj", "v_proj"), getattr(attn, "qkv", None))
    own = getattr(attn, "q_bias", None)
    if own is not None:
        bias = torch.cat([own.detach(), torch.zeros_like(own), attn.v_bias.detach()])
    parts["attn.in_proj_weight"], parts["attn.in_proj_bias"] = weight, bias
    gated = hasattr(mlp, "fc1_g")
    if gated:
        fc = _join(mlp, ("fc1_g", "fc1_x"), None)
        parts["mlp.c_fc.weight"], parts["mlp.c_fc.bias"] = fc
    eps = (block.norm1.eps, block.norm2.eps)
    values = types.MappingProxyType(parts)
    return Block(values, attn.num_heads, eps, mlp.act, gated, rotary)


def _join(owner: Any, names: tuple[str, ...], fused: Any) -> tuple[Tensor, Tensor]:
    """Concatenated weights and biases of layers, or those of `fused`; a missing bias is zero."""
    layers = [fused] if fused is not None else [getattr(owner, name) for name in names]
    weight = torch.cat([layer.weight.detach() for layer in layers])
    biases = [
        layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
        for layer in layers
    ]
    return weight, torch.cat(biases).detach()


def _refusal(owner: str, reason: str) -> UnsupportedBackboneError:
    return UnsupportedBackboneError(
        f"{owner} is no vision transformer that this code computes ({reason}); use a method that "
        "runs on frozen features, or another backbone (ViT-B-16/openai)"
    )


def is_timm(visual: Any) -> bool:
    """True for an image encoder that open_clip takes from timm."""
    return isinstance(getattr(visual, "trunk", None), nn.Module)
