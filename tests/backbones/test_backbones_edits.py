"""Edits of the towers against plain loops over whole sequences: features and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from fewshot_bench.backbones import Edits, Tokens, packing
from fewshot_bench.profiling.cost import Cost, counting
from fewshot_bench.utils.errors import ContractError
from tests.reference import encoders
from tests.reference.toy import SIZE, random_backbone, relative_gap
from tests.support.edits import FOUR_GROUPS, ONE_GROUP, TOLERANCE, agree, drawn, theirs, written

PER_CLASS = ["cat in a very small photo of us", "dog on the green hill far away from here now"]


@pytest.fixture(autouse=True)
def groups_of_equal_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """One group per length, as in wide models, where padding costs more than another group."""
    monkeypatch.setattr(packing, "GROUP_TOKENS", 0)


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP of three layers."""
    return random_backbone(width=48, layers=3)


def plain_text(
    backbone: Any, prompts: list[str], tokens: Sequence[Tokens] = (), **more: Any
) -> Tensor:
    """Raw features of prompts, computed from all 77 tokens of each."""
    module, ids = backbone.module, backbone.tokenize(prompts)
    embedded = module.token_embedding(ids) + module.positional_embedding
    rows = encoders.text_rows(module, embedded, written(tokens), **more)
    inserted = sum(one.count for one in tokens if one.mode == "insert")
    end = ids.argmax(dim=-1) + inserted
    return rows[torch.arange(len(rows)), end] @ module.text_projection


SHARED = {
    "replaced": [Tokens(0, drawn(0, 3, 48)), Tokens(2, drawn(1, 3, 48))],
    "inserted": [Tokens(1, drawn(2, 4, 48), mode="insert"), Tokens(2, drawn(3, 4, 48))],
    "twice": [Tokens(1, drawn(4, 2, 48), mode="insert"), Tokens(2, drawn(5, 1, 48), mode="insert")],
}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("prompts", [ONE_GROUP, FOUR_GROUPS], ids=["one-group", "four-groups"])
@pytest.mark.parametrize("tokens", SHARED.values(), ids=list(SHARED))
def test_shared_rows_of_text(
    backbone: Any, prompts: list[str], tokens: list[Tokens], recompute: bool
) -> None:
    text = backbone.text_tower()
    packed = text.pack_tokens(backbone.tokenize(prompts))
    assert packed.packing.layout.prefix > 3
    assert len(packed.packing.layout.shape) == (4 if prompts is FOUR_GROUPS else 1)
    edits = Edits(tuple(tokens))
    agree(
        [one.values for one in tokens],
        lambda: text.encode_packed(packed, edits=edits, recompute=recompute),
        lambda: plain_text(backbone, prompts, tokens),
    )


@pytest.mark.parametrize("prompts", [PER_CLASS, FOUR_GROUPS], ids=["one-group", "four-groups"])
@pytest.mark.parametrize("mode", ["replace", "insert"])
@pytest.mark.parametrize("prefix", [1, 2, 5])
def test_rows_of_each_prompt_end_the_shared_prefix(
    backbone: Any, prompts: list[str], mode: Any, prefix: int
) -> None:
    text = backbone.text_tower()
    packed = text.pack_tokens(backbone.tokenize(prompts), prefix)
    tokens = [
        Tokens(1, drawn(0, len(prompts), 3, 48), mode=mode),
        Tokens(2, drawn(1, len(prompts), 3, 48)),
        Tokens(2, drawn(2, 2, 48)),
    ]
    agree(
        [one.values for one in tokens],
        lambda: text.encode_packed(packed, edits=Edits(tuple(tokens))),
        lambda: plain_text(backbone, prompts, tokens),
    )


@pytest.mark.parametrize("prefix", [1, None])
def test_parts_of_packed_prompts_take_their_members_values(
    backbone: Any, prefix: int | None
) -> None:
    text = backbone.text_tower()
    packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS), prefix)
    values = drawn(0, 9, 3, 48) if prefix else drawn(0, 3, 48)
    edits = Edits((Tokens(1, values),))
    whole = text.encode_packed(packed, edits=edits)
    parts = packed.divide(3)
    assert len(parts) > 1
    for part in parts:
        mine = text.encode_packed(part.packed, edits=edits.of(part.members))
        assert relative_gap(mine, whole[part.members]) < TOLERANCE


