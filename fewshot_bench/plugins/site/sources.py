"""Cells of several sources as records for tables: levels, and names that sources do not share."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot_bench.analysis.filters import newest
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

    ran: the sources of each method; a record states its own only where they are several.
    environments: what is told of them, with their places. left: sentences on what stands apart.
    """

    gathered: Gathered
    ran: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    environments: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    _entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    _facts: dict[int, tuple[int, str]] = field(default_factory=dict)
    _outcomes: dict[Path, Outcomes] = field(default_factory=dict)

    def levels(self) -> Mapping[str, list[Record]]:
        """The records of the newest versions by level, under names that sources do not share.

        A method's cells at one number of shots have the lowest level of any of them.
        """
        rows: defaultdict[tuple[Any, ...], list[Entry]] = defaultdict(list)
        for entry in self._list_newest():
            spec = entry.record.spec
            self.ran[spec.method].add(entry.source)
            conditions = (condition.of(spec) for condition in CONDITIONS.values())
            rows[entry.source, spec.label, spec.shots, *conditions].append(entry)
        self._read([entry for entries in rows.values() for entry in entries])
        levels: dict[str, list[Record]] = {level: [] for level in BY_TRUST}
        for entries in rows.values():
            lowest = max((entry.standing.level for entry in entries), key=BY_TRUST.index)
            levels[lowest] += map(self._name, entries)
        return {level: records for level, records in levels.items() if records}

    def _list_newest(self) -> Iterator[Entry]:
        """The cells of the newest version of each method, the first of each in its source."""
        by_source: defaultdict[str, dict[str, Entry]] = defaultdict(dict)
        for entry in self.gathered.entries:
            if by_source[entry.source].setdefault(entry.key, entry) is not entry:
                text = f"{entry.source} has cells in several files: the first of each is shown"
                self.left.extend({text}.difference(self.left))
        for cells in by_source.values():
            entries = list(cells.values())
            last = newest((entry.record for entry in entries), entries[0].store.path)
            for entry in entries:
                if entry.record.spec.method_version == last[entry.record.spec.method]:
                    yield entry

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

    def _name(self, entry: Entry) -> Record:
        """Its record, with its source if several ran the method."""
        record = object.__new__(Record)
        source = entry.source if len(self.ran[entry.record.spec.method]) > 1 else ""
        record.__dict__.update(entry.record.__dict__, source=source)
        self._entries[source, entry.key] = entry
        return record

    def entry(self, record: Record) -> Entry:
        """The entry that a record of a table is of."""
        return self._entries[record.source, record.spec.key()]

    def facts(self, entry: Entry) -> tuple[int, str]:
        """The place of its environment, and the first digits of the digest of its logits."""
        return self._facts[id(entry.record)]

    def of(self, record: Record) -> Outcome | None:
        """The predictions of a record of a table; None without."""
        entry = self.entry(record)
        try:
            return self._outcomes[entry.store.path].of(entry.record)
        except StoreError:
            return None
