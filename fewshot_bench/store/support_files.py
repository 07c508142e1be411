"""Training images shown beside the answers of a kept model: features, classes, small pictures.

`packed_support` and `read_support` are the entry points. The file is written only on request, and
is never pushed to a hub (`store/hub.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench.store.model_files import SUPPORT, ModelConfig
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import read_regular

if TYPE_CHECKING:
    import numpy as np

SUPPORT_MOST = 500
"""Maximum number of images in a model."""
SUPPORT_SIDE = 96
"""Longer side of a picture in pixels."""
SUPPORT_BYTES = 32 * 2**20
"""Maximum bytes of a file."""
JPEG = b"\xff\xd8\xff"
# Features of low precision deviate from unit length by at most this.
LENGTH = 0.02


@dataclass(frozen=True, eq=False)
class Support:
    """features: (n, width) of unit length, float32; labels: (n,) classes; pictures: JPEG files."""

    features: np.ndarray
    labels: np.ndarray
    pictures: tuple[bytes, ...]


def packed_support(support: Support) -> bytes:
    """Serialize the training images as the content of a safetensors file."""
    import numpy as np
    from safetensors.numpy import save

    content: bytes = save(
        {
            "features": np.ascontiguousarray(support.features, dtype=np.float32),
            "labels": np.asarray(support.labels, dtype=np.int64),
            "pictures": np.frombuffer(b"".join(support.pictures), dtype=np.uint8),
            "ends": np.cumsum([len(one) for one in support.pictures], dtype=np.int64),
        }
    )
    return content


def read_support(folder: Path, config: ModelConfig, width: int) -> Support | None:
    """Read a model's training images; None if it has none, StoreError for a damaged file.

    width: dimension of the backbone's features. A file that the config does not state is not read.
    """
    path = folder / SUPPORT
    if not config.support or not path.exists():
        return None
    try:
        content = read_regular(path, SUPPORT_BYTES)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != config.support:
        raise StoreError(
            f"{path} is damaged: its digest is not the one in the config; copy the folder again, "
            "or remove the file"
        )
    found = _unpacked(content, len(config.classnames), width)
    if found is None:
        raise StoreError(f"{path} holds no training images of this model; remove it")
    return found


def _unpacked(content: bytes, classes: int, width: int) -> Support | None:
    """Parse the content of a file; None if it is malformed or inconsistent."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(content)
        features, labels, ends = (arrays[name] for name in ("features", "labels", "ends"))
        data = arrays["pictures"]
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None
    count = len(ends) if ends.ndim == 1 else 0
    types = [array.dtype.str for array in (features, labels, data, ends)]
    if types != ["<f4", "<i8", "|u1", "<i8"] or not 0 < count <= SUPPORT_MOST:
        return None
    if features.shape != (count, width) or labels.shape != (count,) or data.ndim != 1:
        return None
    starts = np.concatenate([[0], ends[:-1]])
    if (starts >= ends).any() or ends[-1] != len(data) or labels.min() < 0:
        return None
    lengths = np.linalg.norm(features.astype(np.float64), axis=1)
    # Written so that NaN fails, too.
    if labels.max() >= classes or not (np.abs(lengths - 1) <= LENGTH).all():
        return None
    pairs = zip(starts.tolist(), ends.tolist(), strict=True)
    pictures = tuple(data[start:end].tobytes() for start, end in pairs)
    if not all(one.startswith(JPEG) for one in pictures):
        return None
    return Support(features, labels, pictures)


def evenly(labels: Sequence[int], most: int = SUPPORT_MOST) -> list[int]:
    """Indices of at most `most` images, balanced over classes, the first of each class first."""
    seen: dict[int, int] = {}
    ranks = []
    for place, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        ranks.append((seen[label], place))
    return sorted(place for _, place in sorted(ranks)[:most])
