"""ResNets as pooled rows and a projection, against open_clip's module."""

from __future__ import annotations

import traceback
import weakref

import pytest
import torch

from fewshot_bench.backbones import Edits, ProjectingBackbone
from fewshot_bench.backbones.shape import shape_of
from fewshot_bench.utils.errors import ContractError, UnsupportedBackboneError
from tests.reference.toy import random_backbone, relative_gap
from tests.support.families import backbone_of

RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 16}


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-6), ("bf16", 0.02)])
def test_projected_rows_are_the_features(precision: str, allowed: float) -> None:
    backbone = random_backbone(vision=RESNET, precision=precision)
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    rows = backbone.encode_image(pixels, projected=False)
    assert rows.shape == (3, 32 * RESNET["width"])  # type: ignore[operator]
    last = backbone.module.visual.attnpool.c_proj
    with torch.no_grad():
        expected = backbone.module.float().encode_image(pixels)
    assert relative_gap(last.float()(rows), expected) < allowed


def test_the_projection_alone_can_change() -> None:
    backbone = random_backbone(vision=RESNET)
    assert isinstance(backbone, ProjectingBackbone)
    tower = backbone.projection_tower()
    pixels = torch.zeros(1, 3, 64, 64)
    assert sorted(tower.parameters()) == ["projection", "projection_bias"]
    doubled = tower.with_parameters({name: 2 * one for name, one in tower.parameters().items()})
    assert torch.equal(doubled.encode(pixels), 2 * tower.encode(pixels))
    with pytest.raises(UnsupportedBackboneError, match="takes no adapter"):
        tower.encode(pixels, edits=Edits(rows=(0,)))
    with pytest.raises(ContractError, match="names are such as projection"):
        tower.with_parameters({"blocks.0.ln_1.weight": torch.zeros(1)})


def test_other_encoders_hand_out_their_tower_or_their_reason() -> None:
    vit = random_backbone()
    assert vit.projection_tower() is vit.image_tower()
    convolutional = backbone_of("mobileclip-s")
    with pytest.raises(UnsupportedBackboneError, match="no transformer blocks"):
        convolutional.projection_tower()


def test_the_reason_why_there_is_no_tower_keeps_no_pixels_and_no_earlier_calls() -> None:
    resnet = random_backbone(vision=RESNET)

    def encoded() -> weakref.ref[torch.Tensor]:
        pixels = torch.zeros(1, 3, 64, 64)
        resnet.encode_image(pixels)
        return weakref.ref(pixels)

    assert [encoded()(), encoded()()] == [None, None]
    lengths = []
    for _ in range(2):
        with pytest.raises(UnsupportedBackboneError) as refused:
            resnet.image_tower()
        lengths.append(len(traceback.extract_tb(refused.value.__traceback__)))
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize(("name", "width"), [("RN50", 2048), ("RN50x4", 2560), ("ViT-B-16", 768)])
def test_the_width_of_rows_is_stated_before_loading(name: str, width: int) -> None:
    assert (shape_of(name).tower, len(set(shape_of(name).image))) == (width, 1)
