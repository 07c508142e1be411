"""Resuming: divides the cells of a plan into done, failed and to be computed.

`resume` is the entry point. A record is stale if the code of its method has been edited since, or
if its image files have changed: its numbers are not those of the current code and images.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api import own_methods
from fewshot_bench.api.code_closure import (
    Parts,
    describe_each,
    digest_parts,
    join_digests,
    list_changes,
)
from fewshot_bench.api.dataset import Stamped
from fewshot_bench.api.record import Overlap, Record, code_digest, image_facts, images
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import IMPORTED, ON, RunSpec, canonical_json
from fewshot_bench.runner.request import Plan
from fewshot_bench.splits.draw import split_key, split_of
from fewshot_bench.store.kept_code import read_code
from fewshot_bench.store.kept_methods import list_methods
from fewshot_bench.store.store import Store
from fewshot_bench.utils.text import FEW, counted, shortened

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset
    from fewshot_bench.api.items import Item
    from fewshot_bench.api.task import Split

SplitKey = tuple[Any, ...]


class ImageState:
    """Image facts that records of a plan's cells would hold if they were computed now.

    Files with a known stamp are not read. Data sets that cannot detect changed files (not
    `Stamped`) are left out: only their revision identifies them. `problems`: by data set, the
    reason why its images could not be read.
    """

    def __init__(self, datasets: Mapping[str, Dataset], store: Path) -> None:
        """datasets: open data sets by name; store: the results folder, with imported splits."""
        self.problems: dict[str, str] = {}
        self._datasets = datasets
        self._store = store
        self._splits: dict[SplitKey, Split] = {}
        self._digests: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        self._facts: dict[SplitKey, Mapping[str, Any]] = {}

    def list_changed(self, records: Sequence[Record]) -> set[str]:
        """The keys of records whose images differ from the current ones."""
        stating = [record for record in records if images(record.split)]
        self._learn([record.spec for record in stating])
        changed = set()
        for record in stating:
            facts = self._facts.get(split_key(record.spec))
            if facts is not None and facts["images"] != images(record.split):
                changed.add(record.spec.key())
        return changed

    def overlaps(self, cells: Sequence[RunSpec]) -> list[Overlap]:
        """The number of test images among the training images of each cell, where known."""
        self._learn(cells)
        shares = []
        for cell in cells:
            facts = self._facts.get(split_key(cell))
            if facts is not None:
                shares.append(Overlap(cell.evaluated, facts["overlap"], facts["test"]))
        return shares

    def _learn(self, cells: Sequence[RunSpec]) -> None:
        """Compute the facts of all splits of the cells, reading every data set once."""
        new = {
            split_key(cell): cell
            for cell in cells
            if split_key(cell) not in self._facts
            and isinstance(self._datasets[cell.dataset], Stamped)
            and isinstance(self._datasets[cell.target or cell.dataset], Stamped)
        }
        wanted: defaultdict[str, dict[str, Item]] = defaultdict(dict)
        for key, cell in new.items():
            split = self._splits[key] = self._split(cell)
            wanted[cell.dataset] |= {item.id: item for item in (*split.train, *split.val)}
            wanted[cell.target or cell.dataset] |= {item.id: item for item in split.test}
        for name, items in wanted.items():
            self._read(name, items)
        for key, cell in new.items():
            if {cell.dataset, cell.target} & set(self.problems):
                continue
            split, fitted = self._splits[key], self._digests[cell.dataset]
            asked = self._digests[cell.target or cell.dataset]
            train, val = ([fitted[item.id] for item in part] for part in (split.train, split.val))
            facts = image_facts(train, val, [asked[item.id] for item in split.test])
            self._facts[key] = facts | {"test": len(split.test)}

    def _split(self, cell: RunSpec) -> Split:
        if cell.protocol != IMPORTED:
            return split_of(cell, self._datasets)
        from fewshot_bench.splits.imported import load_picks

        picks = load_picks(self._store, cell, self._datasets[cell.dataset].items())
        return split_of(cell, self._datasets, picks)

    def _read(self, name: str, items: Mapping[str, Item]) -> None:
        from fewshot_bench.images.decode import ImageFiles, in_a_line

        digests = self._digests[name]
        absent = [item for key, item in items.items() if key not in digests]
        try:
            read = ImageFiles(self._datasets[name], absent).digests
        except Exception as error:
            # A plug-in may raise anything: without its images there is nothing to compare.
            self.problems[name] = in_a_line(error)
            return
        digests.update(zip((item.id for item in absent), read, strict=True))


# Records in memory at once: a plan can have many more cells.
_AT_ONCE = 8192


@dataclass(frozen=True)
class Code:
    """The installed code by method: its digests, and the parts that it consists of."""

    digests: dict[str, str]
    parts: Mapping[str, Parts] = field(default_factory=dict)

    @classmethod
    def of(cls, methods: Iterable[str]) -> Code:
        """Digests of the current source files; methods: as in `RunSpec.code_name`."""
        catalog, asked = registry(), {name: name.split(ON) for name in methods}
        each = sorted({method for names in asked.values() for method in names})
        parts = dict(describe_each({name: catalog.method_class(name) for name in each}))
        own = {n: own_methods.find(n) for n in parts if n not in catalog.methods.entries}
        digests = {
            name: method.facts.digest if (method := own.get(name)) else digest_parts(parts[name])
            for name in parts
        }
        for name, names in asked.items():
            digests[name] = join_digests([digests[method] for method in names])
            parts[name] = {part: d for method in names for part, d in parts[method].items()}
        return cls(digests, parts)

    def others(self, records: Sequence[Record]) -> list[Record]:
        """Records that were computed by other code, or that do not state their code."""
        stated = Record.entries(records, "environment", "code")
        return [
            record
            for record, (code,) in zip(records, stated, strict=True)
            if code_digest(code) != self.digests[record.spec.code_name]
        ]

    def about(self, records: Sequence[Record]) -> str:
        """A remark on records of other code, added during a run; empty if there are none."""
        other = self.others(records)
        if not other:
            return ""
        return (
            f"{_cells(other)} computed with other code of {_methods(other)} than was there when "
            "this run began: the same command again computes what has changed"
        )

    def list_changes(self, method: str, digest: str, store: Path) -> list[str]:
        """What changed in a method since its code had a digest; empty if that is not known."""
        before = read_code(store, digest)
        return list_changes(before, self.parts.get(method, {})) if before else []

    def about_versions(self, store: Path) -> list[str]:
        """Lines on methods of files that were edited since they ran last: what changed."""
        lines = []
        for name in self.parts:
            own = None if name in registry().methods.entries else own_methods.find(name)
            if own is None or not own.facts.path:
                # A plug-in's, or one of a session, whose file is not the author's.
                continue
            kept = [facts for _, facts in list_methods(store) if facts.name == name]
            last = max(kept, key=lambda facts: facts.run, default=None)
            is_new = all(facts.digest != own.facts.digest for facts in kept)
            if is_new and last and (changes := self.list_changes(name, last.digest, store)):
                versions = f"version {own.version} is new, {last.version} was run last"
                lines.append(f"{name}: {versions}: {shorten_changes(changes)}")
        return lines

    def identity(self) -> str:
        """Digest of all methods' code; equal code gives equal digests."""
        return hashlib.sha256(canonical_json(self.digests).encode()).hexdigest()


