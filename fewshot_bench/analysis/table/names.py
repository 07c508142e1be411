"""Names and places that the user gives to rows and groups: new names, groups of rows, ours.

`Names` renames, `arrange` puts rows into groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fewshot_bench.analysis.filters import absent, expand_methods, method_names
from fewshot_bench.analysis.table.table import AVERAGE, Group, Row
from fewshot_bench.utils.errors import UsageError, unknown


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
        names = {name for g in groups for name in _names_in(g) if name}
        names |= {n for label, row in rows.items() for n in (label, row.spec.method)}
        return cls(read_names(texts, names.union(elsewhere)))

    def rows(self, rows: Mapping[str, Row]) -> dict[str, Row]:
        """The rows with their new labels, by the old ones; UsageError if two become equal."""
        renamed: dict[str, Row] = {}
        labels: set[str] = set()
        for label, row in rows.items():
            # A row of another source has the label alone to be renamed by.
            new = self.row(label, label if row.source else row.spec.method)
            if new in labels:
                raise UsageError(f"--rename: two rows would be called '{new}'; expected one")
            labels.add(new)
            renamed[label] = dataclasses.replace(row, label=new)
        return renamed

    def row(self, label: str, method: str) -> str:
        """The new label of a row; a renamed method keeps the options of its rows."""
        if label in self.new:
            return self.new[label]
        if method not in self.new or not label.startswith(method):
            return label
        return self.new[method] + label.removeprefix(method)

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


def _names_in(group: Group) -> tuple[str, ...]:
    """What may be renamed of a group; `average` stands for those of all kinds of evaluation."""
    return group.label, group.dataset, group.target, AVERAGE if group.average else ""


def read_names(texts: Sequence[str], names: Collection[str]) -> dict[str, str]:
    """New names by the old ones; UsageError for an OLD that is unknown or occurs twice.

    texts: as `OLD=NEW`. names: the known ones.
    """
    new: dict[str, str] = {}
    for text in texts:
        old, name = _pair(text, names)
        if old in new:
            raise UsageError(f"--rename: '{old}' stands there twice; leave one out")
        new[old] = name
    return new


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


def read_groups(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of `TITLE=NAMES` texts; UsageError for one that is not such."""
    pairs = []
    for text in texts:
        title, _, names = (part.strip() for part in text.partition("="))
        if not title or not names:
            raise UsageError(f"--group '{text}': expected TITLE=NAMES, as 'Prompt learning=coop'")
        pairs.append((title, names))
    return tuple(pairs)


def arrange(
    rows: Sequence[Row],
    labels: Mapping[str, str],
    groups: Sequence[tuple[str, str]],
    ours: str | None,
    elsewhere: Collection[str],
    *,
    is_ordered: bool,
) -> list[Row]:
    """The rows in their groups: those of none first, ours last of its own unless `is_ordered`.

    labels: new labels of rows by the old ones. groups: titles with comma lists of names. ours: the
    row that stands out. elsewhere: names that the table may lack. UsageError for a name that is no
    row's, and for a row in two groups.
    """
    titles: dict[str, str] = {}
    for title, names in groups:
        every = {name for row in rows for name in _names_of(row, labels)}
        for name in expand_methods(names, every):
            for row in _named(rows, name, labels, "--group", elsewhere):
                if titles.setdefault(row.label, title) != title:
                    raise UsageError(f"--group: '{row.label}' is in two groups; leave it in one")
    own = _named(rows, ours, labels, "--ours", elsewhere) if ours else []
    out = {row.label for row in own}
    order = ["", *dict.fromkeys(titles.values())]
    placed = [replace(row, group=titles.get(row.label, ""), ours=row.label in out) for row in rows]
    return sorted(
        placed,
        key=lambda row: (
            len(order) if row.ours and not row.group and not is_ordered else order.index(row.group),
            row.ours and not is_ordered,
        ),
    )


def _names_of(row: Row, labels: Mapping[str, str]) -> tuple[str, ...]:
    """The names of a row: its label, the one before it was renamed, those of its method."""
    old = (name for name, new in labels.items() if new == row.label)
    return row.label, *old, *method_names(row.spec)


def _named(
    rows: Sequence[Row],
    name: str,
    labels: Mapping[str, str],
    option: str,
    elsewhere: Collection[str],
) -> list[Row]:
    """The row of this label, else those of the method; UsageError if there is none anywhere."""
    exact = [row for row in rows if row.label in (name, labels.get(name))]
    named = exact or [row for row in rows if name in _names_of(row, labels)]
    if not named and name not in elsewhere:
        every = [row.label for row in rows]
        raise absent("method", name, every, f"{option} takes names as the table shows them")
    return named
