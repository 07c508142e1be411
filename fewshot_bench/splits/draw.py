"""Few-shot splits by named protocol: `draw` for one setting, `split_of` for a cell of the matrix.

The same arguments give the same picks on every machine.
"""

from __future__ import annotations

import heapq
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.items import Item, ItemList, label_counts, parts, relabeled
from fewshot_bench.api.spec import ALL_SHOTS, IMPORTED, RunSpec
from fewshot_bench.api.split_file import Pools
from fewshot_bench.api.task import Split
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION, Draw, Picks, rank
from fewshot_bench.utils.errors import UsageError, unknown

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset

# Cells of a plan that are equal in these have one split.
_split_fields = attrgetter(
    *("dataset", "target", "protocol", "shots", "split_seed", "val", "limit", "classes", "picks")
)


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
    Raises UsageError for unknown names.
    """
    if protocol not in SAMPLERS:
        raise unknown("protocol", protocol, SAMPLERS, "fsbench run --help")
    check_policy(dataset_name, pools, val)
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


def find_bystanders(spec: RunSpec, split: Split, classes: int) -> Sequence[Item]:
    """The queries of other classes that a cell mixes in: those of the new half, or none.

    split: a draw over all classes. Labels are those among all classes, at most `limit` items.
    """
    if spec.bystanders == "none":
        return ()
    half = class_half(classes, "new")
    others = relabeled(split.test, lambda label, name: (label, name) if label in half else None)
    return _limit(others, spec.limit)


def draw_all_classes(spec: RunSpec, pools: Pools, imported: Picks | None = None) -> Split:
    """The draw of a cell over all classes and test images, before `classes`, `target`, `limit`."""
    if imported is not None:
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
    """UsageError without train images, or if the validation policy does not fit the pools.

    A class with fewer images than shots is no error.
    """
    if not pools.get("train"):
        raise UsageError(
            f"data set '{dataset_name}' has an empty train pool: expected at least one image "
            f"per class (fsbench show {shlex.quote(dataset_name)})"
        )
    check_policy(dataset_name, pools, val)


def check_policy(dataset_name: str, pools: Pools, val: str) -> None:
    """UsageError for an unknown validation policy, or one that does not fit the pools."""
    if val not in VALIDATION:
        raise unknown("validation policy", val, VALIDATION, "fsbench run --help")
    if val == "full" and "val" not in pools:
        raise UsageError(
            f"data set '{dataset_name}' has no validation pool, its validation images are held out "
            "of train: policy 'full' would be the rest of train (use --val min4, shots or none)"
        )
    if val != "none" and "val" in pools and not pools["val"]:
        raise UsageError(
            f"data set '{dataset_name}' has no validation images, and validation policy '{val}' "
            "needs some (use --val none)"
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


def short_facts(spec: RunSpec, split: Split) -> dict[str, int]:
    """Facts for a record: classes with fewer images than requested, and the smallest class.

    `short_val`: classes with fewer validation images than the
    policy asks for.
    """
    # An image that was drawn twice counts once.
    train, val = label_counts(set(split.train)), label_counts(set(split.val))
    least = VALIDATION[spec.val](spec.shots) or 0
    return {
        "short_classes": _short(train.values(), spec.shots),
        "smallest_class": min(train.values(), default=0),
        "short_val": _short([val[label] for label in train], least),
    }


def _short(counts: Iterable[int], asked: int) -> int:
    """Number of counts below `asked`; 0 for ALL_SHOTS."""
    return 0 if asked == ALL_SHOTS else sum(count < asked for count in counts)


def short_lines(cells: Sequence[RunSpec], datasets: Mapping[str, Dataset]) -> Iterator[str]:
    """Lines printed before a run, one per data set with too few images in some class.

    Cells with imported picks are ignored.
    """
    drawn = [cell for cell in cells if cell.protocol != IMPORTED]
    for name in dict.fromkeys(cell.dataset for cell in drawn):
        asked = sorted({cell.shots for cell in drawn if cell.dataset == name})
        policy = next(cell.val for cell in drawn if cell.dataset == name)
        parts = [*_too_few(datasets[name].items(), asked), *_no_val(datasets[name].items(), asked)]
        parts = parts[:1] if policy == "none" else parts
        said = "; ".join(part for part in parts if part)
        if said:
            yield f"{name}: {said} (docs/reference/protocols.md)"


def _too_few(pools: Pools, asked: Sequence[int]) -> list[str]:
    most = max((shots for shots in asked if shots != ALL_SHOTS), default=0)
    counts: Counter[str] = Counter()
    for part in parts(pools["train"]):
        counts[part.classname] += part.count
    short = {name: count for name, count in counts.items() if count < most}
    if not short:
        return [""]
    name = min(short, key=lambda name: short[name])
    have, they = ("has", "it gives") if len(short) == 1 else ("have", "they give")
    return [
        f"{len(short)} of {len(counts)} classes {have} fewer than {most} train images (class "
        f"'{name}' {short[name]}): {they} all of them"
    ]


def _no_val(pools: Pools, asked: Sequence[int]) -> list[str]:
    """Text on shots that leave no validation images, if these are held out of train."""
    most = max(label_counts(pools["train"]).values(), default=0)
    without = [f"{shots}" for shots in asked if shots >= most]
    if "val" in pools or not without:
        return []
    return [f"no image is left for validation at --shots {','.join(without)}"]
