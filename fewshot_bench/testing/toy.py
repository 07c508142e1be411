"""The kit's toy: colored images in memory, as a data set and as views, and a small CLIP for them.

`toy_backbone` has two layers per encoder and a solved, untrained projection.
"""

from __future__ import annotations

import copy
import functools
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fewshot_bench.api.dataset import DatasetCard
from fewshot_bench.api.items import Item
from fewshot_bench.api.task import Vocabulary
from fewshot_bench.backbones.embedded import tokenizer
from fewshot_bench.backbones.open_clip import OpenClipBackbone, import_library
from fewshot_bench.testing.observe import single_threaded
from fewshot_bench.utils.rng import generator, isolate

SIZE = 16
CLASSNAMES = ("red", "green", "dark_blue", "yellow")
COLORS = ((200, 40, 40), (40, 180, 60), (30, 40, 140), (220, 210, 50))
TEMPLATES = ("a photo of a {}.", "a picture of something {}.")
_NOISE = 40.0


def draw(count: int, stream: str) -> tuple[Tensor, Tensor]:
    """`count` noisy images per class, class by class: uint8 pixels (n, 3, h, w) and labels (n,)."""
    rng = generator(0, "toy-images", stream)
    labels = torch.arange(len(COLORS)).repeat_interleave(count)
    base = torch.tensor(COLORS, dtype=torch.float32)[labels][:, :, None, None]
    light = 1 + 0.2 * torch.randn(len(labels), 1, 1, 1, generator=rng)
    coarse = torch.randn(len(labels), 3, 4, 4, generator=rng).repeat_interleave(4, 2)
    pixels = base * light + _NOISE * coarse.repeat_interleave(4, 3)
    return pixels.clamp(0, 255).to(torch.uint8), labels


@dataclass(frozen=True)
class ToyDataset:
    """PNG files in memory by item id."""

    files: Mapping[str, bytes]

    def card(self) -> DatasetCard:
        """The classes of the toy task."""
        return DatasetCard("toy", "Colored squares", CLASSNAMES, TEMPLATES, license="CC0-1.0")

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """Empty pools: the kit gets its items from `dataset_of`."""
        return {"train": (), "val": (), "test": ()}

    def read(self, item: Item) -> bytes:
        """The PNG file of one item."""
        return self.files[item.id]


def dataset_of(pixels: Tensor, labels: Sequence[int]) -> tuple[ToyDataset, tuple[Item, ...]]:
    """An in-memory data set of the images, and its items with the given labels."""
    files = {f"{index:04d}": _png(image) for index, image in enumerate(pixels)}
    items = tuple(Item(name, label, "") for name, label in zip(files, labels, strict=True))
    return ToyDataset(files), items


def _png(pixels: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _pass_on(name: str) -> Any:
    return property(lambda watched: getattr(watched._view, name))


class WatchedImages:
    """The contract of `Images` and nothing else; records accesses to other attributes."""

    def __init__(self, view: Any) -> None:
        self._view = view
        self._asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            self._asked.append(name)
        raise AttributeError(f"images have no '{name}'; see fewshot_bench.Images")

    def __len__(self) -> int:
        return len(self._view)

    batches = _pass_on("batches")
    features = _pass_on("features")
    raw_features = _pass_on("raw_features")
    unprojected = _pass_on("unprojected")
    views = _pass_on("views")
    rng = _pass_on("rng")
    progress = _pass_on("progress")


class WatchedShots(WatchedImages):
    """The contract of `Shots` and nothing else."""

    labels = _pass_on("labels")


def list_accesses(*images: WatchedImages | None) -> list[str]:
    """Names of accessed attributes outside the contract."""
    return sorted({name for view in images if view is not None for name in view._asked})


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
        "toy", module, tokenizer(), transform, device=device, precision=precision
    )


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
    toy = Vocabulary(CLASSNAMES, TEMPLATES)
    tokens = [tokenizer()(toy.prompts(template)) for template in TEMPLATES]
    features = [F.normalize(module.encode_text(batch), dim=-1) for batch in tokens]
    targets = F.normalize(torch.stack(features).mean(dim=0), dim=-1)[labels]
    gram = pooled.T @ pooled / len(pooled) + RIDGE * torch.eye(width)
    projection = torch.linalg.solve(gram, pooled.T @ targets / len(pooled))
    error = torch.randn(width, EMBED, generator=generator(0, "misalignment"))
    scale = MISALIGNMENT * (projection.norm() / error.norm())
    spread = pooled - pooled.mean(dim=0)
    varied = F.normalize(spread, dim=0).T @ F.normalize(spread, dim=0) / width
    visual.proj = torch.nn.Parameter(projection + scale * varied @ error)