@dataclass(frozen=True)
class Resume:
    """Cells of a plan: to be computed, done, and failed before.

    stale: records of other code; changed: records of other images. Their cells are in `todo`, or
    with `keep_stale` in `done` or `failed`. changes: what changed in the code of stale records, by
    method, where that is known. versions: lines on methods of files that were edited.
    """

    todo: list[RunSpec]
    done: list[RunSpec]
    failed: list[RunSpec]
    stale: list[Record] = field(default_factory=list)
    changed: list[Record] = field(default_factory=list)
    keep_stale: bool = False
    changes: dict[str, list[str]] = field(default_factory=dict)
    versions: list[str] = field(default_factory=list)

    @property
    def again(self) -> bool:
        """True if cells that have a record are computed again because it is stale."""
        return bool(self.stale or self.changed) and not self.keep_stale

    def about_stale(self) -> list[str]:
        """Lines on records of other code, of unknown code, and of other images, where any."""
        silent = [record for record in self.stale if record.code_digest is None]
        other = [record for record in self.stale if record.code_digest is not None]
        what = "computed again; --keep-stale keeps them"
        if self.keep_stale:
            what = "kept (--keep-stale)"
        known = [record for record in other if self.changes.get(record.spec.code_name)]
        lines = [
            f"{counted(count, 'cell')} of {method} {'is' if count == 1 else 'are'} stale: "
            f"{shorten_changes(self.changes[method])}: {what}"
            for method, count in Counter(record.spec.code_name for record in known).items()
        ]
        other = [record for record in other if not self.changes.get(record.spec.code_name)]
        kinds = (
            (other, "{} computed with other code of {}: {}"),
            (silent, "{} computed with unknown code of {} (their records do not say): {}"),
        )
        lines += [text.format(_cells(some), _methods(some), what) for some, text in kinds if some]
        if self.changed:
            names = shortened(sorted({record.spec.evaluated for record in self.changed}))
            sets = f"images of {', '.join(names)} that are other ones now"
            lines.append(f"{_cells(self.changed)} computed with {sets}: {what}")
        return lines


