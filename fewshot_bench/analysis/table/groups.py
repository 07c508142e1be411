"""Groups of a table (evaluations, harmonic means of base and new, averages) and their names.

`table_groups` derives the groups from records, `Names` renames groups and rows.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fewshot_bench.analysis.filters import asked_datasets, place
from fewshot_bench.analysis.table.axes import AVERAGE, Group, Row, Scope, Seed
from fewshot_bench.api.method_files import aliases
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.utils.errors import UsageError, unknown

_ORDER: Sequence[Scope] = ("all", "base", "new", "H", "transfer")
# Base and new are two halves of one experiment: shots and seeds of one are expected of the other.
_KIND: Mapping[str, str] = {
    "all": "plain",
    "base": "halves",
    "new": "halves",
    "H": "halves",
    "transfer": "transfer",
}


def group_of(spec: RunSpec) -> Group:
    """The group of a record's cell, without the shots and seeds of the table."""
    scopes: Mapping[str, Scope] = {"all": "all", "base": "base", "new": "new"}
    scope = "transfer" if spec.target else scopes[spec.classes]
    return Group(spec.evaluated, scope, spec.dataset, spec.target)


def table_groups(
    records: Sequence[Record], names: str | None, *, harmonic: bool = True
) -> tuple[Group, ...]:
    """Evaluated groups and their harmonic means, in order, then the averages of each scope.

    names: the user's comma list, which sets the order of the data sets. harmonic: whether to add
    harmonic means of base and new. Raises UsageError when two groups would have the same name.
    """
    found = {group_of(record.spec) for record in _one_of_each(records)}
    both = {group.dataset for group in found if group.scope == "base"} & {
        group.dataset for group in found if group.scope == "new"
    }
    if harmonic:
        found |= {Group(f"{dataset} (H)", "H", dataset) for dataset in both}
    ordered = _ordered(found, names)
    groups = [*ordered, *_averages(ordered)]
    _refuse_ambiguous(records, groups)
    return tuple(_with_axes(records, groups))


def _ordered(groups: Iterable[Group], names: str | None) -> list[Group]:
    """Order of the comma list; else by data set (all, base, new, H), transfers last."""
    groups = list(groups)
    known = {name for group in groups for name in _names(group)}
    wanted = asked_datasets(names, known) if names else []

    def key(group: Group) -> tuple[int, bool, str, int, str]:
        asked = min(place(wanted, name) for name in _names(group))
        transferred = group.scope == "transfer"
        return asked, transferred, group.dataset, _ORDER.index(group.scope), group.target

    return sorted(groups, key=key)


def _names(group: Group) -> tuple[str, ...]:
    return group.label, group.dataset, group.target


def _averages(groups: Sequence[Group]) -> list[Group]:
    """One average per scope, except for plain data sets only over several groups."""
    found = []
    for scope in _ORDER:
        members = [group for group in groups if group.scope == scope]
        sources = list(dict.fromkeys(group.dataset for group in members))
        if scope == "all" and members:
            found.append(Group(AVERAGE, scope, average=True))
        elif scope == "transfer" and len(sources) > 1:
            averages = [_from_source(source) for source in sources]
            found += [g for g in averages if sum(map(g.averages, members)) > 1]
        elif len(members) > 1:
            found.append(Group(f"{AVERAGE} ({scope})", scope, average=True))
    return found


def _from_source(source: str) -> Group:
    return Group(f"{AVERAGE} (transfer from {source})", "transfer", source, average=True)


def _one_of_each(records: Sequence[Record]) -> list[Record]:
    """One record per evaluation (data set, classes, target)."""
    found = {(r.spec.dataset, r.spec.classes, r.spec.target): r for r in records}
    return list(found.values())


def _refuse_ambiguous(records: Sequence[Record], groups: Sequence[Group]) -> None:
    """Refuse labels with two meanings: a user's folder may be named `dtd (base)`, for example."""
    meanings: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for group in groups:
        if group.derived:
            meanings[group.label].add((group.scope, group.dataset, str(group.average)))
    for record in _one_of_each(records):
        spec = record.spec
        meanings[spec.evaluated].add((spec.dataset, spec.classes, spec.target))
    for label, meaning in meanings.items():
        if len(meaning) > 1:
            raise UsageError(
                f"'{label}' stands for two things in this table, one of them a data set of that "
                "name: rename that data set, or choose with --dataset or --classes"
            )


