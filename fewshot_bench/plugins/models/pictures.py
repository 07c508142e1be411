"""Training images of an adapted model, to be shown beside its answers (`adapt --keep-support`).

`support_of` is the entry point. Pictures are re-encoded from pixels, without the metadata of the
files (places, cameras, names).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fewshot_bench.images.decode import decode_or_explain, upright
from fewshot_bench.store.kept_models import SUPPORT_SIDE, Support, evenly

if TYPE_CHECKING:
    from fewshot_bench.plugins.models.fitting import FitRunner

QUALITY = 80


def support_of(runner: FitRunner) -> Support:
    """Features, classes and pictures of the given images, or of an even part of many."""
    material = runner.material
    places = np.array(evenly(material.labels.tolist()), dtype=np.int64)
    features = runner.encode(places).cpu().numpy()
    read = material.dataset.read
    pictures = tuple(small(read(material.items[index])) for index in places.tolist())
    return Support(features, material.labels[places], pictures)


def small(data: bytes) -> bytes:
    """A JPEG file of an image, upright, with no side longer than SUPPORT_SIDE."""
    image = decode_or_explain(data)
    # All images were decoded before anything was fitted.
    assert isinstance(image, Image.Image)
    picture = upright(image).convert("RGB")
    picture.thumbnail((SUPPORT_SIDE, SUPPORT_SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    Image.fromarray(np.asarray(picture)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
