"""Images and shots as methods see them: batches of pixels, cached frozen features, views.

`Images` and `Shots` are made by `image_view` and `shots_view`; a view exposes no path and no label
of a query.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.api.task import Augment
from fewshot_bench.images.augment import draw_passes, passes_of, view_key
from fewshot_bench.images.cache import transform_of
from fewshot_bench.images.feature_cache import FeatureCache, Origin, numbered
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.cost import counting, text_cache
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.profiling.once import bill_to
from fewshot_bench.utils.errors import ContractError, indices, whole_number
from fewshot_bench.utils.transfer import send

ENCODE_BATCH, SMALL_BATCH = 256, 16
# Incremented when rounding of the encoders changes, so that cached features are recomputed.
ENCODER = 2
_NUMBERS = itertools.count(1)
_INSTANCES: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def encoder_content(backbone: Any) -> dict[str, Any]:
    """Identity of the encoder: weights and what computes with them, preprocessing, rounding."""
    return {
        "weights": backbone.weights_digest,
        "architecture": getattr(backbone, "architecture", ""),
        "precision": getattr(backbone, "precision", "fp32"),
        "device": backbone.device.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch": ENCODE_BATCH,
        "encoder": ENCODER,
    } | _describe_preprocessing(backbone)


def _describe_preprocessing(backbone: Any) -> dict[str, Any]:
    """Identity of the preprocessing; if unknown, that of the backbone object in this process."""
    transform = transform_of(backbone)
    settings = [getattr(backbone, name, None) for name in ("_mean", "_std")]
    if transform is not None and None not in settings:
        return {"preprocess": transform, "normalize": repr(settings)}
    try:
        return {"instance": _INSTANCES.setdefault(backbone, next(_NUMBERS))}
    except TypeError:
        return {"instance": next(_NUMBERS)}


def encode(source: ImageSource, batches: Iterator[Tensor], *, projected: bool = True) -> Tensor:
    """Raw features (n, width) of batches of pixels, on the CPU."""
    encode_image = source.backbone.encode_image
    if not projected:
        encode_image = partial(encode_image, projected=False)
    return torch.cat([_encode_batch(encode_image, pixels).cpu() for pixels in batches])


def _encode_batch(encode_image: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """Features (b, width) whose rounding does not depend on the batch that an image is in.

    Small matrix products use other kernels, so that a small batch is padded with repetitions; on an
    accelerator, where more depends on the size, every incomplete batch is.
    """
    count = len(pixels)
    least = SMALL_BATCH if pixels.device.type == "cpu" else ENCODE_BATCH
    if count >= least:
        return encode_image(pixels)
    index = torch.arange(least, device=pixels.device) % count
    return encode_image(pixels[index])[:count]


def pad_order(count: int) -> list[int]:
    """An order of `count` images, padded so that no small last batch rounds differently.

    The padding repeats first images. In batches of `ENCODE_BATCH`, or in a single one, the features
    of an image have the same bits in every list.
    """
    rest = count % ENCODE_BATCH
    lacking = SMALL_BATCH - rest if 0 < rest < SMALL_BATCH else 0
    return [number % count for number in range(count + lacking)]


def list_visits(order: Any, count: int) -> list[int]:
    """Indices of the images that a pass visits, in order; all `count` of them by default."""
    return list(range(count)) if order is None else indices("batches: order", order, count)


def labeled(batches: Iterator[Tensor], labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch with its part of the labels, which are in the order of the images."""
    start = 0
    for pixels in batches:
        yield pixels, labels[start : start + len(pixels)].to(pixels.device)
        start += len(pixels)


def check_batches(size: Any, augment: Any, rng: Any) -> None:
    """ContractError for invalid arguments of `batches`."""
    whole_number("batches: size", size, 1)
    if augment is not None:
        _check_augment("batches", augment)
        _check_generator("augmented batches need", rng)


def check_views(count: Any, augment: Any, rng: Any, start: Any) -> None:
    """ContractError for invalid arguments of `views`."""
    whole_number("views: count", count, 1)
    whole_number("views: start", start, 0)
    _check_augment("views", augment)
    if rng is not None:
        _check_generator("views draw from", rng)


def _check_augment(what: str, augment: Any) -> None:
    if not isinstance(augment, Augment):
        raise ContractError(f"{what}: augment is {augment!r}, expected Augment(...) or Augment()")


def _check_generator(what: str, rng: Any) -> None:
    if not isinstance(rng, torch.Generator):
        raise ContractError(f"{what} rng=ctx.rng('augment'), not {rng!r:.80}")


class _Backing:
    """The source behind a view; kept apart from the view, since methods hold views."""

    def __init__(
        self,
        source: ImageSource,
        store: FeatureCache,
        meter: Meter,
        phase: str,
        order: list[int],
        batch: Callable[[int], int],
        seed: int,
    ) -> None:
        self.source = source
        self.store = store
        self._meter = meter
        self.phase = phase
        self.order = order
        self.batch = batch
        self.seed = seed
        self.index = torch.tensor(order)

    @property
    def meter(self) -> Meter:
        """The meter that `accounted` opened; outside of it, the meter the view was made with."""
        return _OPEN.get() or self._meter


