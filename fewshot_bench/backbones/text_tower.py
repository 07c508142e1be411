"""CLIP's text transformer as a function: the shared prefix once, nothing after end of text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_bench.backbones.blocks import Block, Layout, read_blocks, run_blocks, same_tensors
from fewshot_bench.backbones.protocol import Adapter, Site
from fewshot_bench.backbones.vision_tower import merge
from fewshot_bench.errors import UnsupportedBackboneError

# Below this many padding tokens one padded group is faster than one group per length.
PADDING_ALLOWED = 256


@dataclasses.dataclass(frozen=True)
class TextTower:
    """Frozen text weights; equals open_clip's `encode_text` up to rounding."""

    blocks: tuple[Block, ...]
    token_embedding: Tensor
    positions: Tensor
    ln_final: Callable[[Tensor], Tensor]
    projection: Tensor
    context_length: int

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """Size of the residual stream."""
        return self.blocks[0].width

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (...,) to token embeddings (..., width), without positions."""
        return self.token_embedding[tokens]

    def encode_tokens(self, tokens: Tensor, adapter: Adapter | None = None) -> Tensor:
        """(n, context) token ids to (n, embed) raw features."""
        end = tokens.argmax(dim=-1)
        longest = int(end.max()) + 1
        shared = _shared_prefix(tokens[:, :longest], end)
        embedded = self.embed(tokens[:, :longest])
        return self._encode(embedded[0, :shared], embedded[:, shared:], end - shared, adapter)

    def encode_embeddings(self, prefix: Tensor, suffix: Tensor, end: Tensor) -> Tensor:
        """Prompts as embeddings: shared `prefix` (p, width), `suffix` (n, s, width), `end` (n,)."""
        return self._encode(prefix, suffix, end, None)

    def _encode(
        self, prefix: Tensor, suffix: Tensor, end: Tensor, adapter: Adapter | None
    ) -> Tensor:
        start, length = prefix.shape[0], suffix.shape[1]
        if start + length > self.context_length:
            raise UnsupportedBackboneError(
                f"a prompt has {start + length} tokens, the text encoder reads "
                f"{self.context_length}; shorten the class names, template or context"
            )
        positions = self.positions[: start + length]
        prefix = prefix + positions[:start]
        suffix = suffix + positions[start:]
        order, groups = _group(end.tolist())
        rows, pooled, row = [prefix], [], start
        for members, size in groups:
            rows.append(suffix[members, :size].reshape(-1, suffix.shape[-1]))
            index = torch.arange(len(members), device=end.device)
            pooled.append(row + size * index + end[members])
            row += size * len(members)
        shape = tuple((len(members), size) for members, size in groups)
        layout = Layout(start, shape, causal=True, pooled=torch.cat(pooled))
        out = run_blocks(torch.cat(rows), self.blocks, layout, "text", adapter)
        features = self.ln_final(out) @ self.projection
        return features if order is None else features[order.to(features.device)]

    def weight(self, site: Site) -> Tensor:
        """(d_out, d_in) the frozen matrix at `site`."""
        return self.blocks[site.layer].weight(site.matrix)

    def equals(self, other: TextTower) -> bool:
        """Whether both hold the same weights."""
        return same_tensors(self, other)

    def with_deltas(self, deltas: dict[Site, Tensor]) -> TextTower:
        """A tower with (d_out, d_in) deltas merged into its matrices."""
        return dataclasses.replace(self, blocks=merge(self.blocks, "text", deltas))


def _shared_prefix(tokens: Tensor, end: Tensor) -> int:
    """How many leading tokens all prompts share, leaving at least one token to each."""
    same = (tokens == tokens[0]).all(dim=0).cumprod(dim=0).sum()
    return min(int(same), int(end.min()))


def _group(ends: list[int]) -> tuple[Tensor | None, list[tuple[list[int], int]]]:
    """Sequences grouped by length, with the permutation that restores their order."""
    lengths = [end + 1 for end in ends]
    longest = max(lengths)
    if longest * len(lengths) - sum(lengths) <= PADDING_ALLOWED:
        return None, [(list(range(len(lengths))), longest)]
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_length.setdefault(length, []).append(index)
    groups = [(by_length[length], length) for length in sorted(by_length)]
    visited = torch.tensor([index for members, _ in groups for index in members])
    return visited.argsort(), groups


def read_text_tower(model: Any, dtype: torch.dtype, owner: str) -> TextTower:
    """The text tower of an open_clip model; UnsupportedBackboneError unless CLIP's transformer."""
    text = getattr(model, "text", model)
    reason = _unsupported(text)
    if reason:
        raise UnsupportedBackboneError(
            f"{owner} has no plain CLIP text transformer ({reason}); use a method that needs only "
            "its features, or another backbone (ViT-B-16/openai)"
        )
    return TextTower(
        read_blocks(text.transformer, dtype, f"{owner} (text)"),
        text.token_embedding.weight.detach(),
        text.positional_embedding.detach(),
        text.ln_final,
        text.text_projection.detach().to(dtype),
        int(text.context_length),
    )


def _unsupported(text: Any) -> str:
    needed = ("transformer", "token_embedding", "positional_embedding", "ln_final")
    missing = [name for name in needed if getattr(text, name, None) is None]
    if missing or not hasattr(text.transformer, "resblocks"):
        return f"it lacks {', '.join(missing) or 'residual blocks'}"
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax"))
    if pool != "argmax":
        return f"it pools by {pool}"
    if getattr(text, "attn_mask", None) is None or getattr(text, "cls_emb", None) is not None:
        return "it is not causal"
    if not isinstance(getattr(text, "text_projection", None), nn.Parameter):
        return "it has no plain projection"
    return ""
