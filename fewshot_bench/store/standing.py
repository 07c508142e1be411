"""How far a finished cell can be trusted: `judge` recomputes what its files allow.

A cell is *submitted* if its files are what its record says, and *verified* if every metric was
recomputed from its logits and its queries are those of the data set. *re-run* needs another
submitter's cell (`analysis/gathering.py`). One whose numbers do not follow is UNVERIFIED.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from fewshot_bench.api.metrics import BUILT_IN
from fewshot_bench.api.own_methods import digest_in
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import IMPORTED, KEPT_MODEL, RunSpec
from fewshot_bench.api.split_file import Pools, load_split
from fewshot_bench.splits.draw import draw_all_classes, narrow, split_key
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
# Margin of statistics beside rounding of logits to 16 bits.
_MARGIN = 2e-6


@dataclass(frozen=True)
class Standing:
    """The level of a cell, and why it is no higher. UNVERIFIED: what contradicts its files."""

    level: str
    reasons: tuple[str, ...] = ()


class _Queries(NamedTuple):
    """The split of a cell as it is drawn here, and its queries; `reason` if it cannot be known."""

    reason: str
    digest: str = ""
    names: bytes = b""
    labels: tuple[int, ...] = ()
    classnames: Mapping[int, str] = MappingProxyType({})


def judge(store: Store) -> Mapping[str, Standing]:
    """The standing of every finished cell by its key. Nothing of the store is run or imported."""
    judge, standings = _Judge(store.path), dict[str, Standing]()
    for file in over(list(record_files(store.root)), "cells"):
        try:
            cell = examine(file.path)
        except FileNotFoundError:
            continue
        except (Damaged, StoreError) as error:
            standings[file.path.stem] = Standing(UNVERIFIED, (str(error),))
            continue
        if cell.record.status == "done":
            standings[cell.record.spec.key()] = judge.stand(cell)
    return standings


@dataclass
class _Judge:
    store: Path
    splits: dict[object, _Queries] = field(default_factory=dict)
    lists: dict[str, tuple[Pools | None, str]] = field(default_factory=dict)

    def stand(self, cell: Cell) -> Standing:
        wrong, missing = list(cell.problems), list[str]()
        if not wrong:
            assert cell.stored is not None
            missing += _list_uncomputed(cell)
            if has_logits(cell):
                wrong += _contradictions(cell.stored)
            split = self._split(cell.record.spec)
            (missing if split.reason else wrong).extend(_differences(cell, split))
            missing += self._lacking(cell.record)
        if wrong:
            return Standing(UNVERIFIED, tuple(wrong))
        return Standing(SUBMITTED if missing else VERIFIED, tuple(missing))

    def _lacking(self, record: Record) -> Iterator[str]:
        spec = record.spec
        for part in filter(None, (spec, spec.inner_cell())):
            if not digest_in(part.method_version):
                continue
            try:
                if not find_method(self.store, part.method, part.method_version):
                    yield f"the code of {part.method} is not there"
            except StoreError:
                yield f"the code of {part.method} is not what was run"
        for name in list_lacking(self.store, spec.files):
            yield f"{name}, which its method reads, is not there"

    def _split(self, spec: RunSpec) -> _Queries:
        key = (*split_key(spec), spec.classes, str(dict(spec.data)))
        if key not in self.splits:
            try:
                self.splits[key] = self._draw(spec)
            except FsbenchError as error:
                self.splits[key] = _Queries(f"its split cannot be drawn here: {error}")
        return self.splits[key]

    def _draw(self, spec: RunSpec) -> _Queries:
        if spec.data or spec.protocol == KEPT_MODEL:
            return _Queries("its classes, images or picks are the submitter's own")
        pools, reason = self._pools(spec.dataset)
        target, other = self._pools(spec.target) if spec.target else (None, "")
        if pools is None or (spec.target and target is None):
            return _Queries(reason or other)
        picks = load_picks(self.store, spec, pools) if spec.protocol == IMPORTED else None
        classes = 1 + max(item.label for items in pools.values() for item in items)
        split = narrow(spec, draw_all_classes(spec, pools, picks), classes, target)
        labels = tuple(item.label for item in split.test)
        names = {item.label: item.classname for item in split.test}
        return _Queries("", split.digest, names_of(item.id for item in split.test), labels, names)

    def _pools(self, dataset: str) -> tuple[Pools | None, str]:
        if dataset not in self.lists:
            self.lists[dataset] = self._open(dataset)
        return self.lists[dataset]

    def _open(self, dataset: str) -> tuple[Pools | None, str]:
        """The lists of a data set: the published ones if there are any, else those that are here.

        None with the reason, if these are not known.
        """
        if ":" in dataset:
            return None, f"the images of {dataset} are the submitter's own"
        published = dataset in published_splits()
        brought = self.store / LISTS / f"{dataset}.json"
        try:
            if published and brought.is_file():
                pools = load_split(brought)
            else:
                pools = registry().dataset(dataset).items()
        except FsbenchError:
            step = f" (fsbench data prepare {dataset})" if published else ""
            return None, f"the lists of {dataset} are neither here nor in the bundle{step}"
        if published and compare_lists(pools, dataset) not in (Lists.EQUAL, Lists.RENAMED):
            return None, f"the lists of {dataset} are not the published ones"
        return pools, ""


def has_logits(cell: Cell) -> bool:
    """True if all logits of a cell are there, whatever its record says."""
    return cell.arrays is not None and "high" in cell.arrays


def _list_uncomputed(cell: Cell) -> Iterator[str]:
    """What of a record's metrics cannot be recomputed, with the reason."""
    if not has_logits(cell):
        yield "its logits were not kept: run it with --keep-logits all"
    for name in sorted({*cell.record.metrics} - {*BUILT_IN, "n"}):
        yield f"its metric {name} is none that is built in"


def _contradictions(stored: Stored) -> Iterator[str]:
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
    for name, places in wrong.items():
        if places.any():
            yield f"the {name} of {int(places.sum())} of {len(rows)} queries are not of its logits"


def _differences(cell: Cell, split: _Queries) -> Iterator[str]:
    """How the queries and picks of a cell differ from the split drawn here; or why none is."""
    if split.reason:
        yield split.reason
        return
    assert cell.stored is not None
    record, spec = cell.record, cell.record.spec
    if cell.stored.names != split.names:
        yield f"its queries are not the test images of {spec.evaluated}"
    elif tuple(cell.stored.answers.labels.tolist()) != split.labels:
        yield f"the labels of its queries are not those of {spec.evaluated}"
    if record.split.get("digest") != split.digest:
        yield "its split is not the one that its shots, seed and protocol give"
    names = record.split.get("classnames", [])
    known = verify_names(names, spec.target or spec.dataset, spec.classes)
    if known is None:
        known = all(names[label : label + 1] == [n] for label, n in split.classnames.items())
    if not known:
        yield f"its class names are not those of {spec.evaluated}"
