"""Small example images of confused classes, if the data set is on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench.api.dataset import data_of_target
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report.page import Tile, draw_small
from fewshot_bench.store.predictions import Outcome

# All images of a report together, as base64 text.
MOST_BYTES = 2_000_000


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
) -> list[Tile]:
    """Images of the pairs in `mixed`, in turn, those first that most seeds got wrong.

    Empty if the data set cannot be opened or lists other images; an image that cannot be read is
    left out. store: the folder of the store, which may have the data set's split.
    """
    dataset, items = _open(record, store) if budget.images else (None, {})
    wrong = [(label, other, _list_wrong(outcomes, label, other)) for label, other, _ in mixed]
    shown: list[Tile] = []
    for rank in range(max((len(images) for *_, images in wrong), default=0)):
        for label, other, images in wrong:
            if len(shown) >= budget.images or rank >= len(images):
                continue
            index, times = images[rank]
            uri = draw_small(dataset, items.get(outcomes[0].ids[index]))
            if uri and len(uri) <= budget.left:
                budget.left -= len(uri)
                about = (f"taken for {names[other]}", f"{times} of {len(outcomes)} seeds")
                shown.append(Tile(uri, (names[label], *about)))
    return shown


def _open(record: Record, store: Path) -> tuple[Any, dict[str, Any]]:
    """The data set that a record was evaluated on, and its test images by id.

    None and no image if it cannot be opened here as of then. If a plug-in or the disk fails, the
    report is written without examples.
    """
    from fewshot_bench.api.registry import registry
    from fewshot_bench.runner.preflight import revision_of

    spec = record.spec
    name, revision, data = spec.dataset, spec.revision, spec.data
    if spec.target:
        name, revision, data = spec.target, spec.target_revision, data_of_target(spec.data)
    with suppress(Exception):
        dataset = registry().dataset(name, data, store)
        # Ids of other lists may name other images.
        if revision in ("", revision_of(name, dataset)):
            return dataset, {item.id: item for item in dataset.items().get("test", ())}
    return None, {}


def _list_wrong(outcomes: Sequence[Outcome], label: int, other: int) -> list[tuple[int, int]]:
    """(index, times) of the images of `label` with the prediction `other`, most times first."""
    import numpy as np

    wrong = [(outcome.labels == label) & (outcome.predictions == other) for outcome in outcomes]
    times = np.sum(wrong, axis=0)
    order = np.argsort(-times, kind="stable")
    return [(int(index), int(times[index])) for index in order if times[index]]
