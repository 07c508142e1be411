"""The frozen image encoder at work: batches to features, and all that these depend on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.images.cache import transform_of
from fewshot_bench.images.loader import ImageSource

ENCODE_BATCH, SMALL_BATCH = 256, 16
# Grows when the encoders round in another way, so that kept features are made anew.
ENCODER = 2
_NUMBERS = itertools.count(1)
_INSTANCES: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def encoder_content(backbone: Any) -> dict[str, Any]:
    """What computes features: weights, preprocessing, and all that rounding depends on."""
    return {
        "weights": backbone.weights_digest,
        "precision": getattr(backbone, "precision", "fp32"),
        "device": backbone.device.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch": ENCODE_BATCH,
        "encoder": ENCODER,
    } | _preprocessing(backbone)


def _preprocessing(backbone: Any) -> dict[str, Any]:
    """What pixels are made by; where it cannot be told, which backbone of this process it is."""
    transform = transform_of(backbone)
    known = [getattr(backbone, name, None) for name in ("_mean", "_std")]
    if transform is not None and None not in known:
        return {"preprocess": transform, "normalize": repr(known)}
    try:
        return {"instance": _INSTANCES.setdefault(backbone, next(_NUMBERS))}
    except TypeError:
        return {"instance": next(_NUMBERS)}


def encode(source: ImageSource, batches: Iterator[Tensor]) -> Tensor:
    """Raw features (n, width) of batches of pixels, on the CPU."""
    return torch.cat([_encode_batch(source.backbone, pixels).cpu() for pixels in batches])


def _encode_batch(backbone: LoadedBackbone, pixels: Tensor) -> Tensor:
    """Features (b, width) that round alike in whatever batch an image stands.

    Small products go through other kernels, so that a small batch is filled up with repetitions;
    on an accelerator, where more depends on the size, every batch is.
    """
    count = len(pixels)
    least = SMALL_BATCH if pixels.device.type == "cpu" else ENCODE_BATCH
    if count >= least:
        return backbone.encode_image(pixels)
    index = torch.arange(least, device=pixels.device) % count
    return backbone.encode_image(pixels[index])[:count]
