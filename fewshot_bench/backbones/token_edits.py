"""Token rows written into packed sequences between two blocks, by `write_tokens`.

Rows shared by texts are in the shared prefix, which stays shared. Where rows of each prompt are
written, the shared prefix ends after the start token from then on; where prompts have keys and
values of their own, nothing is shared from then on (`separate`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from fewshot_bench.api.backbone import Edits, Prefix, Tokens
from fewshot_bench.backbones.packing import Layout
from fewshot_bench.backbones.parameters import cast_together
from fewshot_bench.utils.errors import ContractError
from fewshot_bench.utils.tracing import is_exporting
from fewshot_bench.utils.transfer import send


def cast_edits(edits: Edits, dtype: torch.dtype) -> Edits:
    """The edits with all token rows, keys and values in `dtype`; gates and scales stay as is."""
    inner = [value for one in edits.prefixes for value in (one.keys, one.values)]
    cast = iter(cast_together([*(one.values for one in edits.tokens), *inner], dtype))
    tokens = tuple(dataclasses.replace(one, values=next(cast)) for one in edits.tokens)
    prefixes = tuple(
        dataclasses.replace(one, keys=next(cast), values=next(cast)) for one in edits.prefixes
    )
    return dataclasses.replace(edits, tokens=tokens, prefixes=prefixes)


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
        skipped = _skipped(edit, images, length)
        if values.dim() == 2:
            values = values.expand(images, count, width)
        if edit.place == "start":
            x = torch.cat([x[:, :1], values, x[:, 1 + skipped :]], dim=1)
        else:
            x = torch.cat([x[:, : length - skipped], values], dim=1)
    return x


def _skipped(tokens: Tokens, images: int, length: int) -> int:
    """The number of rows that an edit removes; ContractError if images cannot have it."""
    if tokens.values.dim() == 3 and tokens.values.shape[0] != images:
        raise ContractError(f"Tokens.values of {len(tokens.values)} images: there are {images}")
    skipped = tokens.count if tokens.mode == "replace" else 0
    if skipped >= length:
        raise ContractError(
            f"Tokens replace {skipped} rows: a sequence has {length}, the class token included"
        )
    return skipped


def check_prompts(edit: Tokens | Prefix, prompts: int) -> None:
    """ContractError if values per prompt are for another number of prompts."""
    if edit.values.dim() == 3 and len(edit.values) != prompts:
        name = type(edit).__name__
        raise ContractError(f"{name}.values of {len(edit.values)} prompts: there are {prompts}")


def separate(x: Tensor, layout: Layout, prefixes: Sequence[Prefix]) -> tuple[Tensor, Layout]:
    """Tokens (t, width) and layout for these prefixes of one block, each with entries that fit.

    Where prompts have keys and values of their own, their shared rows become each prompt's own.
    """
    each = [one for one in prefixes if one.each]
    if not layout.causal:
        for one in each:
            if len(one.keys) != layout.shape[0][0]:
                raise ContractError(
                    f"Prefix.keys of {len(one.keys)} images or prompts: there are "
                    f"{layout.shape[0][0]}"
                )
        return x, layout
    if layout.runs > 1:
        for one in each:
            if len(one.keys) != layout.runs:
                raise ContractError(
                    f"Prefix.keys of {len(one.keys)} entries in {layout.runs} runs of prompts: "
                    "expected one for each run, whose prompts share their first rows"
                )
        return x, layout
    for one in each:
        check_prompts(one, layout.sequences)
    if not each or not layout.prefix:
        return x, layout
    rows, alone = layout.keep("separate", partial(_separate, layout))
    # Gradients of rows that all prompts get are added in float32.
    return x.float().index_select(0, rows).to(x.dtype), alone


def _separate(layout: Layout) -> tuple[Tensor, Layout]:
    """The layout without a shared prefix, and the row of the old layout in every row of it."""
    device, shared, rows = layout.pooled.device, layout.prefix, list[int]()
    lengths = [length for number, length in layout.shape for _ in range(number)]
    for row, length in zip(layout.first_rows, lengths, strict=True):
        rows += [*range(shared), *range(row, row + length)]
    shape = tuple((number, length + shared) for number, length in layout.shape)
    moved = layout.pooled + shared * torch.arange(layout.sequences, device=device)
    alone = dataclasses.replace(layout, prefix=0, shape=shape, pooled=moved)
    return send(torch.tensor(rows), device), alone


def _images(x: Tensor, layout: Layout, tokens: Tokens) -> tuple[Tensor, Layout]:
    (count, length), width = layout.shape[0], x.shape[-1]
    if tokens.mode == "replace":
        skipped = _skipped(tokens, count, length)
        first = 1 if tokens.place == "start" else length - skipped
        places = partial(torch.arange, first, count * length, length, device=x.device)
        return _overwrite(x, layout, first, places, tokens.values), layout
    written = write_images(x.view(count, -1, width), (tokens,))
    return written.flatten(0, 1), image_layout(count, written.shape[1], x.device)


def _overwrite(
    x: Tensor, layout: Layout, first: int, places: Callable[[], Tensor], values: Tensor
) -> Tensor:
    """Replace rows by values (k, n, width), or everywhere by (n, width), from k `places` on.

    first: the first of the places, which tells them from others of the layout.
    """
    count = values.shape[-2]

    def make() -> Tensor:
        return (places()[:, None] + torch.arange(count, device=x.device)).flatten()

    rows = layout.keep(("overwritten", first, count), make)
    values = values.to(x.dtype)
    if rows.shape[0] != count:
        values = values.expand(rows.shape[0] // count, -1, -1)
    return x.index_copy(0, rows, values.flatten(0, -2))


def image_layout(count: int, length: int, device: torch.device) -> Layout:
    """The layout of images, whose class token is pooled; made once."""
    if is_exporting():
        return _image_layout.__wrapped__(count, length, device)
    return _image_layout(count, length, device)


@functools.lru_cache(maxsize=64)
def _image_layout(count: int, length: int, device: torch.device) -> Layout:
    with torch.inference_mode(False):
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
    if not layout.prefix or (tokens.mode == "replace" and layout.prefix == 1):
        return _behind(x, layout, tokens, values.expand(len(layout.pooled), -1, -1))
    return _in_prefix(x, layout, tokens, values)


def _in_prefix(x: Tensor, layout: Layout, tokens: Tokens, values: Tensor) -> tuple[Tensor, Layout]:
    """Insert or replace rows in the prefix, shared by all sequences of a run."""
    runs, count = layout.runs, tokens.count
    if layout.prefix < 1 + (count if tokens.mode == "replace" else 0):
        raise ContractError(
            f"Tokens replace rows 1 to {count}, and {layout.prefix} rows are shared by all "
            "prompts: pack them with prefix=1, or with more tokens that all share"
        )
    size, width = runs * layout.prefix, x.shape[-1]
    if tokens.mode == "replace":
        places = partial(torch.arange, 1, size, layout.prefix, device=x.device)
        return _overwrite(x, layout, 1, places, values), layout
    first = x[:size].view(runs, layout.prefix, width)
    written = values.expand(runs, count, width)
    first = torch.cat([first[:, :1], written, first[:, 1:]], dim=1)
    x = torch.cat([first.flatten(0, 1), x[size:]])

    def grow() -> Layout:
        pooled = layout.pooled + runs * count
        return dataclasses.replace(layout, prefix=layout.prefix + count, pooled=pooled)

    return x, layout.keep(("longer prefix", count), grow)


def _behind(x: Tensor, layout: Layout, tokens: Tokens, values: Tensor) -> tuple[Tensor, Layout]:
    """Write rows per prompt (n, rows, width), in the order of the layout, after the start token.

    Shared rows behind the start token become each prompt's own.
    """
    count, replaced = tokens.count, tokens.count if tokens.mode == "replace" else 0
    check_prompts(tokens, layout.sequences)
    if layout.runs != 1:
        raise ContractError(
            f"Tokens.values of each prompt in {layout.runs} runs: they lie behind one start token"
        )
    shortest = layout.prefix - 1 + min(length for _, length in layout.shape)
    if shortest <= replaced:
        raise ContractError(
            f"Tokens replace {count} rows behind the start token, and a prompt has {shortest}"
        )
    if replaced and layout.prefix < 2:

        def second_rows() -> Tensor:
            return send(torch.tensor(layout.first_rows), x.device) + 1 - layout.prefix

        return _overwrite(x, layout, 1, second_rows, values), layout
    make = partial(_spread_prefix, layout, count, replaced)
    rows, spread = layout.keep(("spread prefix", count, replaced), make)
    whole = torch.cat([x, values.flatten(0, 1)])
    if layout.prefix - 1 > replaced:
        # Gradients of rows that all prompts get are added in float32.
        whole = whole.float()
    return whole.index_select(0, rows).to(x.dtype), spread


def _spread_prefix(layout: Layout, count: int, replaced: int) -> tuple[Tensor, Layout]:
    """The layout with a prefix of one row at most, `count` rows behind it for `replaced` others.

    Also the row of the old layout in every row of it; those behind the old ones are the new rows.
    """
    device, first = layout.pooled.device, layout.first_rows
    lengths = [length for number, length in layout.shape for _ in range(number)]
    start = min(1, layout.prefix)
    shared = layout.prefix - start
    skipped, rows = max(0, replaced - shared), [0] * start
    for index, (row, length) in enumerate(zip(first, lengths, strict=True)):
        new = layout.tokens + index * count
        if not start:
            rows.append(row)
            row, length = row + 1, length - 1
        rows += range(new, new + count)
        rows += range(1 + replaced, layout.prefix)
        rows += range(row + skipped, row + length)
    added = shared + count - replaced
    shape = tuple((number, length + added) for number, length in layout.shape)
    grown = added * torch.arange(1, len(first) + 1, device=device) - shared
    spread = dataclasses.replace(layout, prefix=start, shape=shape, pooled=layout.pooled + grown)
    return send(torch.tensor(rows), device), spread
