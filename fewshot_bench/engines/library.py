"""The library's way in: `run` computes what `fsbench run` would, and returns `Results`.

Names are checked before anything trains. However a run ends, the records that it has stored stay,
and the same call again goes on with what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench import offline
from fewshot_bench.defaults import AUTO
from fewshot_bench.engines.conditions import EngineChoice, conditions_of
from fewshot_bench.engines.matrix import Ended, ThisCall, run_matrix
from fewshot_bench.engines.reporting import CallReporter
from fewshot_bench.errors import DataMissingError, UsageError
from fewshot_bench.names import split_names
from fewshot_bench.registry import registry
from fewshot_bench.shots import ALL_SHOTS, WORD
from fewshot_bench.spec import DEFAULT_STORE
from fewshot_bench.variants import Configured

if TYPE_CHECKING:
    from fewshot_bench.analysis.results import Results
    from fewshot_bench.plan import Request

# What `**engine_options` may hold for every engine, with the least value.
_LEAST: Mapping[str, float] = {
    "jobs": 1,
    "threads": 1,
    "together": 1,
    "timeout": 0,
    "hang_after": 1,
    "lease": 3,
}
Names = str | Sequence[str]
Own = str | os.PathLike[str] | Sequence[str] | Mapping[str, str]
Methods = str | type | object | Sequence[str | type | object]


def run(
    methods: Methods,
    datasets: Names,
    *,
    shots: int | str | Sequence[int | str] = (1, 2, 4, 8, 16),
    seeds: int | Sequence[int] = (1, 2, 3),
    split_seed: int | None = None,
    options: Mapping[str, Any] | Sequence[str] = (),
    backbone: str = AUTO,
    precision: str = AUTO,
    protocol: str = "fair",
    val: str | None = None,
    prompts: str | None = None,
    classes: Names = "all",
    transfer: Names = (),
    classnames: Own | None = None,
    templates: Names = (),
    holdout: float | None = None,
    exif: str = "ignore",
    skip_damaged: bool = False,
    keep_split: str = "store",
    limit: int | None = None,
    store: str | os.PathLike[str] = DEFAULT_STORE,
    track: Names = (),
    engine: str = "local",
    devices: Names = AUTO,
    dry_run: bool = False,
    force: bool = False,
    retry_failed: bool = False,
    keep_stale: bool = False,
    traceback: bool = False,
    progress: bool | None = None,
    **engine_options: Any,
) -> Results:
    """Run methods on data sets, every cell of the matrix that the store lacks; return all of them.

    Arguments are the options of `fsbench run` (docs/cli.md), with the same defaults and meanings.
    What takes several values takes one, or a list.

    methods: names, `all`, `path/to/file.py:Class`, classes, or objects, whose fields are the
        hyper-parameters. A class may be defined in a notebook or a script: its source is kept in
        the store.
    options: hyper-parameters of methods given by name or class, `{"rank": [2, 4]}` or
        `{"clip-lora.rank": 4}`; several values expand the matrix.
    classnames: a list, a mapping of old names to new ones, or a file of either.
    progress: whether progress is shown: None, on stderr or in the notebook; False, not at all.
    engine_options: `jobs` (workers on each device), `threads`, `together`, `timeout`,
        `hang_after`, `lease`, `deterministic`, and what the engine declares (`fsbench run --help`).

    Cells that fail are records with the status `failed`, and a warning. Raises UsageError for what
    is not known or cannot go together, DataMissingError where no data set that was asked for can
    be used (if others can, the missing ones are a warning and `Results.missing`), and other
    errors below FsbenchError. KeyboardInterrupt ends the workers; call again to go on.
    """
    offline.enforce_if_asked()
    folder = Path(store)
    names, targets = _listed(datasets), _listed(transfer)
    engines = _engines(engine, _listed(devices), engine_options)
    conditions = conditions_of(engines, backbone, precision, names, targets)
    request = _request(
        conditions.backbone,
        conditions.device,
        conditions.precision,
        methods=_methods(methods, folder),
        datasets=names,
        shots=tuple(map(_shots, _several(shots))),
        seeds=_several(seeds),
        split_seed=split_seed,
        options=_options(options),
        protocol=protocol,
        val=val,
        prompts=prompts,
        limit=limit,
        classes=_listed(classes),
        transfer=targets,
        data=_own_data(classnames, templates, holdout),
        store=folder,
        keep_split=keep_split,
        exif=exif,
        skip_damaged=skip_damaged,
    )
    call = ThisCall(dry_run, force, retry_failed, keep_stale, traceback)
    reporter = CallReporter(progress)
    return _results(run_matrix(request, conditions, engines, reporter, call, _listed(track)), folder)
