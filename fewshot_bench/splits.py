"""Few-shot picks by named protocol; the same arguments give the same picks on every machine."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from fewshot_bench.errors import UsageError, unknown
from fewshot_bench.rng import derive
from fewshot_bench.spec import IMPORTED, PROTOCOLS, VALIDATION, RunSpec
from fewshot_bench.task import Item, Split

Pools = Mapping[str, tuple[Item, ...]]
Picks = tuple[tuple[Item, ...], tuple[Item, ...]]


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
    images are drawn from the train images that were not picked. `limit` keeps at most that many
    test items, the same ones in whatever order the pool is listed.
    Raises UsageError for unknown names and for numbers out of range.
    """
    _check_request(dataset_name, pools, protocol, shots, seed, val, limit)
    train_pool = pools.get("train", ())
    held_out = "val" not in pools
    train, held = _PROTOCOLS[protocol](train_pool, pools.get("val", ()), shots, seed, val, held_out)
    test = _limited(pools.get("test", ()), limit)
    return Split(dataset_name, revision, protocol, shots, seed, train, held, test)


def draw_cell(
    spec: RunSpec,
    pools: Pools,
    target: Pools | None = None,
    imported: Picks | None = None,
) -> Split:
    """The split of one cell of the matrix.

    target: the pools of the data set that is evaluated on, when it is another one.
    imported: train and val items to use instead of drawing (protocol `imported`).
    """
    return narrowed(spec, draw_all_classes(spec, pools, imported), target)


def narrowed(spec: RunSpec, split: Split, target: Pools | None = None) -> Split:
    """What a cell uses of a draw over all classes: its `classes`, `target` and `limit`."""
    test = split.test if target is None else target.get("test", ())
    train, val = split.train, split.val
    if spec.classes != "all":
        count = 1 + max(item.label for item in train)
        half = class_half(count, "base")
        train, val = _only(train, half), _only(val, half)
        test = _only(test, class_half(count, spec.classes))
    return replace(split, train=train, val=val, test=_limited(test, spec.limit))


def draw_all_classes(spec: RunSpec, pools: Pools, imported: Picks | None = None) -> Split:
    """The draw of a cell over all classes and test images, before `classes`, `target`, `limit`."""
    if imported is not None:
        train, val = imported
        test = pools.get("test", ())
        return Split(
            spec.dataset, spec.revision, IMPORTED, spec.shots, spec.split_seed, train, val, test
        )
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


def _only(items: Iterable[Item], labels: range) -> tuple[Item, ...]:
    """The items of some classes, labeled from 0."""
    start = labels.start
    return tuple(replace(i, label=i.label - start) for i in items if i.label in labels)


def check_shots(dataset_name: str, pools: Pools, shots: int, val: str = "none") -> None:
    """UsageError when the smallest class of the train pool has too few images.

    Where validation images are held out of train (no `val` pool), they are needed as well.
    """
    classes = group(pools.get("train", ()))
    if not classes:
        raise UsageError(
            f"data set '{dataset_name}' has an empty train pool: expected at least {shots} images "
            f"per class (fsbench show {dataset_name})"
        )
    smallest = min(classes.values(), key=len)
    if "val" not in pools and val != "none":
        needed = shots + (val_shots(val, shots) or 0)
        if len(smallest) < needed:
            raise UsageError(
                f"{shots} shots on '{dataset_name}' with validation images from its train pool "
                f"(--val {val}) need {needed} images per class; class '{smallest[0].classname}' "
                f"has {len(smallest)}; use fewer --shots, or --val none"
            )
    if len(smallest) < shots:
        raise UsageError(
            f"{shots} shots on '{dataset_name}': class '{smallest[0].classname}' has "
            f"{len(smallest)} train images; the largest possible is --shots {len(smallest)}"
        )


def group(items: Iterable[Item]) -> dict[int, list[Item]]:
    """Items by label; labels in order of first appearance, items in order of the list."""
    classes: dict[int, list[Item]] = {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    return classes


def val_shots(policy: str, shots: int) -> int | None:
    """Validation images per class under a policy; None stands for the whole pool."""
    return {"none": 0, "min4": min(shots, 4), "shots": shots, "full": None}[policy]


def _check_request(
    dataset_name: str,
    pools: Pools,
    protocol: str,
    shots: int,
    seed: int,
    val: str,
    limit: int | None,
) -> None:
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS, "fsbench run --help")
    if val not in VALIDATION:
        raise unknown("validation policy", val, VALIDATION, "fsbench run --help")
    if shots < 1:
        raise UsageError(f"shots is {shots}: expected 1 or more (--shots 1,2,4,8,16)")
    if seed < 0:
        raise UsageError(f"split seed is {seed}: expected 0 or more (--seeds 1,2,3)")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}: expected 1 or more, or leave --limit out")
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


