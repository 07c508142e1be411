"""Images and shots as methods see them: batches of pixels, cached frozen features, views.

`ImageView` and `ShotsView` are made by `image_view`. No label, id or path of a query is behind a
view in a worker: these stay in the label process.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.api.task import Augment
from fewshot_bench.images.augment import draw_passes, passes_of, view_key
from fewshot_bench.images.cache import transform_of
from fewshot_bench.images.feature_cache import FeatureCache, numbered
from fewshot_bench.images.feature_files import Origin
from fewshot_bench.images.loader import ImageSource, Visits
from fewshot_bench.profiling.cost import counting, text_cache
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.profiling.networks import watch_layers
from fewshot_bench.profiling.once import bill_to
from fewshot_bench.utils import determinism, environment
from fewshot_bench.utils.devices import Event, copies_late, is_accelerator, record_event
from fewshot_bench.utils.errors import ContractError, indices, whole_number
from fewshot_bench.utils.rng import named_generator
from fewshot_bench.utils.transfer import send

ENCODE_BATCH, SMALL_BATCH = 256, 16
# Batches whose features are on their way from an accelerator while the next one is encoded.
FETCHING = 2
# Incremented when rounding of the encoders changes, so that cached features are recomputed.
ENCODER = 2
_NUMBERS = itertools.count(1)
_INSTANCES: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def encoder_content(backbone: Any) -> dict[str, Any]:
    """Identity of the encoder: weights and what computes with them, preprocessing, rounding.

    Another model of device rounds otherwise. So does another number of CPU threads, by a few units
    in the last place, which do not count: rows belong to a machine, not to a setting of one run.
    """
    device = backbone.device
    return {
        "weights": backbone.weights_digest,
        "architecture": getattr(backbone, "architecture", ""),
        "precision": getattr(backbone, "precision", "fp32"),
        "device": [device.type, environment.name_of(device)],
        "kernels": [determinism.mode(), determinism.allows_tf32()] * is_accelerator(device),
        "torch": torch.__version__,
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
    """Raw features (n, width) of batches of pixels, on the CPU.

    Their rounding does not depend on the batch that an image is in. Small matrix products use other
    kernels, so that a small batch is padded with repetitions; on an accelerator, where more depends
    on the size, every incomplete batch is. There, features are fetched while later batches are
    encoded.
    """
    options = {} if projected else {"projected": False}
    rows: list[Tensor] = []
    fetching: deque[tuple[Tensor, Event]] = deque()

    def settle(most: int) -> None:
        while len(fetching) > most:
            fetched, event = fetching.popleft()
            event.synchronize()
            # A copy, since pinned memory is scarce.
            rows.append(fetched.clone())

    for pixels in batches:
        count, device = len(pixels), pixels.device
        least = ENCODE_BATCH if is_accelerator(device) else SMALL_BATCH
        if count < least:
            pixels = pixels[torch.arange(least, device=device) % count]
        features = source.backbone.encode_image(pixels, **options)[:count]
        if is_accelerator(features.device):
            copied = features.to("cpu", non_blocking=copies_late(features.device))
            fetching.append((copied, record_event(features.device)))
            settle(FETCHING)
        else:
            rows.append(features)
    settle(0)
    return torch.cat(rows)


def pad_order(count: int) -> list[int]:
    """An order of `count` images, padded so that no small last batch rounds differently.

    The padding repeats first images. In batches of `ENCODE_BATCH`, or in a single one, the features
    of an image have the same bits in every list.
    """
    rest = count % ENCODE_BATCH
    lacking = SMALL_BATCH - rest if 0 < rest < SMALL_BATCH else 0
    return [number % count for number in range(count + lacking)]


def list_visits(order: Any, count: int, what: str = "batches") -> list[int]:
    """Indices of the images that a pass visits, in order; all `count` of them by default."""
    return list(range(count)) if order is None else indices(f"{what}: order", order, count)


def _check_augment(what: str, augment: Any) -> None:
    if not isinstance(augment, Augment):
        raise ContractError(f"{what}: augment is {augment!r}, expected Augment(...) or Augment()")


def _check_generator(what: str, rng: Any) -> None:
    if not isinstance(rng, torch.Generator):
        raise ContractError(f"{what} rng=ctx.rng('augment'), not {rng!r:.80}")


# The meter that `accounted` opened, which views use instead of the one that they were made with.
_OPEN: ContextVar[Meter | None] = ContextVar("_OPEN", default=None)


class ImageView:
    """Unlabeled images for a method (see `fewshot_bench.Images`).

    order: numbers of its images in `source`. Encodings are billed to `phase`. batch: actual batch
    size for a requested one. seed: for the images' own augmented views. streams: seed of `rng`.
    scores: (images of `source`, classes) of another method.
    """

    __slots__ = (
        *("_batch", "_held", "_made_with", "_order", "_phase", "_report", "_scores"),
        *("_seed", "_source", "_store", "_streams"),
    )

    def __init__(
        self,
        source: ImageSource,
        store: FeatureCache,
        meter: Meter,
        phase: str,
        order: list[int],
        batch: Callable[[int], int],
        seed: int,
        streams: int,
        scores: np.ndarray | None = None,
    ) -> None:
        # Frozen features of all images of the source, which parts of a view share.
        self._held: dict[bool, Tensor] | None = None
        self._report: Callable[[int, int], None] | None = None
        self._streams = streams
        self._source = source
        self._store = store
        self._made_with = meter
        self._phase = phase
        self._order = order
        self._batch = batch
        self._seed = seed
        self._scores = scores

    def __len__(self) -> int:
        return len(self._order)

    def __deepcopy__(self, memo: object) -> ImageView:
        return self

    def part(
        self, order: Sequence[int], report: Callable[[int, int], None] | None = None
    ) -> ImageView:
        """The images at some places. Parts share frozen features, which are encoded once for all.

        report: receives what `progress` is called with.
        """
        if self._held is None and len(order) < len(self):
            self._held = {}
        made = copy.copy(self)
        made._order, made._report = [self._order[place] for place in order], report
        return made

    def rng(self, name: str) -> torch.Generator:
        """A new CPU generator; see `fewshot_bench.Images.rng`."""
        return named_generator(self._streams, name, "queries.rng")

    def progress(self, done: int, total: int) -> None:
        """Report progress; see `fewshot_bench.Images.progress`."""
        done = whole_number("queries.progress: done", done, 0)
        total = whole_number("queries.progress: total", total, 0)
        if self._report is not None:
            self._report(done, total)

    @property
    def _meter(self) -> Meter:
        return _OPEN.get() or self._made_with

    def batches(
        self,
        size: int,
        *,
        order: Tensor | Iterator[Tensor] | None = None,
        augment: Augment | None = None,
        rng: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[Tensor]:
        """Normalized pixels (b, 3, h, w); see `fewshot_bench.Images.batches`."""
        visited = self._visit(size, order, augment, rng)
        return (pixels if device is None else pixels.to(device) for pixels, _ in visited)

    def _visit(
        self,
        size: int,
        order: Tensor | Iterator[Tensor] | None,
        augment: Augment | None,
        rng: torch.Generator | None,
    ) -> Iterator[tuple[Tensor, list[int] | None]]:
        """Batches of pixels; the first of each pass comes with the source's indices of the pass."""
        whole_number("batches: size", size, 1)
        if augment is not None:
            _check_augment("batches", augment)
            _check_generator("augmented batches need", rng)
        begun: deque[list[int]] = deque()

        def begin(order: Tensor | None) -> Visits:
            indices = [self._order[number] for number in list_visits(order, len(self))]
            begun.append(indices)
            if augment is None or rng is None:
                return Visits(indices)
            occurrences = passes_of(indices)
            seeds = draw_passes(1 + max(occurrences, default=0), rng)
            return self._source.visit(indices, occurrences, seeds)

        # A single order is checked, and its seeds are drawn, before the first batch is asked for.
        passes = map(begin, order) if isinstance(order, Iterator) else iter([begin(order)])
        meter = self._meter
        batches = self._source.serve(self._batch(size), passes, augment, meter.images)
        return _tell_passes(batches, begun, meter)

    @property
    def raw_features(self) -> Tensor:
        """(n, width) features of the frozen backbone before normalization."""
        return self._encode_frozen(projected=True)

    @property
    def unprojected(self) -> Tensor:
        """(n, tower's width) rows before the projection; see `fewshot_bench.Images`."""
        return self._encode_frozen(projected=False)

    def _encode_frozen(self, *, projected: bool) -> Tensor:
        source = self._source

        def compute(indices: list[int]) -> Tensor:
            batches = source.batches(ENCODE_BATCH, indices, tally=self._meter.images)
            return encode(source, batches, projected=projected)

        features = (self._held or {}).get(projected)
        if features is None:
            content = {"kind": "evaluation"} | _describe_rows(projected=projected)
            with self._meter.phase(self._phase):
                origin = Origin(source.name, self._phase)
                features = self._rows(content, self._digests(), compute, origin)
            if self._held is not None:
                self._held[projected] = features
        return features[torch.tensor(self._order, dtype=torch.int64)].to(source.backbone.device)

    @property
    def features(self) -> Tensor:
        """(n, width) unit-length features of the frozen backbone."""
        return F.normalize(self.raw_features, dim=-1)

    @property
    def scores(self) -> Tensor:
        """(n, classes) logits of the method that this one is on top of; see `Images.scores`."""
        if self._scores is None:
            raise ContractError(
                "queries.scores: this method is on top of none; expected its option `on` to name "
                "one, such as on='clip-lora' (docs/reference/method-contract.md)"
            )
        return torch.from_numpy(self._scores[self._order]).to(self._source.backbone.device)

    def views(
        self,
        count: int,
        augment: Augment,
        rng: torch.Generator | None = None,
        *,
        order: Tensor | None = None,
        normalize: bool = True,
        projected: bool = True,
        start: int = 0,
    ) -> Tensor:
        """(count, n, width) features of augmented views; see `fewshot_bench.Images.views`."""
        asked = [self._order[place] for place in list_visits(order, len(self), "views")]
        images = list(dict.fromkeys(asked))
        whole_number("views: count", count, 1)
        whole_number("views: start", start, 0)
        _check_augment("views", augment)
        augment = self._source.allowed(augment)
        content = {"scale": augment.scale, "ratio": augment.ratio, "flip": augment.flip}
        # Left out where they are the defaults, as in keys of rows that were made before.
        if augment.interpolation != "bicubic" or augment.augmix:
            content |= {"interpolation": augment.interpolation, "augmix": augment.augmix}
        content |= _describe_rows(projected=projected) | self._source.cutting
        meter, before = self._meter, self._meter.images_encoded
        with meter.phase(self._phase):
            if rng is None:
                numbers = range(start, start + count)
                content |= {"kind": "own views"}
                rows = self._encode_own_views(images, numbers, augment, content)
            else:
                _check_generator("views draw from", rng)
                rows = self._encode_drawn_views(images, draw_passes(count, rng), augment, content)
        meter.views_encoded += meter.images_encoded - before
        features = rows.to(self._source.backbone.device)
        features = features.view(count, len(images), features.shape[-1])
        if len(images) != len(asked):
            row = {image: number for number, image in enumerate(images)}
            features = features[:, torch.tensor([row[image] for image in asked])]
        return F.normalize(features, dim=-1) if normalize and projected else features.clone()

    def _encode_drawn_views(
        self,
        images: list[int],
        passes: tuple[int, ...],
        augment: Augment,
        content: dict[str, Any],
    ) -> Tensor:
        """(passes * n, width): a view per image and pass, cached for exactly this request."""
        source, repeated = self._source, images * len(passes)

        def compute(_: list[int]) -> Tensor:
            tally = self._meter.images
            batches = source.batches(ENCODE_BATCH, repeated, augment, passes, tally)
            return encode(source, batches, projected="read" not in content)

        digests = hashlib.sha256(b"".join(self._digests())).hexdigest()
        order = hashlib.sha256(str(images).encode()).hexdigest()
        content = content | {"kind": "views", "images": digests, "order": order, "passes": passes}
        shared = source.orientation | encoder_content(source.backbone)
        origin = Origin(source.name, "drawn views", shared, passing=True, whole=True)
        return self._rows(content, numbered(len(repeated)), compute, origin)

    def _encode_own_views(
        self, images: list[int], numbers: range, augment: Augment, content: dict[str, Any]
    ) -> Tensor:
        """(numbers * n, width): views determined by an image's bytes, the seed and their number."""
        source, every = self._source, self._digests()
        digests = [every[index] for index in images]
        keys = [view_key(digest, self._seed, number) for number in numbers for digest in digests]

        def compute(rows: list[int]) -> Tensor:
            order = [images[row % len(images)] for row in rows]
            crops, tally = [keys[row] for row in rows], self._meter.images
            batches = source.batches(ENCODE_BATCH, order, augment, tally=tally, keys=crops)
            return encode(source, batches, projected="read" not in content)

        origin = Origin(source.name, f"views of seed {self._seed}", passing=True)
        return self._rows(content, keys, compute, origin)

    def _rows(
        self,
        kind: dict[str, Any],
        keys: Sequence[bytes],
        compute: Callable[[list[int]], Tensor],
        origin: Origin,
    ) -> Tensor:
        """Features by key; cached on disk too if all that they depend on is known."""
        context = kind | self._source.orientation | encoder_content(self._source.backbone)
        lasting = "instance" not in context
        origin = replace(origin, device=context["device"][-1])
        return self._store.rows(context, keys, compute, self._meter, origin, lasting=lasting)

    def _digests(self) -> tuple[bytes, ...]:
        with self._meter.images.unbilled():
            return self._source.digests