def _with_axes(records: Sequence[Record], groups: Sequence[Group]) -> list[Group]:
    """The groups with the shots and seeds found for their kind of evaluation in the records."""
    shots: defaultdict[str, set[int]] = defaultdict(set)
    seeds: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    for record in records:
        spec = record.spec
        kind = "transfer" if spec.target else _KIND[spec.classes]
        shots[kind].add(spec.shots)
        seeds[kind].add((spec.split_seed, spec.train_seed))
    return [
        dataclasses.replace(
            group,
            shots=tuple(sorted(shots[_KIND[group.scope]])),
            seeds=tuple(Seed(*pair) for pair in sorted(seeds[_KIND[group.scope]])),
        )
        for group in groups
    ]


Rows = Mapping[str, tuple[Row, list[Record]]]


@dataclass(frozen=True)
class Names:
    """New names by old ones, for rows, methods, data sets, groups, or the average."""

    new: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        texts: Sequence[str],
        rows: Rows,
        groups: Iterable[Group],
        elsewhere: Collection[str] = (),
    ) -> Names:
        """Parse `OLD=NEW` texts; UsageError if the table lacks OLD or an OLD occurs twice.

        elsewhere: names that the table may lack.
        """
        known = {
            name
            for label, (row, _) in rows.items()
            for name in (label, *_spellings(row.spec.method))
        }
        known |= set(elsewhere)
        known |= {name for g in groups for name in (g.label, g.dataset, g.target) if name}
        found: dict[str, str] = {}
        for text in texts:
            old, new = _pair(text, known)
            if old in found:
                raise UsageError(f"--rename: '{old}' stands there twice; leave one out")
            found[old] = new
        return cls(found)

    def rows(self, rows: Rows) -> dict[str, tuple[Row, list[Record]]]:
        """The rows under their new labels; UsageError if two labels become equal."""
        made: dict[str, tuple[Row, list[Record]]] = {}
        for label, (row, members) in rows.items():
            new = self.row(label, row.spec.method)
            if new in made:
                raise UsageError(f"--rename: two rows would be called '{new}'; expected one")
            made[new] = (dataclasses.replace(row, label=new), members)
        return made

    def row(self, label: str, method: str) -> str:
        """The new label of a row; a renamed method keeps the options of its rows."""
        if label in self.new:
            return self.new[label]
        new = next((self.new[name] for name in _spellings(method) if name in self.new), None)
        shown = next((name for name in _spellings(method) if label.startswith(name)), None)
        if new is None or shown is None:
            return label
        return new + label.removeprefix(shown)

    def groups(self, groups: Iterable[Group]) -> tuple[Group, ...]:
        """The groups with their new names; UsageError if two names become equal."""
        if not self.new:
            return tuple(groups)
        made = tuple(dataclasses.replace(group, shown=self.group(group)) for group in groups)
        shown = [group.shown for group in made]
        twice = next((name for name in shown if shown.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"--rename: two data sets would be called '{twice}'; expected one")
        return made

    def group(self, group: Group) -> str:
        """The name of a group: its own new name, or one built from those of its data sets."""
        if group.label in self.new:
            return self.new[group.label]
        if group.average:
            return self.of(AVERAGE) + group.label.removeprefix(AVERAGE)
        if group.target:
            return f"{self.of(group.dataset)} → {self.of(group.target)}"
        name = self.of(group.dataset)
        return name if group.scope == "all" else f"{name} ({group.scope})"

    def of(self, name: str) -> str:
        """The name of a data set, or of the average."""
        return self.new.get(name, name)


def _spellings(method: str) -> tuple[str, ...]:
    """The name of a method, and the shorter ones of a method in a file."""
    return method, *aliases(method)


def _pair(text: str, names: Collection[str]) -> tuple[str, str]:
    """Split OLD=NEW. Both may contain `=`, so OLD is the longest prefix that is a known name."""
    places = [index for index, character in enumerate(text) if character == "="]
    if not places:
        raise UsageError(f"--rename '{text}': expected OLD=NEW, such as 'coop[epochs=50]=Ours'")
    for index in reversed(places):
        old, new = text[:index].strip(), text[index + 1 :].strip()
        if old in names:
            if not new:
                raise UsageError(f"--rename '{text}': expected a new name behind '='")
            return old, new
    old = text[: places[-1]].strip()
    raise unknown("name to replace", old, names, "--rename takes names as the table shows them")