_OPEN: ContextVar[Meter | None] = ContextVar("_OPEN", default=None)
# A view holds a token only: methods cannot reach a path, label or source through it. The backing of
# each token is kept here until the cell ends, unreachable from a method's own objects.
_TOKENS = itertools.count(1)
_BACKINGS: dict[int, _Backing] = {}
_BATCHES: dict[int, Iterator[Any]] = {}
# The tokens of every open scope, the newest last.
_SCOPES: list[set[int]] = []


def _behind(view: ImageView) -> _Backing:
    return _BACKINGS[view._token]


@contextmanager
def open_views() -> Iterator[None]:
    """Views made inside work only inside; on exit, their backings are dropped."""
    mine: set[int] = set()
    _SCOPES.append(mine)
    try:
        yield
    finally:
        # The scope of a generator that nobody closes ends when it is collected: within a later one.
        _SCOPES[:] = [scope for scope in _SCOPES if scope is not mine]
        _drop(mine)


def drop_view(view: ImageView) -> None:
    """Free what is behind a view that was made outside of `open_views` and is used no more."""
    _drop([view._token])


def _drop(tokens: Iterable[int]) -> None:
    for token in tokens:
        _BACKINGS.pop(token, None)
        _BATCHES.pop(token, None)


def _new_token() -> int:
    """A token of the innermost scope."""
    token = next(_TOKENS)
    if _SCOPES:
        _SCOPES[-1].add(token)
    return token


class _Batches:
    """An iterator over batches that exposes no source either."""

    __slots__ = ("_token",)

    def __init__(self, batches: Iterator[Any]) -> None:
        self._token = _new_token()
        _BATCHES[self._token] = batches

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Any:
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
        return len(_behind(self).order)

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
        backing = _behind(self)
        check_batches(size, augment, rng)
        indices = [backing.order[number] for number in list_visits(order, len(backing.order))]
        backing.meter.images_seen += len(indices)
        passes: tuple[int, ...] = ()
        if augment is not None and rng is not None:
            passes = draw_passes(1 + max(passes_of(indices), default=0), rng)
        tally = backing.meter.images
        pixels = backing.source.batches(backing.batch(size), indices, augment, passes, tally)
        return _Batches(_move(pixels, device))

    @property
    def raw_features(self) -> Tensor:
        """(n, width) features of the frozen backbone before normalization."""
        return self._encode_frozen(projected=True)

    @property
    def unprojected(self) -> Tensor:
        """(n, tower's width) rows before the projection; see `fewshot_bench.Images`."""
        return self._encode_frozen(projected=False)

    def _encode_frozen(self, *, projected: bool) -> Tensor:
        backing = _behind(self)
        source = backing.source

        def compute(places: list[int]) -> Tensor:
            batches = source.batches(ENCODE_BATCH, places, tally=backing.meter.images)
            return encode(source, batches, projected=projected)

        content = {"kind": "evaluation"} | _read(projected=projected)
        with backing.meter.phase(backing.phase):
            origin = Origin(source.name, backing.phase)
            features = _rows(backing, content, _digests(backing), compute, origin)
        return features[backing.index].to(source.backbone.device)

    @property
    def features(self) -> Tensor:
        """(n, width) unit-length features of the frozen backbone."""
        return F.normalize(self.raw_features, dim=-1)

    def views(
        self,
        count: int,
        augment: Augment,
        rng: torch.Generator | None = None,
        *,
        normalize: bool = True,
        projected: bool = True,
        start: int = 0,
    ) -> Tensor:
        """(count, n, width) features of augmented views; see `fewshot_bench.Images.views`."""
        backing = _behind(self)
        check_views(count, augment, rng, start)
        augment = backing.source.allowed(augment)
        drawn = {"scale": augment.scale, "ratio": augment.ratio, "flip": augment.flip}
        drawn |= _read(projected=projected)
        with backing.meter.phase(backing.phase):
            if rng is None:
                numbers = range(start, start + count)
                flat = _own_views(backing, numbers, augment, drawn | {"kind": "own views"})
            else:
                flat = _draw_views(backing, draw_passes(count, rng), augment, drawn)
        features = flat.to(backing.source.backbone.device)
        features = features.view(count, len(backing.order), features.shape[-1])
        return F.normalize(features, dim=-1) if normalize and projected else features.clone()


def _read(*, projected: bool) -> dict[str, Any]:
    """The part of a row's identity that states if rows were read before the projection."""
    return {} if projected else {"read": "before the projection"}


