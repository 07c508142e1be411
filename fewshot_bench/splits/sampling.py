"""Sampling protocols and validation policies: how few-shot images are drawn from a data set.

Each is declared only here: a function under `@sampler` is a protocol, an entry of `VALIDATION` a
policy; specifications, options and help read both. A draw depends only on its arguments.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fewshot_bench.api.items import Item, group, label_counts, without
from fewshot_bench.api.spec import ALL_SHOTS, REGISTERED_NAME
from fewshot_bench.utils.rng import derive

Picks = tuple[Sequence[Item], Sequence[Item]]


# Validation images per class as a function of the shots; None stands for the whole pool.
VALIDATION: Mapping[str, Callable[[int], int | None]] = {
    "none": lambda shots: 0,
    "min4": lambda shots: min(shots, 4),
    "shots": lambda shots: shots,
    "full": lambda shots: None,
}


@dataclass(frozen=True)
class Draw:
    """Arguments of a draw; `val` is None where validation images are held out of `train`."""

    train: Sequence[Item]
    val: Sequence[Item] | None
    shots: int
    seed: int
    policy: str

    @property
    def held(self) -> int | None:
        """Validation images per class; None stands for the whole pool."""
        return VALIDATION[self.policy](self.shots)

    def val_pool(self, picks: Iterable[Item]) -> Sequence[Item]:
        """The pool of validation images once `picks` are the support set."""
        if self.val is not None:
            return self.val
        return without(self.train, [item.id for item in picks])


@dataclass(frozen=True)
class Sampler:
    """A sampling protocol: the function that draws the picks, and the default validation policy."""

    draw: Callable[[Draw], Picks]
    val: str


SAMPLERS: dict[str, Sampler] = {}


def sampler(
    name: str, *, val: str = "min4"
) -> Callable[[Callable[[Draw], Picks]], Callable[[Draw], Picks]]:
    """Register a function as the sampling protocol `name`: letters, digits and `_ . + -`."""
    if not REGISTERED_NAME.fullmatch(name):
        raise ValueError(f"protocol {name!r}: expected letters, digits and _ . + - alone")

    def register(function: Callable[[Draw], Picks]) -> Callable[[Draw], Picks]:
        SAMPLERS[name] = Sampler(function, val)
        return function

    return register


@sampler("coop")
def _coop(draw: Draw) -> Picks:
    """Train, then val, on one stream (CoOp; Dassl `generate_fewshot_dataset`, repeat=False)."""
    rng = random.Random(draw.seed)
    train = _sample(rng, draw.train, draw.shots)
    return train, _hold(partial(_sample, rng), draw.val_pool(train), draw.held)


@sampler("clip-lora")
def _clip_lora(draw: Draw) -> Picks:
    """Val, then train, on one random stream (CLIP-LoRA `datasets/*.py`, repeat=True).

    The stream always includes the paper's val draw of min(shots, 4), whatever the policy; another
    policy draws val from a separate stream. If validation is held out of train (ImageNet), train
    and val of a class come from one draw, train first (CLIP-LoRA `datasets/imagenet.py`).
    """
    rng = random.Random(draw.seed)
    shots, paper = draw.shots, min(draw.shots, 4)
    if draw.val is None:
        groups = [_at_once(rng, items, shots, paper) for items in group(draw.train).values()]
        train = tuple(item for picks, _ in groups for item in picks)
        paper_val = tuple(item for _, held in groups for item in held)
    else:
        paper_val = _sample_repeat(rng, draw.val, paper)
        train = _sample_repeat(rng, draw.train, shots)
    if draw.policy == "min4":
        return train, paper_val
    other = random.Random(derive(draw.seed, "clip-lora", "val"))
    return train, _hold(partial(_sample_repeat, other), draw.val_pool(train), draw.held)


@sampler("nested")
def _nest(draw: Draw) -> Picks:
    """The first `shots` per class by rank: fewer shots give a subset, whatever the list order."""
    train = _rank(draw.train, "train", draw.shots, draw.seed)
    pool, count = draw.val_pool(train), draw.held
    return train, _rank(pool, "val", len(pool) if count is None else count, draw.seed)


def _hold(
    sample: Callable[[Sequence[Item], int], tuple[Item, ...]],
    pool: Sequence[Item],
    count: int | None,
) -> Sequence[Item]:
    if count is None:
        return pool
    return sample(pool, count) if count else ()


def _sample(rng: random.Random, pool: Sequence[Item], count: int) -> tuple[Item, ...]:
    """`count` per class; a smaller class gives all its images and consumes no random numbers."""
    picks: list[Item] = []
    for items in group(pool).values():
        picks += rng.sample(items, count) if len(items) >= count else items
    return tuple(picks)


def _at_once(
    rng: random.Random, items: Sequence[Item], shots: int, held: int
) -> tuple[Sequence[Item], Sequence[Item]]:
    """Train and val picks of one class in one draw; train takes precedence if there are too few."""
    if len(items) < shots:
        return _repeat(rng, items, shots), ()
    picks = rng.sample(items, min(shots + held, len(items)))
    return picks[:shots], picks[shots:]


def _repeat(rng: random.Random, items: Sequence[Item], count: int) -> Sequence[Item]:
    """`count` images with replacement; ALL_SHOTS gives each image once, like 0 shots in Dassl."""
    return items if count == ALL_SHOTS else rng.choices(items, k=count)


def _sample_repeat(rng: random.Random, pool: Sequence[Item], count: int) -> tuple[Item, ...]:
    """`count` per class; a smaller class is sampled with replacement."""
    picks: list[Item] = []
    for items in group(pool).values():
        enough = len(items) >= count
        picks += rng.sample(items, count) if enough else _repeat(rng, items, count)
    return tuple(picks)


def _rank(pool: Sequence[Item], role: str, count: int, seed: int) -> tuple[Item, ...]:
    classes = group(pool)

    def place(item: Item) -> tuple[bytes, str]:
        return rank(f"{seed}\t{role}", item.id)

    return tuple(
        item for label in sorted(classes) for item in sorted(classes[label], key=place)[:count]
    )


def rank(prefix: str, id: str) -> tuple[bytes, str]:
    """Sort key of an item that depends only on the prefix and its id."""
    return hashlib.sha256(f"{prefix}\t{id}".encode()).digest(), id


def count_per_class(items: Sequence[Item]) -> int:
    """The number of images of the class with the most of them."""
    return max(label_counts(items).values(), default=0)
