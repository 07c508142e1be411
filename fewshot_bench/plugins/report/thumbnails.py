"""Small example images of confused classes, if the data set is on this machine."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.dataset import data_of_target
from fewshot_bench.api.record import Record
from fewshot_bench.store.predictions import Outcome

if TYPE_CHECKING:
    import numpy as np

SIDE, QUALITY = 96, 70
# All images of a report together, as base64 text.
MOST_BYTES = 2_000_000
# Larger pictures are not decoded: a small one can claim any size.
MOST_PIXELS = 50_000_000


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image as a data URI, its class, a wrong prediction, and the number of seeds with it."""

    uri: str
    label: str
    taken: str
    times: int
    seeds: int


@dataclass
class Budget:
    """Limits of thumbnails: images per data set, and bytes left for all of a page."""

    images: int
    left: int = MOST_BYTES


def thumbnails(
    record: Record,
    store: Path,
    outcomes: Sequence[Outcome],
    names: Sequence[str],
    mixed: Sequence[tuple[int, int, int]],
    budget: Budget,
) -> list[Thumbnail]:
    """Images of the pairs in `mixed`, in turn, those first that most seeds got wrong.

    Empty if the data set cannot be opened or lists other images; an image that cannot be read is
    left out. store: the folder of the store, which may have the data set's split.
    """
    dataset, items = _open(record, store)
    wrong = [_wrong(outcomes, label, taken) for label, taken, _ in mixed]
    shown: list[Thumbnail] = []
    for rank in range(max(map(len, wrong), default=0)):
        for (label, taken, _), images in zip(mixed, wrong, strict=True):
            if len(shown) >= budget.images or rank >= len(images):
                continue
            index, times = images[rank]
            uri = _encode(dataset, items.get(outcomes[0].ids[index]))
            if uri and len(uri) <= budget.left:
                budget.left -= len(uri)
                shown.append(Thumbnail(uri, names[label], names[taken], times, len(outcomes)))
    return shown


def _open(record: Record, store: Path) -> tuple[Any, dict[str, Any]]:
    """The data set that a record was evaluated on, and its test images by id.

    None and no image if it cannot be opened here as of then. If a plug-in or the disk fails, the
    report is written without examples.
    """
    from fewshot_bench.api.registry import registry
    from fewshot_bench.runner.preflight import revision_of

    spec = record.spec
    name = spec.target or spec.dataset
    revision = spec.target_revision if spec.target else spec.revision
    data = data_of_target(spec.data) if spec.target else spec.data
    try:
        dataset = registry().dataset(name, data, store)
        # Ids of other lists may name other images.
        if revision in ("", revision_of(name, dataset)):
            return dataset, {item.id: item for item in dataset.items().get("test", ())}
    except Exception:
        pass
    return None, {}


def _wrong(outcomes: Sequence[Outcome], label: int, taken: int) -> list[tuple[int, int]]:
    """(index, times) of the images of `label` that were taken for `taken`, most times first."""
    import numpy as np

    times: np.ndarray = sum(
        ((o.labels == label) & (o.predictions == taken)).astype(np.int64) for o in outcomes
    )
    order = np.argsort(-times, kind="stable")
    return [(int(index), int(times[index])) for index in order if times[index]]


def _encode(dataset: Any, item: Any) -> str:
    """A small JPEG of an image as a data URI; empty if the image cannot be read."""
    if item is None:
        return ""
    try:
        from fewshot_bench.images.decode import opened

        with opened(dataset.read(item)) as image:
            if image.width * image.height > MOST_PIXELS:
                return ""
            small = image.convert("RGB")
        small.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    except Exception:
        # A plug-in's reader and the decoders may raise anything; the example is left out.
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
