"""Other names for methods and data sets, as a paper calls them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fewshot_bench.analysis.table.model import AVERAGE, Group, Row
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError, unknown

Rows = Mapping[str, tuple[Row, list[Record]]]


@dataclass(frozen=True)
class Names:
    """New names by old ones: of rows, methods, data sets, what was evaluated, or the average."""

    new: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, texts: Sequence[str], rows: Rows, groups: Iterable[Group]) -> Names:
        """From `OLD=NEW`; UsageError unless the table has OLD and all names stay apart."""
        known = {name for label, (row, _) in rows.items() for name in (label, row.spec.method)}
        known |= {name for g in groups for name in (g.label, g.dataset, g.target) if name}
        found: dict[str, str] = {}
        for text in texts:
            old, new = _pair(text, known)
            if old in found:
                raise UsageError(f"--rename: '{old}' stands there twice; leave one out")
            found[old] = new
        return cls(found)

    def rows(self, rows: Rows) -> dict[str, tuple[Row, list[Record]]]:
        """The rows under their new labels, which must differ."""
        made: dict[str, tuple[Row, list[Record]]] = {}
        for label, (row, members) in rows.items():
            new = self.row(label, row.spec.method)
            if new in made:
                raise UsageError(f"--rename: two rows would be called '{new}'; expected one")
            made[new] = (dataclasses.replace(row, label=new), members)
        return made

    def row(self, label: str, method: str) -> str:
        """That of a row; a method's stands before the options of its rows."""
        if label in self.new:
            return self.new[label]
        if method in self.new and label.startswith(method):
            return self.new[method] + label.removeprefix(method)
        return label

    def groups(self, groups: Iterable[Group]) -> tuple[Group, ...]:
        """The groups with what is shown for them; the names must differ."""
        if not self.new:
            return tuple(groups)
        made = tuple(dataclasses.replace(group, shown=self.group(group)) for group in groups)
        shown = [group.shown for group in made]
        twice = next((name for name in shown if shown.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"--rename: two data sets would be called '{twice}'; expected one")
        return made

    def group(self, group: Group) -> str:
        """That of what was evaluated, from the names of its data sets where it has none."""
        if group.label in self.new:
            return self.new[group.label]
        if group.average:
            return self.of(AVERAGE) + group.label.removeprefix(AVERAGE)
        if group.target:
            return f"{self.of(group.dataset)} → {self.of(group.target)}"
        name = self.of(group.dataset)
        return name if group.scope == "all" else f"{name} ({group.scope})"

    def of(self, name: str) -> str:
        """That of a data set, or of the average."""
        return self.new.get(name, name)


def _pair(text: str, names: Collection[str]) -> tuple[str, str]:
    """Old and new name: either may hold `=`, so that the longest known name counts."""
    places = [index for index, character in enumerate(text) if character == "="]
    if not places:
        raise UsageError(f"--rename '{text}': expected OLD=NEW, such as 'coop[epochs=50]=Ours'")
    for place in reversed(places):
        old, new = text[:place].strip(), text[place + 1 :].strip()
        if old in names:
            if not new:
                raise UsageError(f"--rename '{text}': expected a new name behind '='")
            return old, new
    old = text[: places[-1]].strip()
    raise unknown("name to replace", old, names, "--rename takes names as the table shows them")
