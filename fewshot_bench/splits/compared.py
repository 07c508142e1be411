"""Picks beside what the named protocols draw, and draws beside the published ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fewshot_bench.api.task import Item, Split
from fewshot_bench.splits.coop import Pools
from fewshot_bench.splits.draw import draw
from fewshot_bench.splits.model import SplitFile
from fewshot_bench.splits.published import published_splits, verified_picks
from fewshot_bench.splits.sampling import group
from fewshot_bench.utils.errors import FsbenchError, UsageError


@dataclass(frozen=True)
class PublishedDraw:
    """One published setting: what is drawn for it here, and whether that is what was published.

    split: None where nothing can be drawn, and `problem` says why.
    """

    shots: int
    seed: int
    split: Split | None
    equal: bool
    problem: str = ""


def published_draws(dataset: str, revision: str, pools: Pools) -> Iterator[PublishedDraw]:
    """Every published setting of a data set, whose name has to be a published one."""
    for setting in published_splits()[dataset].picks:
        shots, seed = map(int, setting.split("/"))
        try:
            split = draw(
                dataset, revision, pools, protocol="coop", shots=shots, seed=seed, val="min4"
            )
        except FsbenchError as error:
            yield PublishedDraw(shots, seed, None, False, str(error))
        else:
            equal = verified_picks(split, dataset) is True
            yield PublishedDraw(shots, seed, split, equal)


def as_split(file: SplitFile, dataset: str, protocol: str) -> Split:
    """The picks of a file as if a protocol had drawn them; `file` has shots and seed."""
    if file.shots is None or file.seed is None:
        raise UsageError(f"{file.path} does not say which picks it holds: give --shots and --seed")
    lists = {role: file.lists.get(role, ()) for role in ("train", "val", "test")}
    return Split(dataset, file.revision, protocol, file.shots, file.seed, **lists)


def likeness(file: SplitFile, pools: Pools, protocol: str) -> str:
    """How far the picks equal what a protocol draws, as many val images a class included.

    `file` holds items of the data set whose lists are `pools`.
    """
    split = as_split(file, file.dataset, protocol)
    try:
        own = draw(
            split.dataset,
            split.revision,
            pools,
            protocol=protocol,
            shots=split.shots,
            seed=split.seed,
            val=_policy(split),
        )
    except UsageError as error:
        return f"cannot be drawn ({error})"
    if (own.train, own.val) == (split.train, split.val):
        return "equal: the same images in the same order"
    shares = [f"{_shared(split.train, own.train)} train"]
    if split.val:
        shares.append(f"{_shared(split.val, own.val)} val")
    return f"differs: {' and '.join(shares)} images are the same"


def _policy(split: Split) -> str:
    """The validation policy that holds as many images a class as the file does."""
    held = max((len(items) for items in group(split.val).values()), default=0)
    if held == 0:
        return "none"
    if held == min(split.shots, 4):
        return "min4"
    return "shots" if held == split.shots else "full"


def _shared(mine: tuple[Item, ...], drawn: tuple[Item, ...]) -> str:
    both = {item.id for item in mine} & {item.id for item in drawn}
    other_order = mine != drawn and len(both) == len(mine) == len(drawn)
    return f"{len(both)} of {len(mine)}{' (in another order)' if other_order else ''}"
