"""Imported picks that a request asks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fewshot_bench.splits.imported import check_val, load_imported

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset
    from fewshot_bench.runner.request import Request


def imported_picks(
    request: Request, datasets: Mapping[str, Dataset], names: Iterable[str], val: str
) -> dict[tuple[str, int, int], str]:
    """The digests of imported picks by data set, shots and split seed."""

    store = request.folder
    seeds = request.seeds if request.split_seed is None else (request.split_seed,)
    digests = {}
    for name, shots, seed in itertools.product(names, request.shots, seeds):
        picks = load_imported(store, name, shots, seed, datasets[name].items())
        check_val(picks, val)
        digests[name, shots, seed] = picks.digest
    return digests
