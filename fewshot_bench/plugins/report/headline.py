"""The subject of the first screen: one group at one number of shots, and its contestants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fewshot_bench.analysis.citations import papers_of_installed
from fewshot_bench.analysis.formats.style import MOST, Look, looks
from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.analysis.table.table import Cell, Group, Row, Scope, Seed, Table
from fewshot_bench.api.paper import Paper
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report import text

_SCOPES: Sequence[Scope] = ("all", "H", "transfer", "new", "base")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A row of the table with its cell in the headline; `cell` is None without a number there.

    `label` is the method as the report writes it, with marks that not all rows have;
    `shots` are those it is compared at: the headline's, or 0 for a method without a support set.
    `paper` is the first one that its card names; None where that is not known.
    """

    row: Row
    label: str
    look: Look
    shots: int
    cell: Cell | None
    paper: Paper | None = None


@dataclass(frozen=True)
class Headline:
    """The group and the number of shots that the first screen compares the methods at.

    `members` are the groups that are averaged, or the group itself. `contestants` are in the
    table's order, `ranked` those with a number, the best first.
    """

    table: Table
    group: Group
    members: tuple[Group, ...]
    shots: int
    contestants: tuple[Contestant, ...]

    @property
    def ranked(self) -> list[Contestant]:
        """Contestants with a number, the best first."""
        present = [contestant for contestant in self.contestants if contestant.cell]
        return sorted(present, key=lambda contestant: -self.estimate(contestant).mean)

    def estimate(self, contestant: Contestant) -> Estimate:
        """Mean and interval of the table's metric; only of a contestant with a number."""
        assert contestant.cell is not None
        return contestant.cell.estimates[self.table.metric]

    @property
    def ordered(self) -> list[Contestant]:
        """The ranked contestants, then those without a number."""
        return [*self.ranked, *(c for c in self.contestants if not c.cell)]

    @property
    def drawn(self) -> list[Contestant]:
        """The contestants in the figures; the others are in the tables only."""
        return self.ordered[:MOST]

    @property
    def shown_groups(self) -> list[Group]:
        """The groups of the table without averages of a single data set."""
        table = self.table
        return [g for g in table.groups if not g.average or len(table.members(g)) > 1]

    def cell(self, contestant: Contestant, group: Group) -> Cell:
        """The cell of a contestant in a group, at its shots."""
        return self.table.cell(group, contestant.row, contestant.shots)

    def records_of(self, contestant: Contestant, group: Group) -> Mapping[Seed, Record]:
        """The finished records behind a member's number, by seed."""
        return self.cell(contestant, group).records

    def why_not(self, contestant: Contestant) -> str:
        """The reason why a contestant has no number."""
        cell = self.cell(contestant, self.group)
        missing = f"failed: {', '.join(cell.errors)}" if cell.failed else "no result"
        return text.message(cell.reason or missing)

    def calibration_error(self, contestant: Contestant, group: Group) -> float | None:
        """Mean calibration error over seeds in percent, as in the table; None if not known."""
        error = self.cell(contestant, group).estimates.get("ece")
        return error.mean if error else None


def headline(table: Table) -> Headline:
    """Choose the most informative group, and the shots at which most methods have a number there.

    Plain data sets go before base-to-new and transfer, averages before single data sets, and larger
    numbers of shots before smaller ones with as many methods. Methods without shots take part with
    their only number.
    """
    group = min(table.groups, key=lambda g: (_SCOPES.index(g.scope), not g.average))
    best: list[Cell] = []
    chosen = most = 0
    for shots in group.shots:
        cells = [table.cell(group, row, shots) for row in table.rows]
        if 0 in group.shots:
            # A method without shots has its only number there.
            cells = [own if own.expected else table.cell(group, own.row, 0) for own in cells]
        count = sum(table.metric in cell.estimates for cell in cells)
        if not best or count >= most:
            best, chosen, most = cells, shots, count
    same = len({row.marks for row in table.rows}) == 1
    look = looks([row.label for row in table.rows])
    papers = {name: papers_of_installed(name) for name in {row.spec.method for row in table.rows}}
    contestants = tuple(
        Contestant(
            row,
            text.name(row.label if same else row.title),
            look[row.label],
            cell.shots,
            cell if table.metric in cell.estimates else None,
            next(iter(papers[row.spec.method]), None),
        )
        for row, cell in zip(table.rows, best, strict=True)
    )
    members = table.members(group) if group.average else (group,)
    return Headline(table, group, members, chosen, contestants)
