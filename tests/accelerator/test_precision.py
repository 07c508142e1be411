"""Encoders take float32 input in any precision, without a context of their caller."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewshot_bench.backbones import Edits, Site, Tokens
from fewshot_bench.testing import toy_backbone
from fewshot_bench.testing.toy import SIZE

pytestmark = pytest.mark.gpu


class Shift:
    """A float32 update of one matrix."""

    def __init__(self, encoder: str, weight: Tensor) -> None:
        self.encoder, self.weight = encoder, weight

    def delta(self, site: Site, x: Tensor) -> Tensor | None:
        return x @ self.weight if site == Site(self.encoder, 1, "v") else None  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_images_and_texts(precision: str, accelerator: str) -> None:
    backbone = toy_backbone(accelerator, precision)
    vision, text = backbone.image_tower(), backbone.text_tower()
    for encoder, width in (("vision", vision.width), ("text", text.width)):
        weight = torch.zeros(width, width, device=accelerator, requires_grad=True)
        rows = torch.zeros(2, width, device=accelerator, requires_grad=True)
        shift = Shift(encoder, weight)
        if encoder == "vision":
            edits = Edits((Tokens(0, rows, "end", "insert"),))
            pixels = torch.randn(2, 3, SIZE, SIZE).to(accelerator)
            features = vision.encode(pixels, shift, edits=edits)
        else:
            edits = Edits((Tokens(1, rows, mode="insert"),))
            tokens = backbone.tokenize(["a red thing", "something of dark blue"])
            features = text.encode_tokens(tokens, shift, edits=edits)
        assert features.dtype == torch.float32
        features.sum().backward()
        for one in (weight, rows):
            assert one.grad is not None
            assert one.grad.isfinite().all()
            assert one.grad.any()
