"""Towers compute at the precision of the run by themselves, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.backbones import Edits, Site, Tokens
from tests.reference.toy import SIZE, random_backbone, relative_gap
from tests.support.edits import FOUR_GROUPS
from tests.support.families import backbone_of, pixels

WIDTH, LAYERS = 48, 3
MATRICES = {"q": (48, 48), "v": (48, 48), "o": (48, 48), "fc": (192, 48), "proj": (48, 192)}


def drawn(seed: int, *shape: int) -> Tensor:
    """Small trainable float32 values."""
    values = 0.02 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_()


@dataclass(frozen=True)
class Plain:
    """float32 matrices (d_out, d_in) by site."""

    at: Mapping[Site, Tensor]

    def delta(self, site: Site, x: Tensor) -> Tensor | None:
        matrix = self.at.get(site)
        return None if matrix is None else (x[..., None, :] * matrix).sum(-1)


def adapter(encoder: Any) -> Plain:
    """Updates of all matrices in every layer, in float32 whatever the precision."""
    return Plain(
        {
            Site(encoder, layer, matrix): drawn(layer, *shape)
            for layer in range(LAYERS)
            for matrix, shape in MATRICES.items()
        }
    )


def adapted_images(backbone: Any) -> tuple[Tensor, list[Tensor]]:
    plain = adapter("vision")
    images = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return backbone.image_tower().encode(images, plain), [*plain.at.values()]


def adapted_texts(backbone: Any) -> tuple[Tensor, list[Tensor]]:
    plain, tower = adapter("text"), backbone.text_tower()
    packed = tower.pack_tokens(backbone.tokenize(FOUR_GROUPS))
    return tower.encode_packed(packed, plain, recompute=True), [*plain.at.values()]


def edited_texts(backbone: Any) -> tuple[Tensor, list[Tensor]]:
    rows, scale, tower = drawn(0, 3, WIDTH), drawn(1, WIDTH), backbone.text_tower()
    moved = tower.with_parameters({"blocks.0.ln_1.weight": 1 + scale})
    edits = Edits((Tokens(1, rows, mode="insert"),))
    return moved.encode_tokens(backbone.tokenize(FOUR_GROUPS), edits=edits), [rows, scale]


def learned_context(backbone: Any) -> tuple[Tensor, list[Tensor]]:
    tower, context = backbone.text_tower(), drawn(2, 5, WIDTH)
    suffix = tower.embed(backbone.tokenize(FOUR_GROUPS))[:, 1:9]
    end = torch.full((len(suffix),), 7)
    return tower.encode_embeddings(context, suffix, end), [context]


def trained_projection(backbone: Any) -> tuple[Tensor, list[Tensor]]:
    tower = backbone.projection_tower()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    frozen = tower.parameters()["projection"]
    projection = frozen.clone().requires_grad_()
    return tower.with_parameters({"projection": projection}).encode(images), [projection]


def rows_of_timm(backbone: Any) -> tuple[Tensor, list[Tensor]]:
    rows = drawn(3, 2, WIDTH)
    edits = Edits((Tokens(0, rows, "end", "insert"),))
    return backbone.image_tower().encode(pixels(), edits=edits), [rows]


RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 16}
CASES: dict[str, tuple[Callable[[Any], tuple[Tensor, list[Tensor]]], Callable[[str], Any]]] = {
    **{
        encode.__name__: (encode, lambda p: random_backbone(width=WIDTH, layers=3, precision=p))
        for encode in (adapted_images, adapted_texts, edited_texts, learned_context)
    },
    "resnet": (trained_projection, lambda p: random_backbone(vision=RESNET, precision=p)),
    "timm": (rows_of_timm, lambda p: backbone_of("siglip", p)),
}


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("case", CASES)
def test_a_tower_needs_no_autocast_of_its_caller(case: str) -> None:
    """Features are float32 and those of a caller's autocast, bit for bit, and gradients flow."""
    encode, load = CASES[case]
    found = []
    for precision in ("fp32", "bf16"):
        backbone = load(precision)
        features, trained = encode(backbone)
        assert features.dtype == torch.float32
        with backbone.autocast():
            inside, _ = encode(backbone)
        assert inside.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)
        assert torch.equal(features, inside.float())
        loss = F.normalize(features, dim=-1)[..., ::2].sum()
        found.append([features, *torch.autograd.grad(loss, trained)])
    for one, other in zip(*found, strict=True):
        assert other.isfinite().all()
        assert relative_gap(other, one) < 0.05
    assert not torch.equal(found[0][0], found[1][0])