def _describe_rows(*, projected: bool) -> dict[str, Any]:
    """The part of a row's identity that states if rows were read before the projection."""
    return {} if projected else {"read": "before the projection"}


def _tell_passes(
    batches: Iterator[Tensor], begun: deque[list[int]], meter: Meter
) -> Iterator[tuple[Tensor, list[int] | None]]:
    """Batches, the first of each pass with its indices from `begun`; counts the images seen."""
    left = 0
    for pixels in batches:
        indices = None
        if not left:
            while not (indices := begun.popleft()):
                # A pass without images has no batch.
                continue
            left = len(indices)
            meter.images_seen += left
        left -= len(pixels)
        yield pixels, indices


class ShotsView(ImageView):
    """Labeled images for a method (see `fewshot_bench.Shots`).

    labels_read: True once their labels were read.
    """

    __slots__ = ("labels_read",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.labels_read = False

    # The arguments of `ImageView.batches`, and `labels`.
    def batches(self, size: int, *, labels: bool = False, **passed: Any) -> Iterator[Any]:
        """Pixels, or with `labels` (pixels, labels); see `fewshot_bench.Shots.batches`."""
        if not labels:
            return super().batches(size, **passed)
        self.labels_read = True
        device = passed.pop("device", None)
        visited = self._visit(size, **{"order": None, "augment": None, "rng": None, **passed})

        def pair() -> Iterator[tuple[Tensor, Tensor]]:
            chosen, start = torch.empty(0), 0
            for pixels, begun in visited:
                if device is not None:
                    pixels = pixels.to(device)
                if begun is not None:
                    listed = torch.tensor(begun, dtype=torch.int64)
                    chosen, start = send(self._source.labels[listed], pixels.device), 0
                yield pixels, chosen[start : start + len(pixels)]
                start += len(pixels)

        return pair()

    @property
    def labels(self) -> Tensor:
        """(n,) int64 class indices, on the backbone's device."""
        self.labels_read = True
        labels = self._source.labels[torch.tensor(self._order, dtype=torch.int64)]
        return labels.to(self._source.backbone.device)


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
    streams: int = 0,
    scores: np.ndarray | None = None,
) -> ImageView:
    """A view on `source` in `order` (default: as listed), a `ShotsView` if it is `labeled`."""
    listed = order if order is not None else list(range(len(source)))
    kind = ShotsView if labeled else ImageView
    return kind(source, store, meter, phase, listed, batch, seed, streams, scores)


@contextmanager
def accounted(store: FeatureCache, meter: Meter) -> Iterator[None]:
    """Meter the encoders inside; class prompts are encoded once, shared and billed."""

    def shared(backbone: Any, prompts: Sequence[str], compute: Callable[[], Tensor]) -> Tensor:
        encoder = encoder_content(backbone)
        content = encoder | {"kind": "text", "prompts": list(prompts)}
        made_on = encoder["device"][-1]
        origin = Origin("prompts", "text", encoder, device=made_on, images=False, whole=True)
        keys = numbered(len(prompts))
        with meter.phase("encode_text"):
            features = store.rows(content, keys, lambda _: compute().cpu(), meter, origin)
        return features.to(backbone.device, copy=True)

    token = _OPEN.set(meter)
    try:
        layers = watch_layers(meter.layers)
        with counting(meter.computed), text_cache(shared), bill_to(meter), layers:
            yield
    finally:
        _OPEN.reset(token)