def _coop(
    train_pool: Sequence[Item],
    val_pool: Sequence[Item],
    shots: int,
    seed: int,
    policy: str,
    held_out: bool,
) -> Picks:
    """Train, then val, on one stream (CoOp; Dassl `generate_fewshot_dataset`, repeat=False)."""
    rng = random.Random(seed)
    train = _sample(rng, train_pool, shots)
    rest = _without(train_pool, train) if held_out else val_pool
    return train, _held(partial(_sample, rng), rest, val_shots(policy, shots))


def _clip_lora(
    train_pool: Sequence[Item],
    val_pool: Sequence[Item],
    shots: int,
    seed: int,
    policy: str,
    held_out: bool,
) -> Picks:
    """Val, then train, on one stream (CLIP-LoRA `datasets/*.py`, repeat=True).

    The stream always pays for the min(shots, 4) draw of the paper, whatever the policy; another
    policy draws from a stream of its own. Where validation is held out of train (ImageNet),
    train and val of a class come from one draw, train first (CLIP-LoRA `datasets/imagenet.py`).
    """
    rng = random.Random(seed)
    other = random.Random(derive(seed, "clip-lora", "val"))
    paper = min(shots, 4)
    if held_out:
        groups = [
            rng.sample(items, min(shots + paper, len(items)))
            for items in group(train_pool).values()
        ]
        train = tuple(item for picks in groups for item in picks[:shots])
        paper_val = tuple(item for picks in groups for item in picks[shots:])
        val_pool = _without(train_pool, train) if policy != "min4" else ()
    else:
        paper_val = _sample_repeat(rng, val_pool, paper)
        train = _sample_repeat(rng, train_pool, shots)
    if policy == "min4":
        return train, paper_val
    return train, _held(partial(_sample_repeat, other), val_pool, val_shots(policy, shots))


def _nested(
    train_pool: Sequence[Item],
    val_pool: Sequence[Item],
    shots: int,
    seed: int,
    policy: str,
    held_out: bool,
) -> Picks:
    """The first `shots` per class by rank: fewer shots are a subset of more, in any list order."""
    train = _ranked(train_pool, "train", shots, seed)
    pool = _without(train_pool, train) if held_out else val_pool
    count = val_shots(policy, shots)
    return train, _ranked(pool, "val", len(pool) if count is None else count, seed)


_PROTOCOLS: dict[str, Callable[[Sequence[Item], Sequence[Item], int, int, str, bool], Picks]] = {
    "coop": _coop,
    "clip-lora": _clip_lora,
    "nested": _nested,
}


def _without(pool: Sequence[Item], picks: Iterable[Item]) -> tuple[Item, ...]:
    taken = {item.id for item in picks}
    return tuple(item for item in pool if item.id not in taken)


def _held(
    sample: Callable[[Sequence[Item], int], tuple[Item, ...]],
    pool: Sequence[Item],
    count: int | None,
) -> tuple[Item, ...]:
    if count is None:
        return tuple(pool)
    return sample(pool, count) if count else ()


def _sample(rng: random.Random, pool: Sequence[Item], count: int) -> tuple[Item, ...]:
    """`count` per class; a class with fewer gives all of them and leaves the stream alone."""
    picks: list[Item] = []
    for items in group(pool).values():
        picks += rng.sample(items, count) if len(items) >= count else items
    return tuple(picks)


def _sample_repeat(rng: random.Random, pool: Sequence[Item], count: int) -> tuple[Item, ...]:
    """`count` per class; a class with fewer is drawn from with replacement."""
    picks: list[Item] = []
    for items in group(pool).values():
        enough = len(items) >= count
        picks += rng.sample(items, count) if enough else rng.choices(items, k=count)
    return tuple(picks)


def _ranked(pool: Sequence[Item], role: str, count: int, seed: int) -> tuple[Item, ...]:
    classes = group(pool)
    rank = partial(_rank, f"{seed}\t{role}")
    return tuple(
        item for label in sorted(classes) for item in sorted(classes[label], key=rank)[:count]
    )


def _limited(test: tuple[Item, ...], limit: int | None) -> tuple[Item, ...]:
    if limit is None or len(test) <= limit:
        return test
    kept = {item.id for item in sorted(test, key=partial(_rank, "limit"))[:limit]}
    return tuple(item for item in test if item.id in kept)


def _rank(prefix: str, item: Item) -> tuple[bytes, str]:
    return hashlib.sha256(f"{prefix}\t{item.id}".encode()).digest(), item.id
