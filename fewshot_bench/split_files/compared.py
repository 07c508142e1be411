"""Imported picks beside what the named protocols draw for the same setting."""

from __future__ import annotations

from fewshot_bench.errors import UsageError
from fewshot_bench.sampling import group
from fewshot_bench.split_files.coop import Pools
from fewshot_bench.split_files.model import SplitFile
from fewshot_bench.splits import draw
from fewshot_bench.task import Item, Split


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
