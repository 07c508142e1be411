"""Cells of several sources as records for tables: levels, and names that sources do not share."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot_bench.analysis.filters import current
from fewshot_bench.analysis.gathering import Entry, Gathered
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS
from fewshot_bench.plugins.report.text import LONGEST_TEXT
from fewshot_bench.store.predictions import Outcome, Outcomes
from fewshot_bench.store.standing import LEVELS, UNVERIFIED
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.text import printable

# The most trusted level first.
BY_TRUST = (*reversed(LEVELS), UNVERIFIED)
# Digits of a digest, as of `fsbench show`.
DIGITS = 12
# What is told of an environment: nothing that names a machine or its user.
_TOLD = (
    *("fewshot_bench", "commit", "dirty", "python", "packages", "platform"),
    *("device", "device_name", "threads", "cpus"),
)


@dataclass
class Sources:
    """The cells of all sources, by the records that tables have of them.

    entries: by source and key of a record; methods: the first of each source and method. The source
    is stated only where several have a method.
    environments: what is told of them, with their places. left: sentences on what stands apart.
    """

    gathered: Gathered
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    methods: dict[tuple[str, str], Entry] = field(default_factory=dict)
    environments: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    _facts: dict[int, tuple[int, str]] = field(default_factory=dict)
    _outcomes: dict[Path, Outcomes] = field(default_factory=dict)

    def levels(self) -> Mapping[str, list[Record]]:
        """The records of the newest versions by level, under names that sources do not share.

        A method's cells at one number of shots have the lowest level of any of them.
        """
        by_source: defaultdict[str, dict[str, Entry]] = defaultdict(dict)
        for entry in self.gathered.entries:
            if by_source[entry.source].setdefault(entry.key, entry) is not entry:
                text = f"{entry.source} has cells in several files: the first of each is shown"
                self.left.extend({text}.difference(self.left))
        rows: defaultdict[tuple[Any, ...], list[Entry]] = defaultdict(list)
        for source, cells in by_source.items():
            every = list(cells.values())
            records = [entry.record for entry in every]
            kept = set(map(id, current(records, records, None, every[0].store.path).records))
            self._read([entry for entry in every if id(entry.record) in kept])
            for entry in every:
                if id(entry.record) not in kept:
                    continue
                spec = entry.record.spec
                conditions = (condition.of(spec) for condition in CONDITIONS.values())
                row = source, spec.label, spec.method_version, spec.shots, *conditions
                rows[row].append(entry)
        found: dict[str, list[Entry]] = {level: [] for level in BY_TRUST}
        for entries in rows.values():
            lowest = max((entry.standing.level for entry in entries), key=BY_TRUST.index)
            found[lowest] += entries
        ran: defaultdict[str, set[str]] = defaultdict(set)
        for entry in (entry for entries in found.values() for entry in entries):
            ran[entry.record.spec.method].add(entry.source)
        several = {method for method, names in ran.items() if len(names) > 1}
        return {lvl: self._rename(entries, several) for lvl, entries in found.items() if entries}

    def _read(self, entries: Sequence[Entry]) -> None:
        by_store: defaultdict[Path, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_store[entry.store.path].append(entry)
        for path, own in by_store.items():
            records = [entry.record for entry in own]
            self._outcomes[path] = Outcomes(own[0].store)
            self._outcomes[path].prepare(records)
            told = Record.entries(records, "environment", *_TOLD)
            digests = Record.entries(records, "digests", "logits", absent="")
            for record, line, (logits,) in zip(records, told, digests, strict=True):
                values = dict(zip(_TOLD, line, strict=True))
                words = printable(json.dumps(values, sort_keys=True), LONGEST_TEXT)
                place = self.environments.setdefault(words, len(self.environments))
                self._facts[id(record)] = place, str(logits)[:DIGITS]

    def _rename(self, entries: Sequence[Entry], several: Collection[str]) -> list[Record]:
        """The records; those of methods that several sources ran state their source."""
        named = []
        for entry in entries:
            method, record = entry.record.spec.method, object.__new__(Record)
            source = entry.source if method in several else ""
            record.__dict__.update(entry.record.__dict__, source=source)
            self.entries[source, entry.key] = entry
            self.methods.setdefault((source, method), entry)
            named.append(record)
        return named

    def entry(self, record: Record) -> Entry:
        """The entry that a record of a table is of."""
        return self.entries[record.source, record.spec.key()]

    def facts(self, record: Record) -> tuple[int, str]:
        """The place of a record's environment, and the first digits of the digest of its logits."""
        return self._facts[id(self.entry(record).record)]

    def of(self, record: Record) -> Outcome | None:
        """The predictions of a record of a table; None without."""
        entry = self.entry(record)
        try:
            return self._outcomes[entry.store.path].of(entry.record)
        except StoreError:
            return None