@pytest.mark.parametrize("mode", ["replace", "insert"])
def test_rows_of_each_run(backbone: Any, mode: Any) -> None:
    text, ids = backbone.text_tower(), backbone.tokenize(FOUR_GROUPS)
    end, start = ids.argmax(dim=-1), 5
    embedded = text.embed(ids)
    prefixes = embedded[0, :start] + drawn(0, 4, start, 48)
    for values in (drawn(1, 4, 2, 48), drawn(1, 2, 48)):
        edits = Edits((Tokens(1, values, mode=mode),))
        runs = text.encode_embeddings(prefixes, embedded[:, start:], end - start, edits=edits)
        for number, prefix in enumerate(prefixes):
            own = values[number] if values.dim() == 3 else values
            alone = text.encode_embeddings(
                prefix,
                embedded[:, start:],
                end - start,
                edits=Edits((Tokens(1, own, mode=mode),)),
            )
            assert relative_gap(runs[number], alone) < TOLERANCE


IMAGE_TOKENS = {
    "appended": [
        Tokens(0, drawn(0, 3, 48), "end", "insert"),
        Tokens(1, drawn(1, 3, 48), "end"),
        Tokens(2, drawn(2, 3, 48), "end"),
    ],
    "inserted": [Tokens(1, drawn(3, 3, 48), "start", "insert"), Tokens(2, drawn(4, 3, 48))],
    "of-each": [Tokens(0, drawn(5, 4, 3, 48), "start", "insert"), Tokens(2, drawn(6, 4, 3, 48))],
}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("rows", [None, (0,), (0, 1, 2, 3), (0, -3, -2, -1)])
@pytest.mark.parametrize("tokens", IMAGE_TOKENS.values(), ids=list(IMAGE_TOKENS))
def test_rows_of_images(
    backbone: Any, tokens: list[Tokens], rows: tuple[int, ...] | None, recompute: bool
) -> None:
    pixels, vision = torch.randn(4, 3, SIZE, SIZE), backbone.image_tower()
    edits = Edits(tuple(tokens), rows=rows)

    def plain() -> Tensor:
        every = encoders.image_rows(backbone.module, pixels, written(tokens))
        found = every[:, list(rows or (0,))] @ backbone.module.visual.proj
        return found if rows else found[:, 0]

    agree(
        [one.values for one in tokens],
        lambda: vision.encode(pixels, edits=edits, recompute=recompute),
        plain,
    )


def test_rows_before_the_projection(backbone: Any) -> None:
    pixels = torch.randn(4, 3, SIZE, SIZE)
    rows = encoders.image_rows(backbone.module, pixels)
    found = backbone.image_tower().encode(pixels, edits=Edits(projected=False))
    assert relative_gap(found, rows[:, 0]) < TOLERANCE
    patches = tuple(range(1, rows.shape[1]))
    found = backbone.image_tower().encode(pixels, edits=Edits(projected=False, rows=patches))
    assert relative_gap(found, rows[:, 1:]) < TOLERANCE
    text = backbone.text_tower()
    packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS))
    found = text.encode_packed(packed, edits=Edits(projected=False))
    assert relative_gap(found @ text.projection, text.encode_packed(packed)) < TOLERANCE


