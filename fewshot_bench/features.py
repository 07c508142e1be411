"""The views of images that methods hold; frozen features behind them are encoded once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.crops import draw_passes, passes_of
from fewshot_bench.feature_store import FeatureStore
from fewshot_bench.image_cache import transform_of
from fewshot_bench.images import ImageSource
from fewshot_bench.meter import Meter
from fewshot_bench.task import Augment
from fewshot_bench.work import counting, sharing

ENCODE_BATCH = 256
# Grows when the encoders round in another way, so that kept features are made anew.
ENCODER = 2


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


# A view carries a number and nothing else: no path, label or source hangs on it. What the number
# stands for is kept here until the cell ends, where a method's own objects do not lead.
_TOKENS = itertools.count(1)
_BACKINGS: dict[int, _Backing] = {}
_BATCHES: dict[int, Iterator[Tensor]] = {}
_INSTANCES: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def _backing(view: ImageView) -> _Backing:
    return _BACKINGS[view._token]


@contextmanager
def open_views() -> Iterator[None]:
    """Views that are made inside answer inside only; leaving forgets what they stand for."""
    views, batches = set(_BACKINGS), set(_BATCHES)
    try:
        yield
    finally:
        for token in set(_BACKINGS) - views:
            del _BACKINGS[token]
        for token in set(_BATCHES) - batches:
            _BATCHES.pop(token, None)


class _Batches:
    """An iterator over batches that leads nowhere either."""

    __slots__ = ("_token",)

    def __init__(self, batches: Iterator[Tensor]) -> None:
        self._token = next(_TOKENS)
        _BATCHES[self._token] = batches

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Tensor:
        batches = _BATCHES.get(self._token)
        if batches is None:
            raise StopIteration
        try:
            return next(batches)
        except BaseException:
            _BATCHES.pop(self._token, None)
            raise

    def __del__(self) -> None:
        _BATCHES.pop(self._token, None)


class ImageView:
    """Unlabeled images for a method (see `fewshot_bench.Images`)."""

    __slots__ = ("_token",)

    def __init__(self, token: int) -> None:
        self._token = token

    def __len__(self) -> int:
        return len(_backing(self).order)

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
        backing = _backing(self)
        found = backing.index if order is None else backing.index[order.cpu()]
        indices = found.tolist()
        backing.meter.images_seen += len(indices)
        passes: tuple[int, ...] = ()
        if augment is not None:
            if rng is None:
                raise TypeError("augmented batches need rng=ctx.rng('augment')")
            passes = draw_passes(1 + max(passes_of(indices), default=0), rng)
        tally = backing.meter.images
        pixels = backing.source.batches(size, indices, augment, passes, tally)
        return _Batches(_moved(pixels, device))

    @property
    def raw_features(self) -> Tensor:
        """(n, width) features of the frozen backbone before normalization."""
        backing = _backing(self)
        source = backing.source

        def compute() -> Tensor:
            order = range(len(source))
            tally = backing.meter.images
            return _encode(source, source.batches(ENCODE_BATCH, order, tally=tally))

        with backing.meter.phase(backing.phase):
            features = _kept(backing, {"kind": "evaluation"}, compute)
        return features[backing.index].to(source.backbone.device)

    @property
    def features(self) -> Tensor:
        """(n, width) unit-length features of the frozen backbone."""
        return F.normalize(self.raw_features, dim=-1)

    def views(
        self, count: int, augment: Augment, rng: torch.Generator, *, normalize: bool = True
    ) -> Tensor:
        """(count, n, width) features of augmented views; see `fewshot_bench.Images.views`."""
        backing = _backing(self)
        passes, order = draw_passes(count, rng), backing.order

        def compute() -> Tensor:
            repeated, tally = order * count, backing.meter.images
            batches = backing.source.batches(ENCODE_BATCH, repeated, augment, passes, tally)
            return _encode(backing.source, batches)

        augment = backing.source.allowed(augment)
        drawn = {"scale": augment.scale, "ratio": augment.ratio, "flip": augment.flip}
        drawn |= {"kind": "views", "passes": passes}
        drawn |= {"order": hashlib.sha256(str(order).encode()).hexdigest()}
        with backing.meter.phase(backing.phase):
            flat = _kept(backing, drawn, compute)
        features = flat.to(backing.source.backbone.device)
        features = features.view(count, len(order), features.shape[-1])
        return F.normalize(features, dim=-1) if normalize else features.clone()


class ShotsView(ImageView):
    """Labeled images for a method (see `fewshot_bench.Shots`)."""

    __slots__ = ()

    @property
    def labels(self) -> Tensor:
        """(n,) int64 class indices, on the backbone's device."""
        backing = _backing(self)
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
    token = next(_TOKENS)
    _BACKINGS[token] = _Backing(
        source, store, meter, phase, order if order is not None else list(range(len(source)))
    )
    return ShotsView(token) if labeled else ImageView(token)


def shots_view(source: ImageSource, store: FeatureStore, meter: Meter, *, phase: str) -> ShotsView:
    """A labeled view on the whole source."""
    view = image_view(source, store, meter, phase=phase, labeled=True)
    assert isinstance(view, ShotsView)
    return view


@contextmanager
def accounted(store: FeatureStore, meter: Meter) -> Iterator[None]:
    """Count what encoders do inside; class prompts are encoded once, shared and billed."""

    def shared(backbone: Any, prompts: Sequence[str], compute: Callable[[], Tensor]) -> Tensor:
        content = _encoder(backbone) | {"kind": "text", "prompts": list(prompts)}
        with meter.phase("encode_text"):
            features = store.get(content, lambda: compute().cpu(), meter, "prompts", images=False)
        return features.to(backbone.device, copy=True)

    with counting(meter.computed), sharing(shared):
        yield


def _kept(backing: _Backing, drawn: dict[str, Any], compute: Callable[[], Tensor]) -> Tensor:
    """Features by all that they depend on; on the disk too where that can be told."""
    content = _content(backing)
    name, lasting = backing.source.name, "instance" not in content
    return backing.store.get(content | drawn, compute, backing.meter, name, lasting=lasting)


def _content(backing: _Backing) -> dict[str, Any]:
    """Everything that the features of a source depend on."""
    source, backbone = backing.source, cast("Any", backing.source.backbone)
    with backing.meter.images.unbilled():
        digest = source.digest
    return {
        "images": digest,
        "batch": ENCODE_BATCH,
    } | (_encoder(backbone) | _preprocessing(backbone))


def _encoder(backbone: Any) -> dict[str, Any]:
    """What computes features: the weights, and all that rounding depends on."""
    return {
        "weights": backbone.weights_digest,
        "precision": getattr(backbone, "precision", "fp32"),
        "device": backbone.device.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "encoder": ENCODER,
    }


def _preprocessing(backbone: Any) -> dict[str, Any]:
    """What pixels are made by; where it cannot be told, which backbone of this process it is."""
    transform = transform_of(backbone)
    known = [getattr(backbone, name, None) for name in ("_mean", "_std")]
    if transform is not None and None not in known:
        return {"preprocess": transform, "normalize": repr(known)}
    try:
        return {"instance": _INSTANCES.setdefault(backbone, next(_TOKENS))}
    except TypeError:
        return {"instance": next(_TOKENS)}


def _moved(batches: Iterator[Tensor], device: torch.device | str | None) -> Iterator[Tensor]:
    for pixels in batches:
        yield pixels if device is None else pixels.to(device)


def _encode(source: ImageSource, batches: Iterator[Tensor]) -> Tensor:
    return torch.cat([source.backbone.encode_image(pixels).cpu() for pixels in batches])
