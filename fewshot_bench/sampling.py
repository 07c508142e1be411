"""Sampling protocols: how few-shot images are drawn from the pools of a data set."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from fewshot_bench.rng import derive
from fewshot_bench.task import Item

Pools = Mapping[str, tuple[Item, ...]]
Picks = tuple[tuple[Item, ...], tuple[Item, ...]]


def group(items: Iterable[Item]) -> dict[int, list[Item]]:
    """Items by label; labels in order of first appearance, items in order of the list."""
    classes: dict[int, list[Item]] = {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    return classes


def val_shots(policy: str, shots: int) -> int | None:
    """Validation images per class under a policy; None stands for the whole pool."""
    return {"none": 0, "min4": min(shots, 4), "shots": shots, "full": None}[policy]


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


SAMPLERS: dict[str, Callable[[Sequence[Item], Sequence[Item], int, int, str, bool], Picks]] = {
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
    by_rank = partial(rank, f"{seed}\t{role}")
    return tuple(
        item for label in sorted(classes) for item in sorted(classes[label], key=by_rank)[:count]
    )


def rank(prefix: str, item: Item) -> tuple[bytes, str]:
    """A place in an order that depends on nothing but the prefix and the id of the item."""
    return hashlib.sha256(f"{prefix}\t{item.id}".encode()).digest(), item.id
