"""The functional encoders equal open_clip's own, in values and in gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip import CLIP
from torch import Tensor

from fewshot_bench import UsageError
from fewshot_bench.backbones.embedded import load_tiny
from tests.reference.toy import SIZE, random_backbone, relative_gap

NAMES = (
    "cat",
    "cat tree",
    "cat tree house",
    "St. Bernard",
    "a 1998 Ferrari 458-GT (red), open top & two doors, seen from the left in the rain",
    "supercalifragilisticexpialidocious",
    "U.S.",
    "日本の犬",
)
SHAPES = [
    {"width": 32, "layers": 1, "quick_gelu": True},
    {"width": 48, "layers": 2, "quick_gelu": False},
    {"width": 64, "layers": 3, "quick_gelu": True},
]
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def backbone(request: Any) -> Any:
    """Random models of several shapes."""
    return random_backbone(**request.param)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_images(backbone: Any, count: int) -> None:
    pixels = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = backbone.image_tower().encode(pixels), backbone.module.encode_image(pixels)
    assert relative_gap(ours, theirs) < TOLERANCE


@pytest.mark.parametrize(
    "prompts",
    [
        ["cat"],
        [""],
        ["a photo of a cat.", "a photo of a cat."],
        ["cat", "cat tree"],
        [f"a photo of a {name}." for name in NAMES],
        [f"{name}, seen from the side" for name in NAMES],
        list(NAMES),
        # Enough different lengths that sequences are grouped by length.
        [f"a photo of a {' '.join(['cat'] * (1 + i % 20))}." for i in range(60)],
    ],
    ids=["one", "empty", "same", "prefix", "usual", "name first", "bare", "grouped"],
)
def test_texts(backbone: Any, prompts: list[str]) -> None:
    tokens = backbone.tokenize(prompts)
    with torch.no_grad():
        theirs = backbone.module.encode_text(tokens)
    assert relative_gap(backbone.text_tower().encode_tokens(tokens), theirs) < TOLERANCE
    assert relative_gap(backbone.encode_text(prompts), theirs) < TOLERANCE


def plain_text(module: CLIP, embedded: Tensor, end: Tensor) -> Tensor:
    """open_clip's text encoder from (n, context, width) embeddings without positions."""
    x = module.transformer(embedded + module.positional_embedding, attn_mask=module.attn_mask)
    x = module.ln_final(x)[torch.arange(len(x)), end]
    projected: Tensor = x @ module.text_projection
    return projected


@pytest.mark.parametrize("shared", [0, 1, 4])
def test_gradients_through_embeddings(backbone: Any, shared: int) -> None:
    tower = backbone.text_tower()
    tokens = backbone.tokenize([f"a photo of {name}" for name in NAMES])
    end = tokens.argmax(dim=-1)
    stream = torch.Generator().manual_seed(2)
    prefix = torch.randn(shared, tower.width, generator=stream).mul(0.1).requires_grad_()
    suffix = tower.embed(tokens[:, shared:]).clone().requires_grad_()
    target = torch.randn(len(NAMES), backbone.embed_dim, generator=stream)
    longest = int(end.max()) + 1 - shared
    ours = tower.encode_embeddings(prefix, suffix[:, :longest], end - shared)
    gradients = torch.autograd.grad((ours * target).sum(), (prefix, suffix))
    whole = torch.cat([prefix.expand(len(NAMES), -1, -1), suffix], dim=1)
    theirs = plain_text(backbone.module, whole, end)
    expected = torch.autograd.grad((theirs * target).sum(), (prefix, suffix))
    assert relative_gap(ours, theirs) < TOLERANCE
    for one, other in zip(gradients, expected, strict=True):
        if one.numel():
            assert relative_gap(one, other) < TOLERANCE


def test_a_prompt_that_does_not_fit_is_refused(backbone: Any) -> None:
    with pytest.raises(UsageError, match="shorten"):
        backbone.tokenize(["cat " * 90])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_embedded_backbone(precision: str) -> None:
    backbone = load_tiny(precision=precision)
    features = backbone.encode_text(["a photo of a cat", "seven"])
    assert (features.shape, features.dtype) == ((2, 64), torch.float32)
    before = backbone.fingerprint()
    backbone.image_tower()
    backbone.text_tower()
    assert backbone.fingerprint() == before
    assert load_tiny(precision=precision).fingerprint() == before
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
