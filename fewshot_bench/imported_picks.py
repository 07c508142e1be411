"""Imported picks that a request asks for, held against what it says of validation images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fewshot_bench.errors import UsageError
from fewshot_bench.sampling import group, val_shots
from fewshot_bench.split_files.imported import Picks, load_imported

if TYPE_CHECKING:
    from fewshot_bench.dataset import Dataset
    from fewshot_bench.plan import Request


def imported_picks(
    request: Request, datasets: Mapping[str, Dataset], names: Iterable[str], val: str
) -> dict[tuple[str, int, int], str]:
    """The digests of imported picks by data set, shots and split seed."""

    store = request.folder
    seeds = request.seeds if request.split_seed is None else (request.split_seed,)
    digests = {}
    for name, shots, seed in itertools.product(names, request.shots, seeds):
        picks = load_imported(store, name, shots, seed, datasets[name].items())
        _check_val(picks, val)
        digests[name, shots, seed] = picks.digest
    return digests


def _check_val(picks: Picks, val: str) -> None:
    """UsageError when imported picks hold other validation images than the policy says."""
    if val == "none":
        return
    allowed = val_shots(val, picks.shots)
    held = max((len(items) for items in group(picks.val).values()), default=0)
    if held == 0 or (allowed is not None and held > allowed):
        exact = {min(picks.shots, 4): "min4", picks.shots: "shots", 0: "none"}
        raise UsageError(
            f"the picks imported for {picks.dataset}, {picks.shots}-shot, seed {picks.seed} have "
            f"{held} validation images a class, --val {val} stands for "
            f"{'all' if allowed is None else allowed}; use --val {exact.get(held, 'full')}"
        )
