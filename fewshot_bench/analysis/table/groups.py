"""Groups of a table (evaluations, harmonic means of base and new, averages) and their names.

`table_groups` derives the groups from records, `Names` renames groups and rows.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fewshot_bench.analysis.filters import expand_datasets, place
from fewshot_bench.analysis.frame import distinct
from fewshot_bench.analysis.table.table import AVERAGE, Group, Row, Scope, Seed
from fewshot_bench.api.method_code import aliases
from fewshot_bench.utils.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd

_ORDER: Sequence[Scope] = ("all", "base", "new", "H", "transfer")


def table_groups(
    data: pd.DataFrame, names: str | None, *, harmonic: bool = True
) -> tuple[Group, ...]:
    """Evaluated groups and their harmonic means, in order, then the averages of each scope.

    names: the user's comma list, which sets the order of the data sets. harmonic: whether to add
    harmonic means of base and new. Raises UsageError when two groups would have the same name.
    """
    evaluations = distinct(data, "evaluated", "dataset", "classes", "target")
    evaluated = {
        Group(label, "transfer" if target else classes, dataset, target)
        for label, dataset, classes, target in evaluations
    }
    base = {group.dataset for group in evaluated if group.scope == "base"}
    new = {group.dataset for group in evaluated if group.scope == "new"}
    if harmonic:
        evaluated |= {Group(f"{dataset} (H)", "H", dataset) for dataset in base & new}
    ordered = _order(evaluated, names)
    groups = [*ordered, *_averages(ordered)]
    meanings = [(g.label, (g.scope, g.dataset, str(g.average))) for g in groups if g.derived]
    _refuse_ambiguous([*meanings, *((label, tuple(rest)) for label, *rest in evaluations)])
    return tuple(_add_axes(data, groups))


def _order(groups: Iterable[Group], names: str | None) -> list[Group]:
    """Order of the comma list; else by data set (all, base, new, H), transfers last."""
    groups = list(groups)
    every = {name for group in groups for name in (group.label, group.dataset, group.target)}
    wanted = expand_datasets(names, every) if names else []

    def key(group: Group) -> tuple[int, bool, str, int, str]:
        own = (group.label, group.dataset, group.target)
        asked = min(place(wanted, name) for name in own)
        transferred = group.scope == "transfer"
        return asked, transferred, group.dataset, _ORDER.index(group.scope), group.target

    return sorted(groups, key=key)


def _averages(groups: Sequence[Group]) -> list[Group]:
    """One average per scope, except for plain data sets only over several groups."""
    averages = []
    for scope in _ORDER:
        members = [group for group in groups if group.scope == scope]
        sources = dict.fromkeys(group.dataset for group in members)
        if scope == "all" and members:
            averages.append(Group(AVERAGE, scope, average=True))
        elif scope == "transfer" and len(sources) > 1:
            for source in sources:
                label = f"{AVERAGE} (transfer from {source})"
                average = Group(label, scope, source, average=True)
                averages += [average] if sum(map(average.averages, members)) > 1 else []
        elif len(members) > 1:
            averages.append(Group(f"{AVERAGE} ({scope})", scope, average=True))
    return averages


def _refuse_ambiguous(meanings: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """UsageError for a label with two meanings: a user's folder may be named `dtd (base)`."""
    by_label: dict[str, tuple[str, ...]] = {}
    for label, meaning in meanings:
        if by_label.setdefault(label, meaning) != meaning:
            raise UsageError(
                f"'{label}' stands for two things in this table, one of them a data set of that "
                "name: rename that data set, or choose with --dataset or --classes"
            )


def _add_axes(data: pd.DataFrame, groups: Sequence[Group]) -> list[Group]:
    """The groups with the shots and seeds that records of their kind of evaluation have.

    Base and new are two halves of one experiment: shots and seeds of one are expected of the other.
    """
    shots: defaultdict[str, set[int]] = defaultdict(set)
    seeds: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    kinds = {"all": "all", "transfer": "transfer"}
    for target, classes, k, *pair in distinct(
        data, "target", "classes", "shots", "split_seed", "train_seed"
    ):
        kind = kinds.get("transfer" if target else classes, "halves")
        shots[kind].add(k)
        seeds[kind].add((pair[0], pair[1]))
    return [
        dataclasses.replace(
            group,
            shots=tuple(sorted(shots[kinds.get(group.scope, "halves")])),
            seeds=tuple(Seed(*pair) for pair in sorted(seeds[kinds.get(group.scope, "halves")])),
        )
        for group in groups
    ]


@dataclass(frozen=True)
class Names:
    """New names by old ones, for rows, methods, data sets, groups, or the average."""

    new: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        texts: Sequence[str],
        rows: Mapping[str, Row],
        groups: Iterable[Group],
        elsewhere: Collection[str] = (),
    ) -> Names:
        """Parse `OLD=NEW` texts; UsageError if the table lacks OLD or an OLD occurs twice.

        elsewhere: names that the table may lack.
        """
        names = {name for g in groups for name in (g.label, g.dataset, g.target) if name}
        names |= {n for label, row in rows.items() for n in (label, *_spellings(row.spec.method))}
        names |= set(elsewhere)
        new: dict[str, str] = {}
        for text in texts:
            old, name = _pair(text, names)
            if old in new:
                raise UsageError(f"--rename: '{old}' stands there twice; leave one out")
            new[old] = name
        return cls(new)

    def rows(self, rows: Mapping[str, Row]) -> dict[str, Row]:
        """The rows with their new labels, by the old ones; UsageError if two become equal."""
        renamed: dict[str, Row] = {}
        labels: set[str] = set()
        for label, row in rows.items():
            new = self.row(label, row.spec.method)
            if new in labels:
                raise UsageError(f"--rename: two rows would be called '{new}'; expected one")
            labels.add(new)
            renamed[label] = dataclasses.replace(row, label=new)
        return renamed

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
        renamed = tuple(dataclasses.replace(group, shown=self.group(group)) for group in groups)
        shown = [group.shown for group in renamed]
        twice = next((name for name in shown if shown.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"--rename: two data sets would be called '{twice}'; expected one")
        return renamed

    def group(self, group: Group) -> str:
        """The name of a group: its own new name, or one built from those of its data sets."""
        if group.label in self.new:
            return self.new[group.label]
        if group.average:
            return self.new.get(AVERAGE, AVERAGE) + group.label.removeprefix(AVERAGE)
        name = self.new.get(group.dataset, group.dataset)
        if group.target:
            return f"{name} → {self.new.get(group.target, group.target)}"
        return name if group.scope == "all" else f"{name} ({group.scope})"


def _spellings(method: str) -> tuple[str, ...]:
    """The name of a method, and the shorter ones of a method in a file."""
    return method, *aliases(method)


def _pair(text: str, names: Collection[str]) -> tuple[str, str]:
    """Split OLD=NEW. Both may contain `=`, so OLD is the longest prefix that is a name."""
    ends = [index for index, character in enumerate(text) if character == "="]
    if not ends:
        raise UsageError(f"--rename '{text}': expected OLD=NEW, such as 'coop[epochs=50]=Ours'")
    for index in reversed(ends):
        old, new = text[:index].strip(), text[index + 1 :].strip()
        if old in names:
            if not new:
                raise UsageError(f"--rename '{text}': expected a new name behind '='")
            return old, new
    old = text[: ends[-1]].strip()
    raise unknown("name to replace", old, names, "--rename takes names as the table shows them")
