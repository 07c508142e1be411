"""Blocks that nothing changes run once: the same features and gradients, less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fewshot_bench.backbones import Edits, Tokens
from fewshot_bench.profiling.cost import Cost, counting
from fewshot_bench.utils.errors import ContractError
from tests.reference.toy import SIZE, random_backbone, relative_gap

PROMPTS = [f"a photo of a {' '.join(['cat'] * (1 + i % 4))}." for i in range(9)]


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP of three layers."""
    return random_backbone(width=48, layers=3)


def inserted(seed: int, layer: int, width: int) -> Edits:
    """Two random trained rows, written before a block."""
    rows = torch.randn(2, width, generator=torch.Generator().manual_seed(seed))
    return Edits((Tokens(layer, rows.requires_grad_(), mode="insert"),))


def gradient(features: Tensor, edits: Edits) -> Tensor:
    """The gradient of a random projection in the rows of `edits`."""
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    (rows,) = edits.tokens
    return torch.autograd.grad((features * weights).sum(), rows.values)[0]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("layer", [1, 2])
def test_texts_that_passed_the_first_blocks(backbone: Any, layer: int, recompute: bool) -> None:
    tower, edits = backbone.text_tower(), inserted(0, 2, 48)
    packed = tower.pack_tokens(backbone.tokenize(PROMPTS))
    further = tower.advance(packed, layer)
    plain = tower.encode_packed(packed, edits=edits)
    ours = tower.encode_packed(further, edits=edits, recompute=recompute)
    assert torch.equal(ours, plain)
    assert torch.equal(gradient(ours, edits), gradient(plain, edits))
    for part in further.divide(3):
        some = tower.encode_packed(part.packed, edits=edits)
        assert relative_gap(some, plain[part.members]) < 1e-5
    assert torch.equal(tower.advance(further, 2).embedded, tower.advance(packed, 2).embedded)


@pytest.mark.parametrize("layer", [1, 2])
def test_images_that_passed_the_first_blocks(backbone: Any, layer: int) -> None:
    tower, edits = backbone.image_tower(), inserted(0, 2, backbone.image_tower().width)
    pixels = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    rows = tower.advance(pixels, layer)
    assert rows.shape == (4, tower.tokens, tower.width)
    ours, plain = tower.encode(rows, edits=edits, start=layer), tower.encode(pixels, edits=edits)
    assert torch.equal(ours, plain)
    assert torch.equal(gradient(ours, edits), gradient(plain, edits))


def test_a_tower_with_another_first_block_runs_it(backbone: Any) -> None:
    tower = backbone.text_tower()
    packed = tower.pack_tokens(backbone.tokenize(PROMPTS))
    name = "blocks.0.ln_1.weight"
    other = tower.with_parameters({name: 2 * tower.parameters()[name]})
    found = other.encode_packed(tower.advance(packed, 2))
    assert torch.equal(found, other.encode_packed(packed))
    assert not torch.allclose(found, tower.encode_packed(packed))


def test_work_of_the_first_blocks_is_counted_where_it_is_done(backbone: Any) -> None:
    text, vision = backbone.text_tower(), backbone.image_tower()
    packed = text.pack_tokens(backbone.tokenize(PROMPTS))
    pixels = torch.randn(4, 3, SIZE, SIZE)
    whole, first, rest = Cost(), Cost(), Cost()
    with counting(whole):
        text.encode_packed(packed)
        vision.encode(pixels)
    with counting(first):
        further, rows = text.advance(packed, 2), vision.advance(pixels, 2)
    with counting(rest):
        text.encode_packed(further)
        vision.encode(rows, start=2)
    assert first + rest == whole
    assert (rest.images, rest.text_tokens) == (4, packed.tokens)
    assert 0 < first.flops < whole.flops


def test_rows_before_a_block_that_is_passed_are_refused(backbone: Any) -> None:
    text, vision = backbone.text_tower(), backbone.image_tower()
    further = text.advance(text.pack_tokens(backbone.tokenize(PROMPTS)), 2)
    with pytest.raises(ContractError, match="layer=1: these rows have passed the blocks before 2"):
        text.encode_packed(further, edits=inserted(0, 1, 48))
    rows = vision.advance(torch.randn(1, 3, SIZE, SIZE), 2)
    with pytest.raises(ContractError, match="layer=0: these rows have passed"):
        vision.encode(rows, edits=inserted(0, 0, vision.width), start=2)
