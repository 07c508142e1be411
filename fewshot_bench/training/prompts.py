"""Prompts with a learned context, as in CoOp: `build_prompts` lays them out once per task.

Tokenization happens there; `Prompts.features` is differentiable in the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.api.backbone import (
    Adapter,
    Backbone,
    Edits,
    PackedPrompts,
    PromptPart,
    TextTower,
)

Position = Literal["end", "middle", "front"]


@dataclass(frozen=True)
class Prompts:
    """Token embeddings of all prompts with gaps for the context tokens.

    start: (1, width), the start token. fixed: (classes, s, width), the following tokens, zero in
    the gaps. placement: (classes, s, M), 1 at the position of context token j. Without a placement
    the context is shared and directly follows the start token, so that the text tower computes it
    once for all classes. end: (classes,), index of the end-of-text token within `fixed`.
    """

    start: Tensor
    fixed: Tensor
    placement: Tensor | None
    end: Tensor
    packing: PackedPrompts

    def assemble(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix (p, width) and suffix (classes, s, width) with the context inserted.

        context: (M, width), or (classes, M, width) if it is class-specific. Without a placement,
        (b, M, width) are b contexts shared by all classes: prefixes (b, p, width).
        """
        if self.placement is None:
            start = self.start.expand(*context.shape[:-2], -1, -1)
            return torch.cat([start, context], dim=-2), self.fixed
        return self.start, self.fixed + self.placement @ context

    def features(
        self,
        tower: TextTower,
        context: Tensor,
        part: PromptPart | None = None,
        *,
        adapter: Adapter | None = None,
        edits: Edits | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """(classes, embed) raw text features, of all or a part; differentiable in the context.

        (b, classes, embed) for b contexts.
        """
        prefix, suffix = self.assemble(context)
        packing = self.packing if part is None else part.packed
        return tower.encode_embeddings(
            prefix, suffix, self.end, packing, adapter, edits=edits, recompute=recompute
        )


def build_prompts(
    classnames: Sequence[str],
    backbone: Backbone,
    tower: TextTower,
    *,
    tokens: int,
    position: Position,
    class_specific: bool,
) -> Prompts:
    """Prompts `[V]1 .. [V]M name.`, or name first or in the middle (CoOp trainers/coop.py:126-180).

    tokens: M. position: of the class name. Underscores in names become blanks. Tokenizes once.
    """
    names = [name.replace("_", " ") for name in classnames]
    ids = backbone.tokenize([f"{name}." for name in names])
    ends = ids.argmax(dim=-1).tolist()
    lengths = (backbone.tokenize(names).argmax(dim=-1) - 1).tolist()
    start = tower.embed(ids[0, :1])
    if position == "end" and not class_specific:
        end = ids.argmax(dim=-1) - 1
        fixed = tower.embed(ids[:, 1 : max(ends) + 1])
        packing = tower.pack_lengths(1 + tokens, end, fixed.shape[1])
        return Prompts(start, fixed, None, end, packing)
    rows = [
        _row(row[1 : end + 1], length, tokens, position)
        for row, end, length in zip(ids.tolist(), ends, lengths, strict=True)
    ]
    return _with_gaps(start, rows, tokens, tower)


def _row(ids: list[int], length: int, tokens: int, position: Position) -> list[int]:
    """Token ids of one prompt after the start token; -1 - j marks context token j."""
    name, tail = ids[:length], ids[length:]
    gaps = [-1 - j for j in range(tokens)]
    before = {"end": tokens, "middle": tokens // 2, "front": 0}[position]
    return gaps[:before] + name + gaps[before:] + tail


def _with_gaps(start: Tensor, rows: list[list[int]], tokens: int, tower: TextTower) -> Prompts:
    longest = max(map(len, rows))
    table = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=start.device)
    gap = table < 0
    fixed = tower.embed(table.clamp_min(0)).masked_fill(gap[..., None], 0.0)
    slots = F.one_hot((-1 - table).clamp_min(0), tokens) * gap[..., None]
    end = torch.tensor([len(row) - 1 for row in rows], device=start.device)
    packing = tower.pack_lengths(1, end, longest)
    return Prompts(start, fixed, slots.to(fixed.dtype), end, packing)