def resume(
    plan: Plan,
    store: Store,
    code: Code,
    images: ImageState | None = None,
    *,
    force: bool = False,
    retry_failed: bool = False,
    keep_stale: bool = False,
) -> Resume:
    """Divide the cells of a plan by the records in the store.

    code: of the plan's methods; images: of its data sets, None to skip that check.
    A cell that failed because of the machine (a killed worker) is always run again.
    """
    state = Resume([], [], [], keep_stale=keep_stale, versions=code.about_versions(store.path))
    if force:
        state.todo.extend(plan.cells)
        return state
    held = store.read_cells(plan.cells)
    while some := list(itertools.islice(held, _AT_ONCE)):
        records = [record for _, record in some if record is not None]
        changed = set() if images is None else images.list_changed(records)
        stale = {record.spec.key() for record in code.others(records)}
        for cell, record in some:
            failed = record is not None and record.status == "failed"
            if record is None or (failed and (retry_failed or record.transient)):
                state.todo.append(cell)
                continue
            is_stale = cell.key() in stale
            if is_stale or cell.key() in changed:
                (state.stale if is_stale else state.changed).append(record)
                if not keep_stale:
                    state.todo.append(cell)
                    continue
            (state.failed if failed else state.done).append(cell)
    for method, digest in dict.fromkeys((r.spec.code_name, r.code_digest) for r in state.stale):
        if digest and method not in state.changes:
            state.changes[method] = code.list_changes(method, digest, store.path)
    return state


def shorten_changes(changes: Sequence[str]) -> str:
    """`a.f, a.g changed, a.h added`; of many the first ones, and how many more there are."""
    shown: dict[str, list[str]] = {}
    for change in changes[:FEW]:
        name, _, what = change.rpartition(" ")
        shown.setdefault(what, []).append(name)
    text = ", ".join(f"{', '.join(names)} {what}" for what, names in shown.items())
    more = len(changes) - FEW
    return f"{text} (and {more} more)" if more > 0 else text


def _cells(records: Sequence[Record]) -> str:
    return "1 cell was" if len(records) == 1 else f"{len(records):,} cells were"


def _methods(records: Sequence[Record]) -> str:
    return ", ".join(shortened(sorted({record.spec.method for record in records})))
