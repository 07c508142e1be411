"""Encode once, address by content, remember the cost, bill it; and the views that methods hold."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.images import ImageSource
from fewshot_bench.meter import Cost, Meter
from fewshot_bench.task import Augment

ENCODE_BATCH = 256
MEMORY = 2 << 30


class FeatureStore:
    """Feature matrices by content key, in memory and on disk, each with what it cost to compute.

    A file holds its own key and the SHA-256 of its tensor; one that does not match is recomputed.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[str, tuple[Tensor, Cost]] = {}
        self._used = 0

    def get(self, parts: dict[str, Any], compute: Callable[[], Tensor], meter: Meter) -> Tensor:
        """The features of `parts`: cached, or computed under the meter and kept. Always billed."""
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        found = self._memory.get(key) or self._load(key)
        if found is None:
            features, cost = meter.measure(compute)
            self._save(key, features, cost)
        else:
            features, cost = found
        self._keep(key, features, cost)
        meter.bill(cost)
        return features

    def _keep(self, key: str, features: Tensor, cost: Cost) -> None:
        size = features.numel() * features.element_size()
        if key not in self._memory and self._used + size <= MEMORY:
            self._memory[key] = (features, cost)
            self._used += size

    def _path(self, key: str) -> Path | None:
        return self._folder / key[:2] / f"{key}.safetensors" if self._folder else None

    def _load(self, key: str) -> tuple[Tensor, Cost] | None:
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata, features = file.metadata(), file.get_tensor("features")
            if metadata["key"] != key or metadata["sha256"] != _digest(features):
                return None
            return features, Cost(**json.loads(metadata["cost"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def _save(self, key: str, features: Tensor, cost: Cost) -> None:
        """Write beside and rename; a full or read-only disk only costs the cache."""
        from safetensors.torch import save

        path = self._path(key)
        if path is None:
            return
        metadata = {"key": key, "sha256": _digest(features), "cost": json.dumps(cost.to_dict())}
        data = save({"features": features.contiguous()}, metadata)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(data)
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)
        except OSError:
            return


def _digest(features: Tensor) -> str:
    return hashlib.sha256(
        features.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    ).hexdigest()


class _Backing:
    """What a view stands for; kept apart from the view, which methods hold."""

    def __init__(
        self, source: ImageSource, store: FeatureStore, meter: Meter, phase: str, order: list[int]
    ) -> None:
        self.source = source
        self.store = store
        self.meter = meter
        self.phase = phase
        self.order = order
        self.index = torch.tensor(order)


# A view carries no path, label or source: those stand here, where a method's objects don't lead.
_BACKING: weakref.WeakKeyDictionary[ImageView, _Backing] = weakref.WeakKeyDictionary()


class ImageView:
    """Unlabeled images for a method (see `fewshot_bench.Images`)."""

    __slots__ = ("__weakref__",)

    def __len__(self) -> int:
        return len(_BACKING[self].order)

    def batches(
        self,
        size: int,
        *,
        order: Tensor | None = None,
        augment: Augment | None = None,
        rng: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[Tensor]:
        """Normalized pixels (b, 3, h, w); see `fewshot_bench.Images.batches`."""
        backing = _BACKING[self]
        indices = backing.index if order is None else backing.index[order.cpu()]
        backing.meter.images_seen += len(indices)
        for pixels in backing.source.batches(size, indices.tolist(), augment, rng):
            yield pixels if device is None else pixels.to(device)

    @property
    def raw_features(self) -> Tensor:
        """(n, width) features of the frozen backbone before normalization."""
        backing = _BACKING[self]
        source = backing.source

        def compute() -> Tensor:
            order = range(len(source))
            return _encode(source, source.batches(ENCODE_BATCH, order, None, None), backing.meter)

        parts = _content(source) | {"kind": "evaluation"}
        with backing.meter.phase(backing.phase):
            features = backing.store.get(parts, compute, backing.meter)
        return features[backing.index].to(source.backbone.device)

    @property
    def features(self) -> Tensor:
        """(n, width) unit-length features of the frozen backbone."""
        return F.normalize(self.raw_features, dim=-1)

    def views(
        self, count: int, augment: Augment, rng: torch.Generator, *, normalize: bool = True
    ) -> Tensor:
        """(count, n, width) features of augmented views; see `fewshot_bench.Images.views`."""
        backing = _BACKING[self]
        seed = int(torch.randint(2**62, (1,), generator=rng))
        order = backing.order

        def compute() -> Tensor:
            stream = torch.Generator().manual_seed(seed)
            repeated = order * count
            batches = backing.source.batches(ENCODE_BATCH, repeated, augment, stream)
            return _encode(backing.source, batches, backing.meter)

        parts = _content(backing.source) | {"kind": "views", "count": count, "seed": seed}
        parts |= {"scale": augment.scale, "ratio": augment.ratio, "flip": augment.flip}
        parts |= {"order": hashlib.sha256(str(order).encode()).hexdigest()}
        with backing.meter.phase(backing.phase):
            flat = backing.store.get(parts, compute, backing.meter)
        features = flat.to(backing.source.backbone.device)
        features = features.view(count, len(order), features.shape[-1])
        return F.normalize(features, dim=-1) if normalize else features.clone()


class ShotsView(ImageView):
    """Labeled images for a method (see `fewshot_bench.Shots`)."""

    __slots__ = ()

    @property
    def labels(self) -> Tensor:
        """(n,) int64 class indices, on the backbone's device."""
        backing = _BACKING[self]
        return backing.source.labels[backing.index].to(backing.source.backbone.device)


def image_view(
    source: ImageSource,
    store: FeatureStore,
    meter: Meter,
    *,
    phase: str,
    order: list[int] | None = None,
    labeled: bool = False,
) -> ImageView:
    """A view on `source` in `order` (default: as listed); its encodings are billed to `phase`."""
    view = ShotsView() if labeled else ImageView()
    _BACKING[view] = _Backing(
        source, store, meter, phase, order if order is not None else list(range(len(source)))
    )
    return view


def shots_view(source: ImageSource, store: FeatureStore, meter: Meter, *, phase: str) -> ShotsView:
    """A labeled view on the whole source."""
    view = image_view(source, store, meter, phase=phase, labeled=True)
    assert isinstance(view, ShotsView)
    return view


def _content(source: ImageSource) -> dict[str, Any]:
    """Everything that the features of a source depend on."""
    backbone: Any = source.backbone
    return {
        "images": source.digest,
        "weights": backbone.weights_digest,
        "preprocess": repr((backbone.image_size, getattr(backbone, "_steps", ""))),
        "normalize": repr((getattr(backbone, "_mean", ""), getattr(backbone, "_std", ""))),
        "precision": getattr(backbone, "precision", "fp32"),
        "device": backbone.device.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch": ENCODE_BATCH,
    }


def _encode(source: ImageSource, batches: Iterator[Tensor], meter: Meter) -> Tensor:
    parts = []
    for pixels in batches:
        meter.images_encoded += len(pixels)
        parts.append(source.backbone.encode_image(pixels).cpu())
    return torch.cat(parts)
