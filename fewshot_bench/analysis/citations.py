"""Citations of results: papers of methods, data sets and backbones, and this tool, as BibTeX.

`of_records` is the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.paper import THIS_TOOL, Paper, entries_of
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.backbones.papers import papers_of_weights
from fewshot_bench.utils.errors import FsbenchError


@dataclass
class Citations:
    """BibTeX entries by key, this tool's included; a note per name whose papers are not known."""

    entries: dict[str, str] = field(default_factory=lambda: entries_of([THIS_TOOL]))
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, name: str, entries: Mapping[str, str]) -> None:
        """Add the entries of a method, a data set or a backbone; none make a note."""
        if not entries:
            self.notes.append(f"{kind} '{name}' names no paper")
        for key, entry in entries.items():
            if self.entries.setdefault(key, entry) != entry:
                self.notes.append(
                    f"{kind} '{name}': another paper has the key '{key}'; its own is left out"
                )

    def add_each(
        self, kind: str, names: Iterable[str], papers_of: Callable[[str], Iterable[Paper]]
    ) -> None:
        """Add the papers of these names, each once."""
        for name in dict.fromkeys(names):
            self.add(kind, name, entries_of(papers_of(name)))

    @property
    def text(self) -> str:
        """All entries, sorted by key."""
        return "\n".join(self.entries[key] for key in sorted(self.entries))


def of_records(records: Sequence[Record]) -> Citations:
    """The works that records used; papers of a method that they state come before its card's."""
    stated: dict[str, Mapping[str, str]] = {}
    read = Record.entries(records, "footprint", "card.papers")
    for record, (papers,) in zip(records, read, strict=True):
        if not stated.setdefault(record.spec.method, {}) and isinstance(papers, Mapping):
            stated[record.spec.method] = papers
    specs = [record.spec for record in records]
    citations = Citations()
    for name in sorted(stated):
        entries = stated[name] or entries_of(papers_of_installed(name))
        citations.add("method", name, entries)
    names = {name for spec in specs for name in (spec.dataset, spec.target) if name}
    citations.add_each("data set", sorted(names), papers_of_dataset)
    citations.add_each("backbone", sorted({spec.backbone for spec in specs}), papers_of_backbone)
    return citations


def papers_of_method(name: str) -> tuple[Paper, ...]:
    """The papers that a method was registered with, else those on its card, which imports it."""
    entry = registry().methods.entries.get(name)
    if entry is not None and entry.papers:
        return entry.papers
    card = card_of(registry().method_class(name))
    return card.papers if card else ()


def papers_of_dataset(name: str) -> tuple[Paper, ...]:
    """The papers that a data set was registered with; empty if it is not installed."""
    entry = registry().dataset_entry(name)
    return entry.papers if entry else ()


def papers_of_backbone(name: str) -> tuple[Paper, ...]:
    """The papers that a backbone was registered with, or those of open_clip's weights."""
    entry = registry().backbones.entries.get(name)
    return entry.papers if entry else papers_of_weights(name)


def papers_of_installed(method: str) -> tuple[Paper, ...]:
    """The papers of a method if it is installed, else none; a file is not imported for this."""
    if method not in registry().methods.entries:
        return ()
    try:
        return papers_of_method(method)
    except FsbenchError:
        return ()