@pytest.mark.parametrize("recompute", [False, True])
def test_branches_at_every_point(backbone: Any, recompute: bool) -> None:
    down, up = drawn(0, 48, 5), drawn(1, 5, 48)

    def added(layer: int, point: str, normed: Tensor, output: Tensor) -> Tensor | float:
        if (layer, point) in ((0, "block"), (1, "attn"), (2, "mlp"), (2, "block")):
            return 0.1 * ((normed + 0.3 * output) @ down).relu() @ up
        return 0.0

    def branch(encoder: str, layer: int, point: str, normed: Tensor, output: Tensor) -> Any:
        found = added(layer, point, normed, output)
        return found if isinstance(found, Tensor) else None

    edits = Edits(branch=branch)
    text, vision = backbone.text_tower(), backbone.image_tower()
    packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS))
    agree(
        [down, up],
        lambda: text.encode_packed(packed, edits=edits, recompute=recompute),
        lambda: plain_text(backbone, FOUR_GROUPS, branch=added),
    )
    pixels = torch.randn(4, 3, SIZE, SIZE)

    def plain() -> Tensor:
        rows = encoders.image_rows(backbone.module, pixels, branch=added)
        return rows[:, 0] @ backbone.module.visual.proj

    agree(
        [down, up],
        lambda: vision.encode(pixels, edits=edits, recompute=recompute),
        plain,
    )


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("encoder", ["vision", "text"])
def test_every_tensor_can_be_trained(backbone: Any, encoder: str, recompute: bool) -> None:
    ids, pixels = backbone.tokenize(FOUR_GROUPS), torch.randn(4, 3, SIZE, SIZE)
    tower = backbone.image_tower() if encoder == "vision" else backbone.text_tower()
    packed = tower.pack_tokens(ids) if encoder == "text" else None
    rng = torch.Generator().manual_seed(0)
    moved = {
        name: (value + 0.05 * torch.randn(value.shape, generator=rng)).requires_grad_()
        for name, value in tower.parameters().items()
    }
    known = {name for name, _ in backbone.module.named_parameters()}
    assert {theirs(name, encoder) for name in moved} <= known
    ours = {theirs(name, encoder) for name in moved}
    left = {n for n in known - ours if n.startswith("visual.") == (encoder == "vision")}
    assert left <= {"logit_scale"}

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = backbone.module

        def forward(self) -> Any:
            if encoder == "vision":
                return self.module.encode_image(pixels)
            return self.module.encode_text(ids)

    def run() -> Tensor:
        trained = tower.with_parameters(moved)
        if encoder == "vision":
            return trained.encode(pixels, recompute=recompute)
        return trained.encode_packed(packed, recompute=recompute)

    named = {f"module.{theirs(name, encoder)}": value for name, value in moved.items()}
    agree(list(moved.values()), run, lambda: functional_call(Encoder(), named, ()))
    assert relative_gap(run(), run_frozen(tower, packed, pixels)) > 1e-2


def run_frozen(tower: Any, packed: Any, pixels: Tensor) -> Tensor:
    """Features of the unmodified tower."""
    found: Tensor = tower.encode(pixels) if packed is None else tower.encode_packed(packed)
    return found


@pytest.mark.parametrize("recompute", [False, True])
def test_flops_of_trained_tensors_agree_with_torch(backbone: Any, recompute: bool) -> None:
    done = Cost()
    text, vision = backbone.text_tower(), backbone.image_tower()
    packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS))
    pixels = torch.randn(4, 3, SIZE, SIZE)
    trained = [
        tower.with_parameters(
            {name: value.clone().requires_grad_() for name, value in tower.parameters().items()}
        )
        for tower in (text, vision)
    ]
    edits = Edits((Tokens(1, drawn(0, 3, 48), mode="insert"),), rows=None)
    with counting(done), FlopCounterMode(display=False) as counter:
        loss = trained[0].encode_packed(packed, edits=edits, recompute=recompute).square().sum()
        loss = loss + trained[1].encode(pixels, edits=edits, recompute=recompute).square().sum()
        loss.backward()
    assert done.flops == pytest.approx(counter.get_total_flops(), rel=0.15)


@pytest.mark.parametrize("recompute", [False, True])
def test_flops_of_branches_are_those_of_torch(backbone: Any, recompute: bool) -> None:
    vision, pixels = backbone.image_tower(), torch.randn(4, 3, SIZE, SIZE)
    # Insert rows before the first block, so that the input of every branch has a gradient.
    rows = Tokens(0, drawn(0, 2, 48), "end", "insert")
    down, up = drawn(1, 7, 48), drawn(2, 48, 7)

    def branch(encoder: str, layer: int, point: str, normed: Tensor, output: Tensor) -> Any:
        return F.linear(F.linear(normed, down).relu(), up) if point != "attn" else None

    def flops(edits: Edits) -> tuple[int, int]:
        done = Cost()
        with counting(done), FlopCounterMode(display=False) as counter:
            vision.encode(pixels, edits=edits, recompute=recompute).square().sum().backward()
        return done.flops, counter.get_total_flops()

    plain, branched = flops(Edits((rows,))), flops(Edits((rows,), branch=branch))
    assert branched[0] > plain[0]
    assert branched[0] == pytest.approx(branched[1], rel=0.04)
    if not recompute:
        ours, theirs = (after - before for before, after in zip(plain, branched, strict=True))
        assert ours == theirs


