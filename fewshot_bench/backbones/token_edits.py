"""Token rows written into packed sequences between two blocks, by `write_tokens`.

Rows shared by texts are in the shared prefix, which stays shared. Where rows of each prompt are
written, the shared prefix ends after the start token from then on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot_bench.api.backbone import Tokens
from fewshot_bench.backbones.packing import Layout
from fewshot_bench.utils.errors import ContractError


def write_tokens(x: Tensor, layout: Layout, tokens: Sequence[Tokens]) -> tuple[Tensor, Layout]:
    """Insert or replace rows of tokens (t, width) by each edit in turn; also the new layout."""
    for edit in tokens:
        x, layout = _text(x, layout, edit) if layout.causal else _images(x, layout, edit)
    return x, layout


def read_rows(layout: Layout, rows: Sequence[int]) -> Layout:
    """A layout of images whose pooled rows are those at indices `rows` of each sequence."""
    (count, length), device = layout.shape[0], layout.pooled.device
    wrong = [row for row in rows if not -length <= row < length]
    if wrong:
        raise ContractError(f"Edits.rows={wrong}: each sequence has {length} rows")
    starts = torch.arange(0, count * length, length, device=device)
    places = torch.stack([starts + row % length for row in rows], dim=1)
    return dataclasses.replace(layout, pooled=places.flatten())


def write_images(x: Tensor, tokens: Sequence[Tokens]) -> Tensor:
    """Images (b, length, width) with rows inserted or replaced."""
    for edit in tokens:
        count, (images, length, width) = edit.count, x.shape
        values = edit.values.to(x.dtype)
        if values.dim() == 3 and values.shape[0] != images:
            raise ContractError(f"Tokens.values of {len(values)} images: there are {images}")
        if values.dim() == 2:
            values = values.expand(images, count, width)
        skipped = count if edit.mode == "replace" else 0
        if skipped >= length:
            raise ContractError(
                f"Tokens replace {count} rows: a sequence has {length}, the class token included"
            )
        if edit.place == "start":
            x = torch.cat([x[:, :1], values, x[:, 1 + skipped :]], dim=1)
        else:
            x = torch.cat([x[:, : length - skipped], values], dim=1)
    return x


def check_prompts(tokens: Tokens, prompts: int) -> None:
    """ContractError if values per prompt are for another number of prompts."""
    if tokens.values.dim() == 3 and len(tokens.values) != prompts:
        raise ContractError(f"Tokens.values of {len(tokens.values)} prompts: there are {prompts}")


def _images(x: Tensor, layout: Layout, tokens: Tokens) -> tuple[Tensor, Layout]:
    (count, _), width = layout.shape[0], x.shape[-1]
    written = write_images(x.view(count, -1, width), (tokens,))
    if tokens.mode == "replace":
        return written.flatten(0, 1), layout
    return written.flatten(0, 1), image_layout(count, written.shape[1], x.device)


def image_layout(count: int, length: int, device: torch.device) -> Layout:
    """The layout of images, whose class token is pooled."""
    pooled = torch.arange(0, count * length, length, device=device)
    return Layout(0, ((count, length),), causal=False, pooled=pooled)


def _text(x: Tensor, layout: Layout, tokens: Tokens) -> tuple[Tensor, Layout]:
    if tokens.place == "end":
        raise ContractError(
            "Tokens.place='end' in a text: its rows could not be seen from its end; use 'start'"
        )
    values = tokens.values.to(x.dtype)
    per_prompt = values.dim() == 3 and not (layout.runs > 1 and len(values) == layout.runs)
    if per_prompt:
        return _behind(x, layout, tokens, values)
    if tokens.mode == "replace" and layout.prefix == 1:
        return _behind(x, layout, tokens, values.expand(len(layout.pooled), -1, -1))
    return _in_prefix(x, layout, tokens, values)


def _in_prefix(x: Tensor, layout: Layout, tokens: Tokens, values: Tensor) -> tuple[Tensor, Layout]:
    """Insert or replace rows in the prefix, shared by all sequences of a run."""
    inserted = tokens.count if tokens.mode == "insert" else 0
    if layout.prefix < 1 + tokens.count - inserted:
        raise ContractError(
            f"Tokens replace rows 1 to {tokens.count}, and {layout.prefix} rows are shared by all "
            "prompts: pack them with prefix=1, or with more tokens that all share"
        )
    size, width = layout.runs * layout.prefix, x.shape[-1]
    first = x[:size].view(layout.runs, layout.prefix, width)
    rest = first[:, 1 + tokens.count - inserted :]
    first = torch.cat([first[:, :1], values.expand(layout.runs, tokens.count, width), rest], dim=1)
    x = torch.cat([first.flatten(0, 1), x[size:]])
    if not inserted:
        return x, layout
    prefix, pooled = layout.prefix + inserted, layout.pooled + layout.runs * inserted
    return x, dataclasses.replace(layout, prefix=prefix, pooled=pooled)


def _behind(x: Tensor, layout: Layout, tokens: Tokens, values: Tensor) -> tuple[Tensor, Layout]:
    """Write rows per prompt (n, rows, width), in the order of the layout, after the start token.

    Shared rows behind the start token become each prompt's own.
    """
    prompts, replaced = len(layout.pooled), tokens.count if tokens.mode == "replace" else 0
    check_prompts(tokens, prompts)
    if layout.runs != 1:
        raise ContractError(
            f"Tokens.values of each prompt in {layout.runs} runs: they lie behind one start token"
        )
    shared, parts, width = x[1 : layout.prefix], [x[:1]], x.shape[-1]
    for group in layout.groups:
        if len(shared) + group.length <= replaced:
            raise ContractError(
                f"Tokens replace {tokens.count} rows behind the start token, and a prompt has "
                f"{len(shared) + group.length}"
            )
        own = x[group.rows].view(group.count, group.length, width)
        before = shared[replaced:].expand(group.count, -1, width)
        after = own[:, max(0, replaced - len(shared)) :]
        parts.append(torch.cat([values[group.members], before, after], dim=1).flatten(0, 1))
    x = torch.cat(parts)
    added = len(shared) + tokens.count - replaced
    if not added:
        return x, layout
    shape = tuple((count, length + added) for count, length in layout.shape)
    grown = added * torch.arange(1, prompts + 1, device=x.device) - len(shared)
    return x, dataclasses.replace(layout, prefix=1, shape=shape, pooled=layout.pooled + grown)
