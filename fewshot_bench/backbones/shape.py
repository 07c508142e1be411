"""The sizes of a backbone before it is loaded: `shape_of`, and prompts that are `too_long`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_bench.api.registry import registry
from fewshot_bench.backbones.loading import model_config, parse
from fewshot_bench.backbones.open_clip import import_library
from fewshot_bench.backbones.weights import CONFIG, HUB, local_folder, read_config

# The widest published image tower (EVA02-E).
WIDEST = 1792


@dataclass(frozen=True)
class Shape:
    """Sizes of a backbone.

    width: of its features; image: height and width of its images; weights: approximate bytes in
    memory; tower: width of its image tower, which is that of rows before the projection;
    context: tokens that its text encoder reads, 0 if unknown or not those of CLIP's tokenizer;
    image_flops, token_flops: approximate FLOPs of a forward pass per image, and per token of a
    text (0 if unknown).
    """

    width: int
    image: tuple[int, int]
    weights: int
    tower: int = WIDEST
    context: int = 0
    image_flops: float = 0.0
    token_flops: float = 0.0


# For backbones without a known configuration: no published CLIP has wider features.
UNKNOWN = Shape(1280, (336, 336), 0)


def shape_of(name: str) -> Shape:
    """The shape of a backbone by name; `UNKNOWN` if only loading would reveal it."""
    if name in registry().backbones.entries:
        shape = getattr(registry().backbones.find(name).load(), "shape", None)
        return shape() if callable(shape) else UNKNOWN
    config = _config(name)
    return shape_in(config) if config else UNKNOWN


def too_long(backbone: str, prompts: Sequence[str]) -> dict[str, int]:
    """The tokens of each prompt that the text encoder cannot read; empty if that is not known.

    Cells whose methods encode such a prompt fail, since open_clip would silently cut it.
    """
    context = shape_of(backbone).context
    # CLIP's tokens are one byte at least, and a start and an end are added.
    long = [text for text in prompts if len(text.encode()) + 2 > context > 0]
    if not long:
        return {}
    tokenizer = import_library().SimpleTokenizer()
    counts = {text: len(tokenizer.encode(text)) + 2 for text in long}
    return {text: count for text, count in counts.items() if count > context}


def shape_in(config: Mapping[str, Any]) -> Shape:
    """The shape that open_clip's configuration of a model describes."""
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    size = vision.get("image_size", 224)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    tower = int(vision.get("width", 768))
    if "timm_model_name" in vision:
        # The name of timm does not state the width.
        tower = WIDEST
    elif not isinstance(vision.get("layers", 12), int):
        # A list counts the blocks of a ResNet's stages: the last of them is 32 times as wide.
        tower *= 32
    own = any(key in text for key in ("hf_tokenizer_name", "tokenizer_kwargs"))
    context = 0 if own else int(text.get("context_length", 77))
    weights = 4 * _values(vision, text)
    tokens = 2.0 * _block_values(text.get("layers", 12), text.get("width", 512))
    flops = _image_flops(vision, height * width), tokens
    return Shape(int(config["embed_dim"]), (height, width), weights, tower, context, *flops)


def _image_flops(vision: Mapping[str, Any], pixels: int) -> float:
    """Two per weight of a block and patch, and attention; a ResNet-50 at 224 pixels has 12e9."""
    if "timm_model_name" in vision:
        return 0.0
    layers, width = vision.get("layers", 12), int(vision.get("width", 768))
    if not isinstance(layers, int):
        return 12e9 * int(sum(layers)) / 16 * (width / 64) ** 2 * pixels / 224**2
    patches = pixels // int(vision.get("patch_size", 16)) ** 2 + 1
    return 2.0 * patches * (_block_values(layers, width) + 2 * layers * patches * width)


def _block_values(layers: int, width: int) -> int:
    return 12 * layers * width**2


def _config(name: str) -> Mapping[str, Any] | None:
    if name.startswith(HUB):
        return None
    folder = local_folder(name)
    if folder is None:
        return model_config(parse(name).model)
    path = folder / CONFIG
    model: Mapping[str, Any] | None = read_config(path)["model_cfg"] if path.is_file() else None
    return model


def _values(vision: Mapping[str, Any], text: Mapping[str, Any]) -> int:
    """Parameters of a CLIP: 12 width^2 per transformer block; 38 million for a ResNet-50."""
    layers, width = vision.get("layers", 12), vision.get("width", 768)
    image = _block_values(layers, width) if isinstance(layers, int) else sum(layers) * 38e6 / 16
    tokens = text.get("vocab_size", 49408) * text.get("width", 512)
    return int(image + _block_values(text.get("layers", 12), text.get("width", 512)) + tokens)