@pytest.mark.parametrize("precision", ["bf16"])
def test_edits_run_in_sixteen_bits(precision: str) -> None:
    full, half = (random_backbone(width=48, layers=3, precision=p) for p in ("fp32", precision))
    pixels = torch.randn(4, 3, SIZE, SIZE)
    values, scale = drawn(0, 3, 48), drawn(1, 48)
    found = []
    for backbone in (full, half):
        text, vision = backbone.text_tower(), backbone.image_tower()
        packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS))
        edits = Edits(
            (Tokens(1, values, mode="insert"),),
            branch=lambda encoder, layer, point, normed, output: 0.1 * normed * scale,
        )
        with backbone.autocast():
            moved = {"blocks.0.ln_1.weight": 1 + 0.1 * scale, "ln_final.weight": 1 + 0.1 * scale}
            features = text.with_parameters(moved).encode_packed(packed, edits=edits)
            images = vision.encode(pixels, edits=edits)
        loss = features.float().square().mean() + images.float().square().mean()
        found.append(
            [features.float(), images.float(), *torch.autograd.grad(loss, [values, scale])]
        )
    for one, other in zip(*found, strict=True):
        assert relative_gap(other, one) < 0.05


def test_what_cannot_be_written_is_refused(backbone: Any) -> None:
    text, vision = backbone.text_tower(), backbone.image_tower()
    packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS))
    pixels = torch.randn(2, 3, SIZE, SIZE)
    one = drawn(0, 3, 48)
    prefix = packed.packing.layout.prefix

    def of_text(*tokens: Tokens, **more: Any) -> Tensor:
        return text.encode_packed(packed, edits=Edits(tokens, **more))  # type: ignore[no-any-return]

    for message, call in {
        "the tower has 3 layers": lambda: of_text(Tokens(3, one)),
        "the tower is 48 wide": lambda: of_text(Tokens(0, drawn(0, 3, 32))),
        "place='end' in a text": lambda: of_text(Tokens(0, one, "end")),
        "rows are shared by all prompts": lambda: of_text(Tokens(0, drawn(0, prefix, 48))),
        "values of 4 prompts: there are 9": lambda: of_text(Tokens(0, drawn(0, 4, 3, 48))),
        "and a prompt has": lambda: of_text(Tokens(0, drawn(0, 9, 30, 48))),
        "read at their end alone": lambda: of_text(rows=(0,)),
        "values of 3 images: there are 2": lambda: vision.encode(
            pixels, edits=Edits((Tokens(1, drawn(0, 3, 3, 48)),))
        ),
        "Tokens replace 99 rows": lambda: vision.encode(
            pixels, edits=Edits((Tokens(1, drawn(0, 99, 48), "end"),))
        ),
        "each sequence has": lambda: vision.encode(pixels, edits=Edits(rows=(99,))),
        r"Tokens.values of shape \(48,\)": lambda: Tokens(0, drawn(0, 48)),
        "Tokens.place": lambda: Tokens(0, one, "middle"),  # type: ignore[arg-type]
        "Edits.rows": lambda: Edits(rows=()),
        "names are such as blocks.0.ln_1.weight": lambda: text.with_parameters(
            {"blocks.0.ln_1.wieght": one}
        ),
        r"expected \(48,\)": lambda: text.with_parameters({"blocks.0.ln_1.weight": one}),
    }.items():
        with pytest.raises(ContractError, match=message):
            call()


def test_no_edit_is_the_plain_pass_bit_for_bit(backbone: Any) -> None:
    text, vision = backbone.text_tower(), backbone.image_tower()
    packed = text.pack_tokens(backbone.tokenize(FOUR_GROUPS))
    pixels = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(text.encode_packed(packed), text.encode_packed(packed, edits=Edits()))
    assert torch.equal(vision.encode(pixels), vision.encode(pixels, edits=Edits()))
    same = text.with_parameters(text.parameters())
    assert torch.equal(text.encode_packed(packed), same.encode_packed(packed))
