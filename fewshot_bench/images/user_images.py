"""Images passed by users: files, PIL images, arrays and tensors, decoded for a backbone.

`prepare_images` is the entry point. An unusable image is left out, with the reason in one line.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.images.augment import pixels_of
from fewshot_bench.images.cache import Pixels
from fewshot_bench.images.decode import (
    EncodedFiles,
    decode_or_explain,
    deep_problem,
    in_a_line,
    orientation,
    upright,
)
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.utils.prefetch import spread

KINDS = (
    "expected a path, a PIL image, a numpy array (h, w, 3) of uint8, or a torch tensor (3, h, w) "
    "of uint8 or of floats from 0 to 1"
)
# PIL reads an open file on first use, which two threads must not do for one image.
_LOADING = threading.Lock()
AT_A_TIME = 4
"""Images decoded per thread at a time."""


@dataclass(frozen=True)
class Encoded:
    """An encoded image without a path of its own, from a data set or an upload."""

    name: str
    read: Callable[[], bytes]


def name_of(image: Any, number: int) -> str:
    """The name of an image: its path as given, the name of an encoded file, or its number."""
    if isinstance(image, Encoded):
        return image.name
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"


def prepare_images(
    images: Sequence[Any], backbone: LoadedBackbone, rotate: bool
) -> tuple[ImageSource, dict[int, str]]:
    """A source of the usable images, decoded in threads, and the problems of others by index.

    rotate: apply EXIF orientations.
    """
    ready = functools.partial(_ready, backbone=backbone, rotate=rotate)
    results = spread(ready, images, size=AT_A_TIME)
    problems = {number: result for number, result in enumerate(results) if isinstance(result, str)}
    usable = [
        (images[number], result)
        for number, result in enumerate(results)
        if not isinstance(result, str)
    ]
    files = _Given([image for image, _ in usable], tuple(digest for _, (_, digest) in usable))
    source = ImageSource(files, len(usable), backbone, rotate=rotate)
    source.hold([pixels for _, (pixels, _) in usable])
    return source, problems


def _ready(image: Any, backbone: LoadedBackbone, rotate: bool) -> tuple[Pixels, bytes] | str:
    """Pixels (3, h, w) for evaluation and the image's digest, or the reason why it is unusable."""
    data, picture = _open(image)
    problem = picture if isinstance(picture, str) else deep_problem(picture)
    if problem is not None or isinstance(picture, str):
        return str(problem)
    try:
        turned = upright(picture) if rotate else picture
        return pixels_of(backbone.preprocess(turned)), hashlib.sha256(data).digest()
    except Exception as error:
        size = f"{picture.width} x {picture.height} pixels"
        return f"({size}) does not fit the backbone's transform: {in_a_line(error)}"


def _open(image: Any) -> tuple[bytes, Image.Image | str]:
    """All bytes of an image, and the image or the reason why it is unusable."""
    if isinstance(image, str | os.PathLike):
        data = _file(Path(image))
        return (b"", data) if isinstance(data, str) else (data, decode_or_explain(data))
    if isinstance(image, Encoded):
        try:
            content = image.read()
        except Exception as error:
            return b"", f"cannot be read: {in_a_line(error)}"
        return content, decode_or_explain(content)
    try:
        picture = _picture(image)
        # Equal values may have another size or palette.
        about = picture.mode, picture.size, picture.getpalette(), orientation(picture)
        return repr(about).encode() + picture.tobytes(), picture
    except Exception as error:
        return b"", in_a_line(error) if isinstance(image, Image.Image) else str(error)


def _file(path: Path) -> bytes | str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "holds no image" if path.is_dir() else "is no file"
        return path.read_bytes()
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _picture(image: Any) -> Image.Image:
    """Convert an image in memory to a PIL image; ValueError for any other object."""
    if isinstance(image, Image.Image):
        with _LOADING:
            image.load()
        return image
    shape = tuple(getattr(image, "shape", ()))
    values = image
    if isinstance(image, Tensor) and len(shape) == 3 and 0 not in shape:
        pixels = image.detach().cpu().permute(1, 2, 0)
        if pixels.is_floating_point():
            low, high = float(pixels.min()), float(pixels.max())
            if not (low >= 0 and high <= 1):
                raise ValueError(
                    f"has values from {low:g} to {high:g}, expected 0 to 1; hand over an image "
                    "that is not normalized, or one of uint8"
                )
            pixels = (pixels.double() * 255).round().byte()
        values = pixels.numpy()
    is_array = isinstance(values, np.ndarray) and values.dtype == np.uint8 and values.ndim == 3
    if is_array and values.shape[2] == 3 and 0 not in shape:
        return Image.fromarray(np.ascontiguousarray(values))
    kind = type(image).__name__
    kind += f" {shape} of {getattr(image, 'dtype', '?')}" if shape else ""
    raise ValueError(f"is a {kind}; {KINDS}")


class _Given(EncodedFiles):
    """Images with their digests, decoded again only if their pixels are not held in memory."""

    name = "given images"
    stamped = False
    digests: tuple[bytes, ...] = ()

    def __init__(self, images: Sequence[Any], digests: tuple[bytes, ...]) -> None:
        self._images = images
        self.digests = digests

    def read(self, index: int) -> bytes:
        """The encoded file, or the pixels of an image in memory."""
        return _open(self._images[index])[0]

    def title(self, index: int) -> str:
        """The path, or the number of an image in memory."""
        return name_of(self._images[index], index)

    def decode(self, index: int) -> Image.Image:
        """The image; DataMissingError if it changed since it was first read."""
        data, picture = _open(self._images[index])
        if isinstance(picture, str) or hashlib.sha256(data).digest() != self.digests[index]:
            raise self.unusable(index, "changed while it was in use")
        return picture
