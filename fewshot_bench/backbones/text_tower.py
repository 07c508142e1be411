"""CLIP's text transformer: computes the shared prefix once, and nothing after end of text."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fewshot_bench.api.backbone import Adapter, Edits, Encoder
from fewshot_bench.backbones.packing import Layout, Packing, Part, pack
from fewshot_bench.backbones.parameters import Norm, read_norm
from fewshot_bench.backbones.token_edits import cast_edits, check_prompts
from fewshot_bench.backbones.tower import Tower, at_its_precision
from fewshot_bench.backbones.transformer import read_blocks, run_blocks
from fewshot_bench.backbones.vision_tower import read_out
from fewshot_bench.profiling.cost import count
from fewshot_bench.utils.errors import ContractError, UnsupportedBackboneError, UsageError


@dataclasses.dataclass(frozen=True)
class PackedText:
    """Tokenized prompts, ready for the blocks: embeddings with positions, prefix first.

    embedded: (t, width), computed once per task, so that training steps read no tokens again: the
    input of block `start`. ids, places (t,): the tokens and their positions; source: the embeddings
    and blocks that `embedded` was computed with; a tower with others recomputes it.
    """

    embedded: Tensor
    packing: Packing
    ids: Tensor
    places: Tensor
    source: tuple[Any, ...]
    start: int = 0

    @property
    def tokens(self) -> int:
        """The number of computed tokens."""
        return self.packing.tokens

    @property
    def slots(self) -> int:
        """The number of tokens in attention, copies and padding included."""
        return self.packing.slots

    def divide(self, parts: int) -> list[Part]:
        """At most `parts` parts, each with its own packed prompts."""
        return [
            dataclasses.replace(part, packed=self._of(part)) for part in self.packing.divide(parts)
        ]

    def _of(self, part: Part) -> PackedText:
        rows = part.rows
        return dataclasses.replace(
            self,
            embedded=self.embedded[rows],
            packing=part.packed,
            ids=self.ids[rows],
            places=self.places[rows],
        )


@dataclasses.dataclass(frozen=True)
class TextTower(Tower):
    """Frozen text weights; equals open_clip's `encode_text` up to rounding."""

    encoder: ClassVar[Encoder] = "text"
    in_float32: ClassVar[frozenset[str]] = frozenset({"token_embedding", "positions", "bias"})

    token_embedding: Tensor
    positions: Tensor
    ln_final: Norm
    projection: Tensor
    context_length: int
    bias: Tensor | None = None
    both_ways: str = ""
    """Empty for causal attention; else the pooled token: `last` or `argmax`."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (...,) to token embeddings (..., width), without positions."""
        return self.token_embedding[tokens]

    def pack_tokens(self, tokens: Tensor, prefix: int | None = None) -> PackedText:
        """Pack (n, context) token ids for the blocks: the shared prefix once, then suffixes.

        prefix: the maximum length of the shared prefix.
        """
        if self.both_ways:
            return self._pack_whole(tokens)
        end = tokens.argmax(dim=-1)
        length = int(end.max()) + 1
        shared = _prefix_length(tokens[:, :length], end)
        shared = shared if prefix is None else min(shared, prefix)
        packing = pack(shared, end - shared, length - shared, self.width)
        ids = torch.cat([tokens[0, :shared], tokens[:, shared:length].flatten()[packing.rows]])
        places = torch.cat([torch.arange(shared, device=ids.device), packing.positions])
        embedded = self.embed(ids) + self.positions[places]
        return PackedText(embedded, packing, ids, places, self._source())

    def _pack_whole(self, tokens: Tensor) -> PackedText:
        """Pack whole sequences, including padding, where every token attends to all."""
        (prompts, length), device = tokens.shape, tokens.device
        starts = torch.arange(0, prompts * length, length, device=device)
        last = self.both_ways == "last"
        pooled = starts + (length - 1 if last else tokens.argmax(dim=-1))
        layout = Layout(0, ((prompts, length),), causal=False, pooled=pooled)
        rows = torch.arange(prompts * length, device=device)
        places, ids = rows % length, tokens.flatten()
        packing = Packing(layout, rows, places, None)
        embedded = self.embed(ids) + self.positions[places]
        return PackedText(embedded, packing, ids, places, self._source())

    def _source(self, blocks: int = 0) -> tuple[Any, ...]:
        return self.token_embedding, self.positions, *self.blocks[:blocks]

    def advance(self, packed: PackedText, layer: int) -> PackedText:
        """Packed prompts as they are before block `layer`, without gradients."""
        rows = self._run_until(packed, layer)
        return dataclasses.replace(packed, embedded=rows, source=self._source(layer), start=layer)

    @torch.no_grad()
    @at_its_precision
    def _run_until(self, packed: PackedText, layer: int) -> Tensor:
        layout = packed.packing.layout
        x, start = self._embedded(packed)
        x = self.rounded(x)
        return run_blocks(x, self.blocks, layout, "text", start=start, stop=layer)

    def _embedded(self, packed: PackedText) -> tuple[Tensor, int]:
        """The rows of packed prompts, and the block that they are the input of."""
        own = self._source(packed.start)
        if all(one is kept for one, kept in zip(own, packed.source, strict=True)):
            return packed.embedded, packed.start
        return self.embed(packed.ids) + self.positions[packed.places], 0

    def encode_tokens(
        self, tokens: Tensor, adapter: Adapter | None = None, *, edits: Edits | None = None
    ) -> Tensor:
        """(n, context) token ids to (n, embed) raw features."""
        return self.encode_packed(self.pack_tokens(tokens), adapter, edits=edits)

    def encode_packed(
        self,
        packed: PackedText,
        adapter: Adapter | None = None,
        *,
        edits: Edits | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """(n, embed) raw features of packed prompts."""
        x, start = self._embedded(packed)
        return self._encode(x, packed.packing, adapter, edits, recompute, start)

    def pack_lengths(self, prefix: int, end: Tensor, length: int) -> Packing:
        """The packing for prompts given as embeddings (`encode_embeddings`), made once per task."""
        if self.both_ways:
            raise UnsupportedBackboneError(
                "prompts given as embeddings: this text encoder looks both ways and at padding, so "
                "that learned contexts have no fixed place; use a causal one (ViT-B-16/openai)"
            )
        if prefix + length > self.context_length:
            raise UsageError(
                f"a prompt has {prefix + length} tokens, the text encoder reads "
                f"{self.context_length}; shorten the class names, template or context"
            )
        return pack(prefix, end, length, self.width)

    def encode_embeddings(
        self,
        prefix: Tensor,
        suffix: Tensor,
        end: Tensor,
        packing: Packing | None = None,
        adapter: Adapter | None = None,
        *,
        edits: Edits | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """Encode embeddings: shared `prefix` (p, width), `suffix` (n, s, width), `end` (n,).

        Returns (n, embed) raw features; (runs, n, embed) for prefixes (runs, p, width).
        """
        start, length = prefix.shape[-2], suffix.shape[1]
        packing = packing or self.pack_lengths(start, end, length)
        runs = 1 if prefix.dim() == 2 else prefix.shape[0]
        packing = packing.repeated(runs)
        rows = suffix.flatten(0, 1).index_select(0, packing.rows)
        rows = rows + self.positions.index_select(0, packing.positions)
        first = (prefix + self.positions[:start]).view(-1, self.width)
        features = self._encode(torch.cat([first, rows]), packing, adapter, edits, recompute)
        return features if prefix.dim() == 2 else features.view(runs, -1, features.shape[-1])

    @at_its_precision
    def _encode(
        self,
        x: Tensor,
        packing: Packing,
        adapter: Adapter | None,
        edits: Edits | None,
        recompute: bool,
        start: int = 0,
    ) -> Tensor:
        x = self.rounded(x)
        if edits:
            edits = cast_edits(self._order(edits, packing).from_block(start), x.dtype)
        out = run_blocks(
            x,
            self.blocks,
            packing.layout,
            "text",
            adapter,
            edits=edits,
            recompute=recompute,
            start=start,
        )
        count(text_tokens=packing.tokens)
        features = read_out(out, self.ln_final, self.projection, edits, packing.order)
        if self.bias is None or (edits is not None and not edits.projected):
            return features
        return features + self.bias

    def _order(self, edits: Edits, packing: Packing) -> Edits:
        """Validate edits, and reorder their values per prompt to the order of the packing."""
        if edits.rows is not None:
            raise ContractError("Edits.rows in a text tower: texts are read at their end alone")
        if edits.scores:
            raise ContractError("Edits.scores in a text tower: its prompts are packed")
        if self.both_ways and edits.tokens:
            raise UnsupportedBackboneError(
                "Edits.tokens in a text encoder that looks both ways: it has no start token that "
                "all prompts share; use a causal one (ViT-B-16/openai)"
            )
        edits = edits.within(self.layers, self.width)
        order, prompts = packing.order, len(packing.layout.pooled)
        if order is None or packing.layout.runs > 1:
            return edits
        for tokens in edits.tokens:
            check_prompts(tokens, prompts)
        for prefix in edits.prefixes:
            check_prompts(prefix, prompts)
        return edits.of(order.argsort())


def _prefix_length(tokens: Tensor, end: Tensor) -> int:
    """The number of leading tokens that all prompts share, leaving at least one token to each."""
    same = (tokens == tokens[0]).all(dim=0).cumprod(dim=0).sum()
    return min(int(same), int(end.min()))


def read_text_tower(model: Any, dtype: torch.dtype, owner: str) -> TextTower:
    """The text tower of an open_clip model; UnsupportedBackboneError unless CLIP's transformer."""
    text = getattr(model, "text", model)
    reason = _find_obstacle(text)
    if reason:
        raise UnsupportedBackboneError(
            f"{owner} has no plain CLIP text transformer ({reason}); use a method that needs only "
            "its features, or another backbone (ViT-B-16/openai)"
        )
    ln_final = read_norm(text.ln_final)
    assert ln_final is not None
    projection, bias = _projection(text)
    tower = TextTower(
        read_blocks(text.transformer, f"{owner} (text)"),
        text.token_embedding.weight.detach(),
        text.positional_embedding.detach(),
        ln_final,
        projection,
        int(text.context_length),
        bias,
        "" if getattr(text, "attn_mask", None) is not None else _pool(text),
    )
    return tower.at(dtype)


def _projection(text: Any) -> tuple[Tensor, Tensor | None]:
    """Projection (width, embed) and bias (embed,) or None, of a parameter or linear layer."""
    own = text.text_projection
    if isinstance(own, nn.Linear):
        return own.weight.detach().T, None if own.bias is None else own.bias.detach()
    return own.detach(), None


def _pool(text: Any) -> str:
    return str(getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax")))


def _find_obstacle(text: Any) -> str:
    needed = ("transformer", "token_embedding", "positional_embedding", "ln_final")
    missing = [name for name in needed if getattr(text, name, None) is None]
    if missing or not hasattr(text.transformer, "resblocks"):
        return f"it lacks {', '.join(missing) or 'residual blocks'}"
    causal, pool = getattr(text, "attn_mask", None) is not None, _pool(text)
    if pool != "argmax" and (causal or pool != "last"):
        return f"it pools by {pool}"
    if getattr(text, "cls_emb", None) is not None or getattr(text, "use_pad_mask", False):
        return "it has a class token, or a mask of padding"
    if not isinstance(getattr(text, "text_projection", None), nn.Parameter | nn.Linear):
        return "it has no plain projection"
    if read_norm(text.ln_final) is None:
        return f"its last norm is {type(text.ln_final).__name__}"
    return ""
