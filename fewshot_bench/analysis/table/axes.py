"""The axes of a table: groups, rows and seeds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from fewshot_bench.api.record import NOT_OBSERVED
from fewshot_bench.api.spec import TOY, RunSpec

if TYPE_CHECKING:
    from fewshot_bench.api.record import Record

AVERAGE = "average"
Scope = Literal["all", "base", "new", "H", "transfer"]


class Seed(NamedTuple):
    """Split seed and training seed of a run; shown as one number when both are equal."""

    split: int
    train: int

    @classmethod
    def of(cls, record: Record) -> Seed:
        """The seeds of a record."""
        return cls(record.spec.split_seed, record.spec.train_seed)

    def __str__(self) -> str:
        return str(self.split) if self.split == self.train else f"{self.split}/{self.train}"


@dataclass(frozen=True, slots=True)
class Group:
    """The subject of one block of a table: an evaluation, or a mean of several.

    `scope` is the kind of evaluation: all classes, the base or the new ones, the harmonic mean of
    these two (H), or transfer from `dataset` (fitted on) to `target`. An average is over groups of
    one scope; its `dataset` is empty unless transfers are averaged per source data set. `shots` and
    `seeds` are those that the table expects for this kind of evaluation. `shown` is the new name of
    a renamed group.
    """

    label: str
    scope: Scope
    dataset: str = ""
    target: str = ""
    average: bool = False
    shots: tuple[int, ...] = ()
    seeds: tuple[Seed, ...] = ()
    shown: str = ""

    @property
    def name(self) -> str:
        """The name in tables: the label, unless it was renamed."""
        return self.shown or self.label

    @property
    def derived(self) -> bool:
        """True for averages and harmonic means, which are computed from other groups."""
        return self.average or self.scope == "H"

    def averages(self, other: Group) -> bool:
        """True when this is an average that includes `other`."""
        same = not other.average and other.scope == self.scope
        return self.average and same and self.dataset in ("", other.dataset)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a method as configured, under one set of conditions.

    stated: the marks that follow from its records (`stated_marks`).
    """

    label: str
    spec: RunSpec
    stated: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """Marks that qualify a comparison of this row with another."""
        return unfair_or_limited(self.spec) + self.stated

    @property
    def title(self) -> str:
        """The label with its marks."""
        return f"{self.label} ({', '.join(self.marks)})" if self.marks else self.label


# Marks that follow from records: whose logits depend on other queries, and whose costs are unknown.
DEPENDENT = "depends on other queries"
NOT_METERED = "work not metered"
TRAINED_UNKNOWN = "trained parameters not observed"
STATED = (
    ("footprint.depends_on_queries", True, DEPENDENT),
    ("footprint.metered", False, NOT_METERED),
    ("footprint.trained_source", NOT_OBSERVED, TRAINED_UNKNOWN),
)


def stated_marks(*values: object) -> tuple[str, ...]:
    """The marks of a record. values: of the entries that `STATED` names."""
    pairs = zip(values, STATED, strict=True)
    return tuple(mark for value, (_, marked, mark) in pairs if value == marked)


def marks_of(spec: RunSpec, stated: Sequence[str] = ()) -> list[str]:
    """Marks of a number in CSV and JSON, including the one for the toy backbone."""
    toy = ["toy backbone"] if spec.backbone == TOY else []
    return [*unfair_or_limited(spec), *stated, *toy]


def unfair_or_limited(spec: RunSpec) -> tuple[str, ...]:
    """Marks of numbers with unfair validation or on some test images."""
    unfair = ("unfair validation",) if spec.val == "full" else ()
    limited = (f"limited to {spec.limit}",) if spec.limit is not None else ()
    return unfair + limited


def marks_of_seeds(seeds: Collection[Seed]) -> list[str]:
    """The mark of runs that share support sets or training seeds: fewer draws than runs."""
    shared = any(len(set(part)) < len(seeds) for part in zip(*seeds, strict=True))
    return ["crossed seeds"] if shared else []