def _draw_views(
    backing: _Backing, passes: tuple[int, ...], augment: Augment, drawn: dict[str, Any]
) -> Tensor:
    """(passes * n, width): one view per image and pass, cached for exactly this request."""

    repeated, tally = backing.order * len(passes), backing.meter.images

    def compute(_: list[int]) -> Tensor:
        batches = backing.source.batches(ENCODE_BATCH, repeated, augment, passes, tally)
        return encode(backing.source, batches, projected="read" not in drawn)

    content = {"images": hashlib.sha256(b"".join(_digests(backing))).hexdigest(), "kind": "views"}
    content |= {"order": hashlib.sha256(str(backing.order).encode()).hexdigest()}
    content |= drawn | {"passes": passes}
    shared = backing.source.turning | encoder_content(backing.source.backbone)
    origin = Origin(backing.source.name, "drawn views", shared, passing=True, whole=True)
    return _rows(backing, content, numbered(len(repeated)), compute, origin)


def _own_views(
    backing: _Backing, numbers: range, augment: Augment, drawn: dict[str, Any]
) -> Tensor:
    """(numbers * n, width): views determined by an image's bytes, the seed and their number."""
    digests = _digests(backing)
    images = [digests[index] for index in backing.order]
    keys = [view_key(digest, backing.seed, number) for number in numbers for digest in images]

    def compute(rows: list[int]) -> Tensor:
        order = [backing.order[row % len(images)] for row in rows]
        batches = backing.source.batches(
            ENCODE_BATCH,
            order,
            augment,
            tally=backing.meter.images,
            keys=[keys[row] for row in rows],
        )
        return encode(backing.source, batches, projected="read" not in drawn)

    origin = Origin(backing.source.name, f"views of seed {backing.seed}", passing=True)
    return _rows(backing, drawn, keys, compute, origin)


class ShotsView(ImageView):
    """Labeled images for a method (see `fewshot_bench.Shots`)."""

    __slots__ = ()

    # The arguments of `ImageView.batches`, and `labels`.
    def batches(self, size: int, *, labels: bool = False, **passed: Any) -> Iterator[Any]:
        """Pixels, or with `labels` (pixels, labels); see `fewshot_bench.Shots.batches`."""
        pixels = super().batches(size, **passed)
        if not labels:
            return pixels
        backing = _behind(self)
        visit = list_visits(passed.get("order"), len(backing.order))
        places = backing.index[torch.tensor(visit, dtype=torch.int64)]
        listed = send(backing.source.labels[places], backing.source.backbone.device)
        return _Batches(labeled(pixels, listed))

    @property
    def labels(self) -> Tensor:
        """(n,) int64 class indices, on the backbone's device."""
        backing = _behind(self)
        return backing.source.labels[backing.index].to(backing.source.backbone.device)


def image_view(
    source: ImageSource,
    store: FeatureCache,
    meter: Meter,
    *,
    phase: str,
    order: list[int] | None = None,
    labeled: bool = False,
    batch: Callable[[int], int] = int,
    seed: int = 0,
) -> ImageView:
    """A view on `source` in `order` (default: as listed); its encodings are billed to `phase`.

    batch: actual batch size for a requested one; the same by default. seed: for the images' own
    augmented views.
    """
    token = _new_token()
    listed = order if order is not None else list(range(len(source)))
    _BACKINGS[token] = _Backing(source, store, meter, phase, listed, batch, seed)
    return ShotsView(token) if labeled else ImageView(token)


def shots_view(
    source: ImageSource, store: FeatureCache, meter: Meter, *, phase: str, seed: int
) -> ShotsView:
    """A labeled view on the whole source."""
    view = image_view(source, store, meter, phase=phase, labeled=True, seed=seed)
    assert isinstance(view, ShotsView)
    return view


@contextmanager
def accounted(store: FeatureCache, meter: Meter) -> Iterator[None]:
    """Meter the encoders inside; class prompts are encoded once, shared and billed."""

    def shared(backbone: Any, prompts: Sequence[str], compute: Callable[[], Tensor]) -> Tensor:
        encoder = encoder_content(backbone)
        content = encoder | {"kind": "text", "prompts": list(prompts)}
        origin = Origin("prompts", "text", encoder, images=False, whole=True)
        keys = numbered(len(prompts))
        with meter.phase("encode_text"):
            features = store.rows(content, keys, lambda _: compute().cpu(), meter, origin)
        return features.to(backbone.device, copy=True)

    token = _OPEN.set(meter)
    try:
        with counting(meter.computed), text_cache(shared), bill_to(meter):
            yield
    finally:
        _OPEN.reset(token)


def _rows(
    backing: _Backing,
    kind: dict[str, Any],
    keys: Sequence[bytes],
    compute: Callable[[list[int]], Tensor],
    origin: Origin,
) -> Tensor:
    """Features image by image; cached on disk too if all that they depend on is known."""
    context = kind | backing.source.turning | encoder_content(backing.source.backbone)
    lasting = "instance" not in context
    return backing.store.rows(context, keys, compute, backing.meter, origin, lasting=lasting)


def _digests(backing: _Backing) -> tuple[bytes, ...]:
    with backing.meter.images.unbilled():
        return backing.source.digests


def _move(batches: Iterator[Tensor], device: torch.device | str | None) -> Iterator[Tensor]:
    for pixels in batches:
        yield pixels if device is None else pixels.to(device)
