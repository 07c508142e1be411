"""Resuming: cells of a plan that the store holds, and those to compute, again or at first.

A record of a method whose code has been edited since is stale: its number is not that of the code
that is installed. So is one of images whose files are other ones now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fewshot_bench.api.method_code import source_digest
from fewshot_bench.api.method_files import short
from fewshot_bench.api.record import Record, code_digest
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec, canonical_json
from fewshot_bench.runner.image_state import ImageState
from fewshot_bench.runner.request import Plan
from fewshot_bench.store.store import Store
from fewshot_bench.utils.text import shortened


@dataclass(frozen=True)
class Code:
    """The digests of the installed code by method."""

    digests: dict[str, str]

    @classmethod
    def of(cls, methods: Iterable[str]) -> Code:
        """As the files are now."""
        known = registry()
        return cls({name: source_digest(known.method_class(name)) for name in sorted(set(methods))})

    def others(self, records: Sequence[Record]) -> list[Record]:
        """Those that other code computed, or that do not say which."""
        stated = Record.entries(records, "environment", "code")
        return [
            record
            for record, (found,) in zip(records, stated, strict=True)
            if code_digest(found) != self.digests[record.spec.method]
        ]

    def about(self, records: Sequence[Record]) -> str:
        """A remark on records that came in while a run went on; empty where all is well."""
        other = self.others(records)
        if not other:
            return ""
        return (
            f"{_cells(other)} computed with other code of {_methods(other)} than was there when "
            "this run began: the same command again computes what has changed"
        )

    def identity(self) -> str:
        """Equal where the code of all methods is."""
        return hashlib.sha256(canonical_json(self.digests).encode()).hexdigest()


@dataclass(frozen=True)
class Resume:
    """Cells of a plan that are left, that are done, and that failed before.

    stale: records of other code; changed: records of other images. Their cells are among `todo`, or
    with `keep_stale` among the rest.
    """

    todo: list[RunSpec]
    done: list[RunSpec]
    failed: list[RunSpec]
    stale: list[Record] = field(default_factory=list)
    changed: list[Record] = field(default_factory=list)
    keep_stale: bool = False

    @property
    def again(self) -> bool:
        """True when something that is done is to be computed again."""
        return bool(self.stale or self.changed) and not self.keep_stale

    def about_stale(self) -> list[str]:
        """A line about cells of other code, about those that do not say, and of other images."""
        silent = [record for record in self.stale if record.code_digest is None]
        other = [record for record in self.stale if record.code_digest is not None]
        what = "computed again; --keep-stale keeps them"
        if self.keep_stale:
            what = "kept (--keep-stale)"
        found = (
            (other, "{} computed with other code of {}: {}"),
            (silent, "{} computed with unknown code of {} (their records do not say): {}"),
        )
        lines = [text.format(_cells(some), _methods(some), what) for some, text in found if some]
        if self.changed:
            sets = f"images of {_datasets(self.changed)} that are other ones now"
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
    """Divide the cells by what the store holds.

    code: that of the plan's methods; images: of its data sets, None to leave them unlooked at.
    Where a machine failed and not the cell (a worker that was killed), the cell is to be run again.
    """
    state = Resume([], [], [], keep_stale=keep_stale)
    held = store.held([] if force else plan.cells)
    records = list(held.values())
    changed = set() if images is None else images.changed(records)
    stale = {record.spec.key() for record in code.others(records)}
    for cell in plan.cells:
        record = held.get(cell.key())
        if record is None or (record.status == "failed" and _again(record, retry_failed)):
            state.todo.append(cell)
            continue
        is_stale = cell.key() in stale
        if is_stale or cell.key() in changed:
            (state.stale if is_stale else state.changed).append(record)
            if not keep_stale:
                state.todo.append(cell)
                continue
        (state.failed if record.status == "failed" else state.done).append(cell)
    return state


def _again(record: Record, retry_failed: bool) -> bool:
    return retry_failed or bool((record.error or {}).get("transient"))


def _cells(records: Sequence[Record]) -> str:
    return "1 cell was" if len(records) == 1 else f"{len(records):,} cells were"


def _datasets(records: Sequence[Record]) -> str:
    names = {record.spec.evaluated for record in records}
    return ", ".join(shortened(sorted(names)))


def _methods(records: Sequence[Record]) -> str:
    return ", ".join(shortened(sorted({short(record.spec.method) for record in records})))
