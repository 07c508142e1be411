"""The trust that a finished cell deserves: `judge` recomputes what its files allow.

A cell is *submitted* if its files are what its record says, and *verified* if every metric was
recomputed from its logits and its queries are those of the data set. *re-run* needs another
submitter's cell (`analysis/gathering.py`). One whose numbers do not follow is UNVERIFIED.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from fewshot_bench.api.items import Item, digest_of
from fewshot_bench.api.metrics import BUILT_IN
from fewshot_bench.api.own_methods import digest_in
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import ALONE, IMPORTED, KEPT_MODEL, RunSpec
from fewshot_bench.api.split_file import Pools, load_split
from fewshot_bench.api.task import Split
from fewshot_bench.splits.draw import draw_all_classes, find_bystanders, narrow, split_key
from fewshot_bench.splits.groups import draw_groups, number_groups
from fewshot_bench.splits.imported import load_picks
from fewshot_bench.splits.published import Lists, compare_lists, published_splits, verify_names
from fewshot_bench.store.answer_files import ROUNDING, Stored, names_of
from fewshot_bench.store.kept_files import list_lacking
from fewshot_bench.store.kept_methods import find_method
from fewshot_bench.store.record_files import record_files
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import Cell, examine
from fewshot_bench.utils.errors import FsbenchError, StoreError
from fewshot_bench.utils.files import Damaged
from fewshot_bench.utils.progress import over

LEVELS = SUBMITTED, VERIFIED, RE_RUN = ("submitted", "verified", "re-run")
# Below all levels: a number of the cell is not what its files give.
UNVERIFIED = "unverified"
# Lists of published data sets that a bundle brought along.
LISTS = "lists"
# A split, and the queries beside its own.
_Drawn = tuple[Split, Sequence[Item]]
# Margin of statistics beside rounding of logits to 16 bits.
_MARGIN = 2e-6


@dataclass(frozen=True)
class Standing:
    """The level of a cell, and why it is no higher. UNVERIFIED: what contradicts its files."""

    level: str
    reasons: tuple[str, ...] = ()


def judge(store: Store) -> Mapping[str, Standing]:
    """The standing of every finished cell by its key. Nothing of the store is run or imported."""
    standings, splits = dict[str, Standing](), dict[object, _Drawn | str]()
    pools_of = cache(partial(_find_pools, store.path))
    for file in over(list(record_files(store.root)), "cells"):
        try:
            cell = examine(file.path)
        except FileNotFoundError:
            continue
        except (Damaged, StoreError) as error:
            standings[file.path.stem] = Standing(UNVERIFIED, (str(error),))
            continue
        spec = cell.record.spec
        if cell.record.status != "done":
            continue
        wrong, missing = list(cell.problems), list[str]()
        if not wrong:
            assert cell.stored is not None
            if "high" in (cell.arrays or {}):
                wrong += _list_contradictions(cell.stored)
            missing += _list_gaps(cell, store.path)
            key = split_key(spec), bool(spec.data), spec.bystanders
            if key not in splits:
                splits[key] = _draw(spec, store.path, pools_of)
            if isinstance(split := splits[key], str):
                missing.append(split)
            else:
                wrong += _list_differences(cell, split)
        level = UNVERIFIED if wrong else SUBMITTED if missing else VERIFIED
        standings[spec.key()] = Standing(level, tuple(wrong or missing))
    return standings


def _draw(spec: RunSpec, store: Path, pools_of: Callable[[str], Pools | str]) -> _Drawn | str:
    """The split of a cell as it is drawn here, and the bystanders; or why it cannot be known."""
    if spec.data or spec.protocol == KEPT_MODEL:
        return "its classes, images or picks are the submitter's own"
    pools, target = pools_of(spec.dataset), pools_of(spec.target) if spec.target else None
    if isinstance(pools, str):
        return pools
    if isinstance(target, str):
        return target
    try:
        picks = load_picks(store, spec, pools) if spec.protocol == IMPORTED else None
        classes = 1 + max(item.label for items in pools.values() for item in items)
        drawn = draw_all_classes(spec, pools, picks)
        return narrow(spec, drawn, classes, target), find_bystanders(spec, drawn, classes)
    except FsbenchError as error:
        return f"its split cannot be drawn here: {error}"


def _find_pools(store: Path, dataset: str) -> Pools | str:
    """The lists of a data set, the published ones if there are any; or why they are not known."""
    if ":" in dataset:
        return f"the images of {dataset} are the submitter's own"
    published = dataset in published_splits()
    brought = store / LISTS / f"{dataset}.json"
    try:
        if published and brought.is_file():
            pools = load_split(brought)
        else:
            pools = registry().dataset(dataset).items()
    except FsbenchError:
        step = f" (fsbench data prepare {dataset})" if published else ""
        return f"the lists of {dataset} are neither here nor in the bundle{step}"
    if published and compare_lists(pools, dataset) not in (Lists.EQUAL, Lists.RENAMED):
        return f"the lists of {dataset} are not the published ones"
    return pools


def _list_gaps(cell: Cell, store: Path) -> Iterator[str]:
    """Parts of a cell that cannot be recomputed or run again, with the reason."""
    assert cell.stored is not None
    spec, answers = cell.record.spec, cell.stored.answers
    if "high" not in (cell.arrays or {}):
        yield "its logits were not kept: run it with --keep-logits all"
    elif tied := int((answers.logits.argmax(axis=1) != answers.predictions).sum()):
        yield f"of {tied} queries, its logits leave open which class is first"
    for name in sorted({*cell.record.metrics} - {*BUILT_IN, "n"}):
        yield f"its metric {name} is none that is built in"
    for part in filter(None, (spec, spec.inner_cell())):
        try:
            if digest_in(part.method_version) and not find_method(
                store, part.method, part.method_version
            ):
                yield f"the code of {part.method} is not there"
        except StoreError:
            yield f"the code of {part.method} is not what was run"
    for name in list_lacking(store, spec.files):
        yield f"{name}, which its method reads, is not there"


def _list_contradictions(stored: Stored) -> Iterator[str]:
    """Statistics of queries that do not follow from their logits, which have 16 bits."""
    import numpy as np

    answers, logits = stored.answers, stored.answers.logits
    rows = np.arange(len(logits))
    gaps = (logits.max(axis=1, keepdims=True) - logits).astype(np.float64)
    shares = np.exp(-gaps)
    shares /= shares.sum(axis=1, keepdims=True)
    # By how much the logarithm of a sum of powers can change when each gap is rounded.
    slack = ROUNDING * np.einsum("ij,ij->i", shares, gaps) + _MARGIN
    given = logits[rows, answers.labels][:, None]
    least, most = 1 + (logits > given).sum(axis=1), (logits >= given).sum(axis=1)
    brier = np.einsum("ij,ij->i", shares, shares) - 2 * shares[rows, answers.labels] + 1
    wrong = {
        "ranks": (answers.ranks < least) | (answers.ranks > most),
        "confidences": abs(np.log(answers.confidences / shares.max(axis=1))) > 2 * slack,
        "Brier scores": abs(answers.brier_scores - brier) > 8 * slack,
    }
    if stored.top is not None:
        classes, probabilities = stored.top
        count = classes.shape[1]
        best = np.sort(np.partition(shares, -count, axis=1)[:, -count:], axis=1)[:, ::-1]
        both = np.stack([probabilities, shares[rows[:, None], classes]])
        wrong["top classes"] = (abs(both - best) > 2 * slack[:, None]).any(axis=(0, 2))
    for name, places in wrong.items():
        if places.any():
            yield f"the {name} of {int(places.sum())} of {len(rows)} queries are not of its logits"


def _list_differences(cell: Cell, drawn: _Drawn) -> Iterator[str]:
    """Differences of the queries and picks of a cell from the split drawn here."""
    assert cell.stored is not None
    split, beside = drawn
    record, spec, test = cell.record, cell.record.spec, split.test
    if cell.stored.names != names_of(item.id for item in test):
        yield f"its queries are not the test images of {spec.evaluated}"
    elif cell.stored.answers.labels.tolist() != [item.label for item in test]:
        yield f"the labels of its queries are not those of {spec.evaluated}"
    facts = {name: len(getattr(split, name)) for name in ("train", "val", "test")}
    facts |= {name: getattr(split, name) for name in ("digest", "protocol")}
    if any(record.split.get(name) != value for name, value in facts.items()):
        yield "its split is not the one that its shots, seed and protocol give"
    groups = cell.stored.answers.groups
    if groups is not None and spec.queries != ALONE:
        labels = [item.label for item in (*test, *beside)]
        listed = digest_of((("test", test), ("bystanders", beside)))
        order = draw_groups(spec.queries, labels, spec.train_seed, listed)
        if groups.tolist() != number_groups(spec.queries, order, len(labels))[: len(test)]:
            yield "the batches or the order of its queries are not those of its seed"
    names = record.split.get("classnames", [])
    known = verify_names(names, spec.target or spec.dataset, spec.classes)
    if known is None:
        known = all(names[item.label : item.label + 1] == [item.classname] for item in test)
    if not known:
        yield f"its class names are not those of {spec.evaluated}"
