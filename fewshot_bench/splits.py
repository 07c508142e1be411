"""Few-shot picks by named protocol; the same arguments give the same picks on every machine."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from fewshot_bench.errors import UsageError, unknown
from fewshot_bench.rng import derive
from fewshot_bench.spec import PROTOCOLS, VALIDATION, RunSpec
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

    Train picks never depend on the validation policy `val`. `limit` keeps at most that many test
    items, the same ones in whatever order the pool is listed.
    Raises UsageError for unknown names and for numbers out of range.
    """
    _check_request(dataset_name, pools, protocol, shots, seed, val, limit)
    train_pool, val_pool = pools.get("train", ()), pools.get("val", ())
    train, held = _PROTOCOLS[protocol](train_pool, val_pool, shots, seed, val)
    test = _limited(pools.get("test", ()), limit)
    return Split(dataset_name, revision, protocol, shots, seed, train, held, test)


def draw_cell(spec: RunSpec, pools: Pools) -> Split:
    """The split of one cell of the matrix."""
    return draw(
        spec.dataset,
        spec.revision,
        pools,
        protocol=spec.protocol,
        shots=spec.shots,
        seed=spec.split_seed,
        val=spec.val,
        limit=spec.limit,
    )


def check_shots(dataset_name: str, pools: Pools, shots: int) -> None:
    """UsageError when the smallest class of the train pool has fewer than `shots` images."""
    classes = group(pools.get("train", ()))
    if not classes:
        raise UsageError(
            f"data set '{dataset_name}' has an empty train pool: expected at least {shots} images "
            f"per class (fsbench show {dataset_name})"
        )
    smallest = min(classes.values(), key=len)
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
    if val != "none" and not pools.get("val"):
        raise UsageError(
            f"data set '{dataset_name}' has no validation images, and validation policy '{val}' "
            "needs some (use --val none)"
        )


def _coop(
    train_pool: Sequence[Item], val_pool: Sequence[Item], shots: int, seed: int, policy: str
) -> Picks:
    """Train, then val, on one stream (CoOp; Dassl `generate_fewshot_dataset`, repeat=False)."""
    rng = random.Random(seed)
    train = _sample(rng, train_pool, shots)
    return train, _held(partial(_sample, rng), val_pool, val_shots(policy, shots))


def _clip_lora(
    train_pool: Sequence[Item], val_pool: Sequence[Item], shots: int, seed: int, policy: str
) -> Picks:
    """Val, then train, on one stream (CLIP-LoRA `datasets/*.py`, repeat=True).

    The stream always pays for the min(shots, 4) draw of the paper, whatever the policy; another
    policy draws from a stream of its own.
    """
    rng = random.Random(seed)
    paper_val = _sample_repeat(rng, val_pool, min(shots, 4))
    train = _sample_repeat(rng, train_pool, shots)
    if policy == "min4":
        return train, paper_val
    other = random.Random(derive(seed, "clip-lora", "val"))
    return train, _held(partial(_sample_repeat, other), val_pool, val_shots(policy, shots))


def _nested(
    train_pool: Sequence[Item], val_pool: Sequence[Item], shots: int, seed: int, policy: str
) -> Picks:
    """The first `shots` per class by rank: fewer shots are a subset of more, in any list order."""
    train = _ranked(train_pool, "train", shots, seed)
    count = val_shots(policy, shots)
    return train, _ranked(val_pool, "val", len(val_pool) if count is None else count, seed)


_PROTOCOLS: dict[str, Callable[[Sequence[Item], Sequence[Item], int, int, str], Picks]] = {
    "coop": _coop,
    "clip-lora": _clip_lora,
    "nested": _nested,
}


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
