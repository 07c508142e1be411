"""Prefixes and factors inside attention, written out: one sequence, one head, one key at a time.

Prefix tuning (Li and Liang, 2021) puts keys and values before those of a sequence, in one softmax;
LLaMA-Adapter (Zhang et al., 2024) gives them a softmax of their own, and a gate; IA3 (Liu et al.,
2022) multiplies keys, values and the hidden layer of the MLP.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot_bench.backbones import Prefix, Scale, Scores
from tests.reference.encoders import Attend, Scaled


def attention_behind(prefixes: Sequence[Prefix], added: Sequence[Scores] = ()) -> Attend:
    """Attention of whole sequences (n, length, width) with these prefixes and scores.

    Entries of prefixes and scores are those of the sequences.
    """

    def attend(
        layer: int, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None
    ) -> Tensor:
        size, found = q.shape[-1] // heads, []
        for number in range(len(q)):
            own = [
                (
                    one.keys[number] if one.keys.dim() == 3 else one.keys,
                    one.values[number] if one.values.dim() == 3 else one.values,
                    one.gate,
                )
                for one in prefixes
                if one.layer == layer
            ]
            mixed = []
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                scores = q[number][:, part] @ k[number][:, part].T / size**0.5
                if mask is not None:
                    scores = scores + mask
                for more in added:
                    if more.layer == layer:
                        own_scores = more.values[number] if more.values.dim() == 4 else more.values
                        whole = own_scores.dim() == 2
                        scores = scores + (own_scores if whole else own_scores[head])
                values = v[number][:, part]
                for keys, others, gate in own:
                    if gate is None:
                        first = q[number][:, part] @ keys[:, part].T / size**0.5
                        scores = torch.cat([first, scores], dim=1)
                        values = torch.cat([others[:, part], values])
                answer = scores.softmax(dim=1) @ values
                for keys, others, gate in own:
                    if gate is not None:
                        alone = (q[number][:, part] @ keys[:, part].T / size**0.5).softmax(dim=1)
                        answer = answer + gate.expand(heads)[head] * (alone @ others[:, part])
                mixed.append(answer)
            found.append(torch.cat(mixed, dim=1))
        return torch.stack(found)

    return attend


def scaled_by(scales: Sequence[Scale], heads: int) -> Scaled:
    """Multiply what these scales name, (n, length, size); one factor may serve a whole head."""

    def scaled(layer: int, place: str, x: Tensor) -> Tensor:
        for one in scales:
            if (one.layer, one.at) == (layer, place):
                factors = one.values
                if len(factors) != x.shape[-1]:
                    factors = factors[:, None].expand(heads, x.shape[-1] // heads).flatten()
                x = x * factors
        return x

    return scaled
