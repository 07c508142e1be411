"""What is checked of the data before anything trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fewshot_bench.errors import FsbenchError, PluginError
from fewshot_bench.spec import RunSpec
from fewshot_bench.splits import draw_cell

if TYPE_CHECKING:
    from fewshot_bench.dataset import Dataset
    from fewshot_bench.task import Item

UNREADABLE_SHOWN = 5
ALL_CHECKED = 20_000


def check_items(name: str, classnames: Sequence[str], pools: Mapping[str, Sequence[Item]]) -> None:
    """Labels are indices of class names, and no image stands in two pools."""
    seen: dict[str, str] = {}
    for role, items in pools.items():
        for item in items:
            if not 0 <= item.label < len(classnames):
                raise PluginError(
                    f"{name}: item '{item.id}' has label {item.label}, expected 0 to "
                    f"{len(classnames) - 1} (there are {len(classnames)} class names)"
                )
            if seen.setdefault(item.id, role) != role:
                raise PluginError(
                    f"{name}: item '{item.id}' is in {seen[item.id]} and in {role}: a test image "
                    "must not be trained on; take it out of one pool"
                )


def check_images(datasets: Mapping[str, Dataset], cells: Sequence[RunSpec]) -> dict[str, str]:
    """Read and decode images; a data set with bad ones gets a problem.

    All images of a data set of up to `ALL_CHECKED`, else those that `cells` use.
    """
    from fewshot_bench.images import unreadable

    problems = {}
    for name in dict.fromkeys(cell.dataset for cell in cells):
        dataset = datasets[name]
        mine = [cell for cell in cells if cell.dataset == name]
        try:
            bad = unreadable(dataset, _items(dataset, mine))
        except FsbenchError as error:
            problems[name] = str(error)
            continue
        if bad:
            rest = len(bad) - UNREADABLE_SHOWN
            more = f"; and {rest} more" if rest > 0 else ""
            problems[name] = (
                f"{name}: {len(bad)} of its images cannot be used: "
                f"{'; '.join(bad[:UNREADABLE_SHOWN])}{more}; restore these files"
            )
    return problems


def _items(dataset: Dataset, cells: Sequence[RunSpec]) -> list[Item]:
    found: dict[str, Item] = {}
    pools = dataset.items()
    if sum(len(pool) for pool in pools.values()) <= ALL_CHECKED:
        return [item for pool in pools.values() for item in pool]
    # Cells that differ in the method alone have one split.
    distinct = {(c.protocol, c.shots, c.split_seed, c.val, c.limit): c for c in cells}
    for cell in distinct.values():
        split = draw_cell(cell, pools)
        found |= {item.id: item for item in (*split.train, *split.val, *split.test)}
    return list(found.values())
