"""Data sets opened without the images that cannot be decoded (`--skip-damaged`).

`open_usable` is the entry point; a class never loses all of its training images this way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fewshot_bench.api.dataset import SKIPPED, Dataset, Without, all_items
from fewshot_bench.api.items import Item
from fewshot_bench.images.decode import unreadable
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.text import FEW, shortened


def open_usable(
    open_it: Callable[[Mapping[str, Any]], Any], name: str, data: Mapping[str, Any]
) -> Dataset:
    """Open a data set without its unusable images; `open_it` opens it from `RunSpec.data`."""
    whole: Dataset = open_it({**data, SKIPPED: {name: []}})
    problems = unreadable(whole, [item for _, item in all_items(whole)]).bad
    lost = list_lost_training(whole, problems)
    if lost:
        raise DataMissingError(
            f"{name}: {lost} are damaged or missing: mend them, or remove the "
            "class (its folder, or its lines in the manifest)"
        )
    bad = list(problems)
    dataset: Dataset = open_it({**data, SKIPPED: {name: bad}} if bad else data)
    return dataset


def with_skipped(
    data: Mapping[str, Any], datasets: Mapping[str, Dataset], *names: str
) -> Mapping[str, Any]:
    """The `RunSpec.data` of these data sets, including the ids of skipped images."""
    opened = {name: dataset for name in names if (dataset := datasets.get(name)) is not None}
    skipped = {n: list(d.skipped) for n, d in opened.items() if isinstance(d, Without)}
    return {**data, SKIPPED: skipped} if skipped else data


def list_lost_training(dataset: Dataset, bad: Mapping[str, str]) -> str:
    """`all 10 images of class 'cow'`: the classes that would have no train images left."""
    whole = dict(list_lost_classes([item for _, item in all_items(dataset)], bad))
    lost = [
        f"all {whole[title]:,} images of class '{title}'"
        if title in whole
        else f"all {count:,} train images of class '{title}'"
        for title, count in list_lost_classes(dataset.items().get("train", ()), bad)
    ]
    return ", ".join(shortened(lost, FEW))


def list_lost_classes(items: Sequence[Item], bad: Mapping[str, str]) -> list[tuple[str, int]]:
    """Classes of which no image can be used, with the number of their images."""
    total = Counter(item.classname for item in items)
    lost = Counter(item.classname for item in items if item.id in bad)
    return [(name, count) for name, count in total.items() if lost[name] == count]
