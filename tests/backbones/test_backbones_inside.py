"""Prefixes and factors inside the blocks against plain loops: features, gradients, FLOPs, bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fewshot_bench.backbones import Edits, Prefix, Scale, Scores, Tokens, attention, packing
from fewshot_bench.profiling.cost import Cost, counting
from fewshot_bench.utils.errors import ContractError
from tests.reference import encoders
from tests.reference.inside import attention_behind, scaled_by
from tests.reference.toy import SIZE, random_backbone, relative_gap
from tests.support.edits import FOUR_GROUPS, ONE_GROUP, agree, drawn, written
from tests.support.layout import use_accelerator_layout

WIDTH, LAYERS = 48, 3
PIXELS = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))
TOLERANCE = 1e-5


@pytest.fixture(autouse=True, params=["groups", "slots"])
def layout(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of a CPU, with a group per length, and that of accelerators."""
    if request.param == "slots":
        use_accelerator_layout(monkeypatch)
    else:
        monkeypatch.setattr(packing, "GROUP_TOKENS", 0)


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP of three layers."""
    return random_backbone(width=WIDTH, layers=LAYERS, quick_gelu=True)


def prefixes(entries: int = 0, heads: int = 1) -> tuple[Prefix, ...]:
    """Two joint prefixes of a block, one of the last block, and gated ones of both kinds.

    Those with entries are of each prompt, image or run.
    """
    each = [entries] if entries else []
    return (
        Prefix(0, drawn(1, 2, WIDTH), drawn(2, 2, WIDTH)),
        Prefix(1, drawn(3, *each, 3, WIDTH), drawn(4, *each, 3, WIDTH)),
        Prefix(1, drawn(5, 1, WIDTH), drawn(6, 1, WIDTH)),
        Prefix(1, drawn(7, *each, 2, WIDTH), drawn(8, *each, 2, WIDTH), drawn(9, heads)),
        Prefix(2, drawn(10, *each, 2, WIDTH), drawn(11, *each, 2, WIDTH)),
        Prefix(2, drawn(12, 2, WIDTH), drawn(13, 2, WIDTH), drawn(14)),
    )


def scales(heads: int) -> tuple[Scale, ...]:
    """Factors at every place, whole and by head, two of them at one place."""
    return (
        Scale(0, "q", drawn(1, heads)),
        Scale(0, "k", drawn(2, WIDTH)),
        Scale(1, "v", drawn(3, WIDTH)),
        Scale(1, "hidden", drawn(4, 4 * WIDTH)),
        Scale(2, "heads", drawn(5, heads)),
        Scale(2, "heads", drawn(6, WIDTH)),
        Scale(2, "k", drawn(7, heads)),
    )


def tensors(edits: Edits) -> list[Tensor]:
    """All trained tensors."""
    found = [one.values for one in (*edits.tokens, *edits.scales, *edits.scores)]
    for one in edits.prefixes:
        found += [one.keys, one.values, *([] if one.gate is None else [one.gate])]
    return found


def inside(edits: Edits, heads: int) -> dict[str, Any]:
    """The same edits for the plain encoders."""
    return {
        "attend": attention_behind(edits.prefixes, edits.scores),
        "scaled": scaled_by(edits.scales, heads),
    }


def plain_text(backbone: Any, prompts: Sequence[str], edits: Edits, heads: int) -> Tensor:
    """Raw features of prompts, computed from all 77 tokens of each."""
    module, ids = backbone.module, backbone.tokenize(prompts)
    embedded = module.token_embedding(ids) + module.positional_embedding
    before = written(edits.tokens)
    rows = encoders.text_rows(module, embedded, before, **inside(edits, heads))
    end = ids.argmax(dim=-1) + sum(one.count for one in edits.tokens if one.mode == "insert")
    return rows[torch.arange(len(rows)), end] @ module.text_projection


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("shared", [None, 1])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("prompts", [ONE_GROUP, FOUR_GROUPS], ids=["one-group", "four-groups"])
def test_prefixes_and_factors_of_texts(
    backbone: Any, prompts: list[str], each: bool, shared: int | None, recompute: bool
) -> None:
    text = backbone.text_tower()
    packed = text.pack_tokens(backbone.tokenize(prompts), shared)
    edits = Edits(
        prefixes=prefixes(len(prompts) if each else 0, text.heads), scales=scales(text.heads)
    )
    agree(
        tensors(edits),
        lambda: text.encode_packed(packed, edits=edits, recompute=recompute),
        lambda: plain_text(backbone, prompts, edits, text.heads),
    )


@pytest.mark.parametrize("mode", ["insert", "replace"])
@pytest.mark.parametrize("rows", [(2, WIDTH), (len(FOUR_GROUPS), 2, WIDTH)], ids=["all", "each"])
def test_rows_are_written_behind_start_tokens_of_their_own(
    backbone: Any, rows: tuple[int, ...], mode: Any
) -> None:
    text = backbone.text_tower()
    packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS))
    edits = Edits(
        (Tokens(1, drawn(20, *rows), mode=mode), Tokens(2, drawn(21, *rows))),
        prefixes=(Prefix(0, drawn(1, 9, 2, WIDTH), drawn(2, 9, 2, WIDTH)), *prefixes(9)[4:]),
    )
    agree(
        tensors(edits),
        lambda: text.encode_packed(packed, edits=edits),
        lambda: plain_text(backbone, FOUR_GROUPS, edits, text.heads),
    )


def test_prefixes_of_runs(backbone: Any) -> None:
    text, ids = backbone.text_tower(), backbone.tokenize(FOUR_GROUPS)
    end, start = ids.argmax(dim=-1), 5
    embedded = text.embed(ids)
    firsts = embedded[0, :start] + drawn(0, 4, start, WIDTH)
    edits = Edits(prefixes=prefixes(4, text.heads))

    def whole() -> Tensor:
        return text.encode_embeddings(firsts, embedded[:, start:], end - start, edits=edits)

    def apart() -> Tensor:
        runs = [
            text.encode_embeddings(
                first,
                embedded[:, start:],
                end - start,
                edits=Edits(
                    prefixes=tuple(
                        Prefix(one.layer, one.keys[run], one.values[run], one.gate)
                        if one.each
                        else one
                        for one in edits.prefixes
                    )
                ),
            )
            for run, first in enumerate(firsts)
        ]
        return torch.stack(runs)

    agree(tensors(edits), whole, apart)


@pytest.mark.parametrize("shared", [None, 1])
def test_parts_of_prompts_take_their_members_prefixes(backbone: Any, shared: int | None) -> None:
    text = backbone.text_tower()
    packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS), shared)
    for entries in (0, 9):
        edits = Edits(prefixes=prefixes(entries, text.heads))
        whole, parts = text.encode_packed(packed, edits=edits), packed.divide(3)
        assert len(parts) > 1
        for part in parts:
            mine = text.encode_packed(part.packed, edits=edits.of(part.members))
            assert relative_gap(mine, whole[part.members]) < TOLERANCE


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("entries", [0, 4])
@pytest.mark.parametrize("rows", [None, (0, -1)])
def test_prefixes_and_factors_of_images(
    backbone: Any, rows: tuple[int, ...] | None, entries: int, recompute: bool
) -> None:
    vision = backbone.image_tower()
    length = vision.tokens
    edits = Edits(
        (Tokens(1, drawn(20, 2, WIDTH), "end", "insert"),),
        rows=rows,
        prefixes=prefixes(entries, vision.heads),
        scales=scales(vision.heads),
        scores=(
            Scores(0, drawn(21, length, length)),
            Scores(1, drawn(22, *[entries] * bool(entries), vision.heads, length + 2, length + 2)),
            Scores(2, drawn(23, vision.heads, length + 2, length + 2)),
            Scores(2, drawn(24, length + 2, length + 2)),
        ),
    )

    def plain() -> Tensor:
        before, own = written(edits.tokens), inside(edits, vision.heads)
        every = encoders.image_rows(backbone.module, PIXELS, before, **own)
        found = every[:, list(rows or (0,))] @ backbone.module.visual.proj
        return found if rows else found[:, 0]

    agree(tensors(edits), lambda: vision.encode(PIXELS, edits=edits, recompute=recompute), plain)


def test_an_empty_prefix_is_none_bit_for_bit(backbone: Any) -> None:
    text, vision = backbone.text_tower(), backbone.image_tower()
    packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS))
    empty = torch.empty(0, WIDTH)
    each = torch.empty(9, 0, WIDTH)
    rows = drawn(0, 2, WIDTH)
    nothing = Edits(
        prefixes=(
            Prefix(1, empty, empty),
            Prefix(1, empty, empty, torch.ones(1)),
            Prefix(2, rows, rows, torch.tensor(0.0)),
        )
    )
    of_text = Edits(prefixes=(*nothing.prefixes, Prefix(2, each, each)))
    assert torch.equal(text.encode_packed(packed), text.encode_packed(packed, edits=of_text))
    assert torch.equal(vision.encode(PIXELS), vision.encode(PIXELS, edits=nothing))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("entries", [0, 4])
def test_flops_of_prefixes_are_those_of_torch(
    backbone: Any, entries: int, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def products(q: Tensor, k: Tensor, v: Tensor, attn_mask: None = None) -> Tensor:
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ v

    # Torch's counter does not know the fused attention of a CPU.
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", products)
    vision, rows = backbone.image_tower(), Tokens(0, drawn(0, 2, WIDTH), "end", "insert")
    every = (
        Prefix(1, drawn(1, 40, WIDTH), drawn(2, 40, WIDTH)),
        Prefix(2, drawn(3, 30, WIDTH), drawn(4, 30, WIDTH), drawn(5)),
    )
    if entries:
        every = tuple(
            Prefix(
                one.layer,
                one.keys.expand(entries, -1, -1),
                one.values.expand(entries, -1, -1),
                one.gate,
            )
            for one in every
        )

    def flops(edits: Edits) -> tuple[int, int]:
        done = Cost()
        with counting(done), FlopCounterMode(display=False) as counter:
            vision.encode(PIXELS, edits=edits, recompute=recompute).square().sum().backward()
        return done.flops, counter.get_total_flops()

    pairs = zip(flops(Edits((rows,))), flops(Edits((rows,), prefixes=every)), strict=True)
    ours, theirs = (after - before for before, after in pairs)
    assert ours > 0
    assert ours == theirs


def test_flops_of_texts_count_prefixes_once_per_token(backbone: Any) -> None:
    text = backbone.text_tower()
    packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS))

    def flops(edits: Edits | None) -> int:
        done = Cost()
        with counting(done), torch.no_grad():
            text.encode_packed(packed, edits=edits)
        return done.flops

    shared = Prefix(1, drawn(1, 5, WIDTH), drawn(2, 5, WIDTH))
    more = flops(Edits(prefixes=(shared,))) - flops(None)
    assert more == 4 * WIDTH * 5 * packed.tokens


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_prefixes_and_factors_run_in_sixteen_bits(precision: str) -> None:
    found = []
    for used in ("fp32", precision):
        backbone = random_backbone(width=WIDTH, layers=LAYERS, precision=used)
        text, vision = backbone.text_tower(), backbone.image_tower()
        packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS))
        values = []
        for tower in (text, vision):
            near_one = tuple(
                Scale(one.layer, one.at, 1 + 0.1 * one.values) for one in scales(tower.heads)
            )
            edits = Edits(prefixes=prefixes(0, tower.heads), scales=near_one)
            if tower is text:
                features = text.encode_packed(packed, edits=edits)
            else:
                features = vision.encode(PIXELS, edits=edits)
            trained = tensors(Edits(prefixes=edits.prefixes))
            gradients = torch.autograd.grad(features.square().sum(), trained)
            values += [features, *gradients]
        found.append(values)
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert relative_gap(other, one) < 0.1


def test_what_cannot_be_put_inside_is_refused(backbone: Any) -> None:
    text, vision = backbone.text_tower(), backbone.image_tower()
    packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS))
    one, four = drawn(0, 3, WIDTH), drawn(0, 4, 3, WIDTH)

    def of_text(*every: Any) -> Callable[[], Tensor]:
        chosen = [[x for x in every if isinstance(x, kind)] for kind in (Prefix, Scale)]
        edits = Edits(prefixes=tuple(chosen[0]), scales=tuple(chosen[1]))
        return lambda: text.encode_packed(packed, edits=edits)

    for message, call in {
        "Prefix.layer=3: the tower has 3 layers": of_text(Prefix(3, one, one)),
        "Scale.layer=3: the tower has 3 layers": of_text(Scale(3, "k", drawn(0, 3))),
        "Prefix.values are 32 wide": of_text(Prefix(0, drawn(0, 3, 32), drawn(0, 3, 32))),
        "Prefix.values of 4 prompts: there are 9": of_text(Prefix(0, four, four)),
        "Prefix.keys of 4 images or prompts: there are 2": lambda: vision.encode(
            PIXELS[:2], edits=Edits(prefixes=(Prefix(0, four, four),))
        ),
        "expected .n, width.": lambda: Prefix(0, one, four),
        "Prefix.gate of shape": lambda: Prefix(0, one, one, one),
        "has 7 factors: 'k' of block 0 has 48 values": of_text(Scale(0, "k", drawn(0, 7))),
        "has 7 factors: 'hidden' of block 0 has 192 values$": of_text(
            Scale(0, "hidden", drawn(0, 7))
        ),
        "Scores.layer=3: the tower has 3 layers": lambda: vision.encode(
            PIXELS, edits=Edits(scores=(Scores(3, drawn(0, 6, 6)),))
        ),
        "block 0 has .* rows of 4 images, and 3 heads": lambda: vision.encode(
            PIXELS, edits=Edits(scores=(Scores(0, drawn(0, 6, 6)),))
        ),
        "expected .length, length.": lambda: Scores(0, drawn(0, 5, 4)),
        "its prompts are packed": lambda: text.encode_packed(
            packed, edits=Edits(scores=(Scores(0, drawn(0, 6, 6)),))
        ),
        "Scale.at": lambda: Scale(0, "o", drawn(0, 7)),  # type: ignore[arg-type]
        "one row of factors": lambda: Scale(0, "k", one),
        "passed the blocks before 2": lambda: vision.encode(
            vision.advance(PIXELS, 2), edits=Edits(prefixes=(Prefix(1, one, one),)), start=2
        ),
    }.items():
        with pytest.raises(ContractError, match=message):
            call()
