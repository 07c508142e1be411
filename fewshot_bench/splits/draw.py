"""Few-shot splits by named protocol: `draw` for one setting, `split_of` for a cell of the matrix.

The same arguments give the same picks on every machine.
"""

from __future__ import annotations

import heapq
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.items import Item, ItemList, label_counts, parts, relabeled
from fewshot_bench.api.spec import IMPORTED, RunSpec
from fewshot_bench.api.split_file import Pools
from fewshot_bench.api.task import Split
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION, Draw, Picks, rank
from fewshot_bench.utils.errors import UsageError, unknown

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset

# Cells that are equal in these have one split.
SPLIT_FIELDS = (
    *("dataset", "target", "protocol", "shots", "split_seed", "val", "limit", "classes", "picks"),
)
_split_fields = attrgetter(*SPLIT_FIELDS)


def draw(
    dataset_name: str,
    revision: str,
    pools: Pools,
    *,
    protocol: str,
    shots: int,
    seed: int,
    val: str,
    limit: int | None = None,
) -> Split:
    """The support, validation and test items of one cell.

    Train picks never depend on the validation policy `val`. Without a `val` pool, validation
    images are drawn from the train images that were not picked. The protocol decides how a class
    with fewer images than `shots` is sampled. `limit` keeps at most that many test items,
    independently of the order of the pool.
    Raises UsageError for unknown names and for numbers out of range.
    """
    _check_request(dataset_name, pools, protocol, shots, seed, val, limit)
    wanted = Draw(pools.get("train", ()), pools.get("val"), shots, seed, val)
    train, held = SAMPLERS[protocol].draw(wanted)
    test = _limit(pools.get("test", ()), limit)
    return Split(dataset_name, revision, protocol, shots, seed, train, held, test)


def split_key(spec: RunSpec) -> tuple[Any, ...]:
    """Key that is equal for cells of a plan that share a split."""
    key: tuple[Any, ...] = _split_fields(spec)
    return key


def split_of(
    spec: RunSpec, datasets: Mapping[str, Dataset], imported: Picks | None = None
) -> Split:
    """The split of a cell; every class has images in its data set.

    datasets: opened data sets by name. imported: train and val items for protocol `imported`;
    without them its split has only test items.
    """
    pools = datasets[spec.dataset].items()
    target = datasets[spec.target].items() if spec.target else None
    if spec.protocol == IMPORTED and imported is None:
        imported = (), ()
    classes = 1 + max(label for items in pools.values() for label in label_counts(items))
    return narrow(spec, draw_all_classes(spec, pools, imported), classes, target)


def narrow(spec: RunSpec, split: Split, classes: int, target: Pools | None = None) -> Split:
    """The part of a draw over all classes that a cell uses: its `classes`, `target` and `limit`.

    classes: how many classes the data set has.
    """
    test = split.test if target is None else target.get("test", ())
    train, val = split.train, split.val
    if spec.classes != "all":
        half = class_half(classes, "base")
        train, val = _only(train, half), _only(val, half)
        test = _only(test, class_half(classes, spec.classes))
    return replace(split, train=train, val=val, test=_limit(test, spec.limit))


def draw_all_classes(spec: RunSpec, pools: Pools, imported: Picks | None = None) -> Split:
    """The draw of a cell over all classes and test images, before `classes`, `target`, `limit`."""
    if imported is not None:
        _check_policy(spec.val)
        lists = (*imported, pools.get("test", ()))
        return Split(spec.dataset, spec.revision, IMPORTED, spec.shots, spec.split_seed, *lists)
    return draw(
        spec.dataset,
        spec.revision,
        pools,
        protocol=spec.protocol,
        shots=spec.shots,
        seed=spec.split_seed,
        val=spec.val,
    )


def class_half(count: int, classes: str) -> range:
    """Labels of `all`, `base` or `new` among `count` classes: base is the first half, rounded up.

    CoOp `subsample_classes` (datasets/oxford_pets.py:141-186).
    """
    middle = (count + 1) // 2
    return {"all": range(count), "base": range(middle), "new": range(middle, count)}[classes]


def _only(items: Sequence[Item], labels: range) -> Sequence[Item]:
    """The items with these labels, relabeled from 0."""

    def change(label: int, classname: str) -> tuple[int, str] | None:
        return (label - labels.start, classname) if label in labels else None

    return relabeled(items, change)


def check_train(dataset_name: str, pools: Pools, val: str = "none") -> None:
    """UsageError without train images, or if policy `full` would take the whole rest of train.

    A class with fewer images than shots is no error.
    """
    if not pools.get("train"):
        raise UsageError(
            f"data set '{dataset_name}' has an empty train pool: expected at least one image "
            f"per class (fsbench show {shlex.quote(dataset_name)})"
        )
    if "val" not in pools and val == "full":
        raise UsageError(_rest_of_train(dataset_name))


def _check_request(
    dataset_name: str,
    pools: Pools,
    protocol: str,
    shots: int,
    seed: int,
    val: str,
    limit: int | None,
) -> None:
    if protocol not in SAMPLERS:
        raise unknown("protocol", protocol, SAMPLERS, "fsbench run --help")
    _check_policy(val)
    if shots < 1:
        raise UsageError(f"shots is {shots}: expected 1 or more (--shots 1,2,4,8,16)")
    if seed < 0:
        raise UsageError(f"split seed is {seed}: expected 0 or more (--seeds 1,2,3)")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}: expected 1 or more, or leave --limit out")
    if val == "full" and "val" not in pools:
        raise UsageError(_rest_of_train(dataset_name))
    if val != "none" and "val" in pools and not pools["val"]:
        raise UsageError(
            f"data set '{dataset_name}' has no validation images, and validation policy '{val}' "
            "needs some (use --val none)"
        )


def _check_policy(val: str) -> None:
    if val not in VALIDATION:
        raise unknown("validation policy", val, VALIDATION, "fsbench run --help")


def _rest_of_train(dataset_name: str) -> str:
    return (
        f"data set '{dataset_name}' has no validation pool, its validation images are held out of "
        "train: policy 'full' would be the rest of train (use --val min4, shots or none)"
    )


def _limit(test: Sequence[Item], limit: int | None) -> Sequence[Item]:
    if limit is None or len(test) <= limit:
        return test
    if isinstance(test, ItemList):
        return test.once(("limit", limit), lambda: _first(test, limit))
    return _first(test, limit)


def _first(test: Sequence[Item], limit: int) -> Sequence[Item]:
    """The `limit` items with the lowest ranks, in the order of the list."""
    every = (id for part in parts(test) for id in part.ids)
    kept = set(heapq.nsmallest(limit, every, key=lambda id: rank("limit", id)))
    ids = ((id, part) for part in parts(test) for id in part.ids if id in kept)
    return tuple(Item(id, part.label, part.classname) for id, part in ids)
