"""`toy_backbone`: a CLIP with two small layers per encoder and a solved, untrained projection."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_bench.api.task import Vocabulary
from fewshot_bench.backbones.open_clip import OpenClipBackbone, import_library
from fewshot_bench.testing.observe import single_threaded
from fewshot_bench.testing.toy_images import CLASSNAMES, SIZE, TEMPLATES, draw
from fewshot_bench.utils.rng import generator, isolate

EMBED = 32
CONFIG: dict[str, Any] = {
    "embed_dim": EMBED,
    "vision_cfg": {"image_size": SIZE, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
LOGIT_SCALE = 100.0
RIDGE = 1e-2
MISALIGNMENT = 3.0


def toy_backbone(device: str | torch.device = "cpu", precision: str = "fp32") -> OpenClipBackbone:
    """A new copy of the toy CLIP; zero-shot is better than chance and leaves room to learn."""
    import_library()
    from open_clip.transform import PreprocessCfg, image_transform_v2

    half = (0.5, 0.5, 0.5)
    preprocess = PreprocessCfg(size=SIZE, mean=half, std=half)
    transform = image_transform_v2(preprocess, is_train=False)
    module = copy.deepcopy(_module())
    return OpenClipBackbone(
        "toy", module, _tokenizer(), transform, device=device, precision=precision
    )


@functools.cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@functools.cache
def _module() -> nn.Module:
    from open_clip import CLIP

    # Single-threaded, so that all processes build a bit-identical toy.
    with isolate(0), single_threaded(), torch.no_grad():
        module: nn.Module = CLIP(**CONFIG).eval()
        module.logit_scale.fill_(math.log(LOGIT_SCALE))  # type: ignore[operator]
        _align(module)
    return module


def _align(module: Any) -> None:
    """Set the image projection by ridge regression to text features, plus a fixed random error."""
    pixels, labels = draw(32, "alignment")
    visual = module.visual
    width, visual.proj = visual.proj.shape[0], None
    pooled = visual(pixels.float() / 127.5 - 1)
    targets = _text_features(module)[labels]
    gram = pooled.T @ pooled / len(pooled) + RIDGE * torch.eye(width)
    projection = torch.linalg.solve(gram, pooled.T @ targets / len(pooled))
    error = torch.randn(width, EMBED, generator=generator(0, "misalignment"))
    scale = MISALIGNMENT * (projection.norm() / error.norm())
    spread = pooled - pooled.mean(dim=0)
    varied = F.normalize(spread, dim=0).T @ F.normalize(spread, dim=0) / width
    visual.proj = torch.nn.Parameter(projection + scale * varied @ error)


def _text_features(module: Any) -> Tensor:
    """(classes, embed) unit features of the toy classes, averaged over the templates."""
    toy = Vocabulary(CLASSNAMES, TEMPLATES)
    tokens = [_tokenizer()(toy.prompts(template)) for template in TEMPLATES]
    features = [F.normalize(module.encode_text(batch), dim=-1) for batch in tokens]
    return F.normalize(torch.stack(features).mean(dim=0), dim=-1)
