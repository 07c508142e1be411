"""Finds the records of a store that repeat a published cell, or nearly do, with `Matches`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import PurePath

from fewshot_bench.analysis.conditions import code, loaded_weights, templates
from fewshot_bench.analysis.lending import LENT, list_proved
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS, KEPT_MODEL, RunSpec, canonical_json
from fewshot_bench.plugins.reproduce.cells import Cell, Wanted
from fewshot_bench.splits.draw import class_half
from fewshot_bench.splits.published import published_splits, verify_names

# No mean is taken over records that differ in one of these facts: its name, where it stands, and
# whether records that do not state it agree with all others.
_FACTS: Sequence[tuple[str, Callable[[Record], object], bool]] = (
    ("device", attrgetter("spec.device"), False),
    ("weights", attrgetter("spec.weights"), False),
    ("revision", attrgetter("spec.revision"), False),
    ("weights", loaded_weights, True),
    ("templates", templates, True),
    ("bytes of test images", lambda record: record.split.get("test_images") or "", True),
    ("code", code, False),
)
CROSSED = "another split seed than training seed"


class Matches:
    """Records of a store by the published cell that they belong to."""

    def __init__(self, records: Iterable[Record], wanted: Wanted, backbone: str) -> None:
        self.wanted = wanted
        self.backbone = backbone
        self._records: defaultdict[tuple[str, ...], list[Record]] = defaultdict(list)
        chosen = [record for record in records if not record.spec.target]
        self._proved = list_proved(chosen)
        for record in chosen:
            spec = record.spec
            key = spec.method, canonical_json(spec.options), spec.dataset, spec.classes
            self._records[key].append(record)

    def of(self, cell: Cell) -> list[Record]:
        """Records of the cell under its conditions, of the seeds that were asked for."""
        records = [record for record, unlike in self._near(cell) if not unlike]
        # Equal options are the same cell, published or named one by one: each seed once.
        planned = [record for record in records if record.spec.published == cell.setting.published]
        return planned or records

    def elsewhere(self, cells: Sequence[Cell]) -> Counter[str]:
        """Count records of these cells under other conditions, by the conditions that differ."""
        first: dict[str, str] = {}
        for cell in cells:
            for record, unlike in self._near(cell):
                if unlike:
                    first.setdefault(record.spec.key(), unlike)
        return Counter(first.values())

    def _near(self, cell: Cell) -> Iterator[tuple[Record, str]]:
        """Records of the cell, each with what makes it another one; empty if nothing does.

        If nothing is drawn for the cell, such as for zero-shot, those of any shots and seeds.
        """
        if cell.variant is None:
            return
        options, number = canonical_json(cell.variant.options), cell.number
        for record in self._records[cell.variant.method, options, number.dataset, number.classes]:
            spec = record.spec
            own = _describe_own_data(spec)
            is_crossed = not own and spec.split_seed != spec.train_seed
            is_asked = is_crossed or spec.train_seed in self.wanted.seeds
            if (is_asked and spec.shots == cell.run[1]) if cell.setting.random else not is_crossed:
                yield record, own or (CROSSED if is_crossed else self._compare(spec, cell))

    def _compare(self, spec: RunSpec, cell: Cell) -> str:
        """The conditions of a record that are not those of the cell: `precision bf16, val full`."""
        installed = cell.variant.version if cell.variant else ""
        # All papers have the default values of the other conditions.
        expected = {name: about.default for name, about in CONDITIONS.items()} | {
            **cell.number.conditions,
            "backbone": self.backbone,
            "precision": self.wanted.precision,
            "limit": self.wanted.limit,
            "protocol": cell.setting.protocol,
            "val": cell.val,
            "prompts": cell.prompts,
            "method_version": self.wanted.versions.get(cell.setting.method, installed),
        }
        ignored = {"device", "weights", "revision", "published"}
        if not cell.setting.random:
            # If nothing is drawn, the sampling does not matter.
            ignored |= {"protocol", "val"}
        # What needs less than the cell allows counts as in a table.
        proved = self._proved[spec.key()]
        ignored |= {n for n in proved if LENT[n].allows(expected[n], getattr(spec, n))}
        # Published rows do not state the digest of a file of texts: cupl.json@sha256:0123 is cupl.
        own = {name: getattr(spec, name) for name in expected}
        own["texts"] = PurePath(own["texts"].partition("@")[0]).stem
        return ", ".join(
            f"{name.replace('_', ' ')} {own[name]}"
            for name, value in expected.items()
            if name not in ignored and own[name] != value
        )


def _describe_own_data(spec: RunSpec) -> str:
    """The user's own data, or picks that no protocol drew; empty if there is neither."""
    if spec.data:
        return f"own data ({', '.join(sorted(spec.data))})"
    if spec.picks:
        return "the picks of a kept model" if spec.protocol == KEPT_MODEL else "imported picks"
    return ""


def mixture(records: Sequence[Record]) -> list[str]:
    """Facts in which these records differ, so that they have no common mean: `device` ..."""
    differing = [
        name
        for name, fact, optional in _FACTS
        if len(set(map(fact, records)) - ({""} if optional else set())) > 1
    ]
    return list(dict.fromkeys(differing))


def is_published_data(record: Record, counts: Mapping[str, int]) -> bool:
    """True when a record was evaluated on the published lists of its data set.

    Compares class names and the digest of the lists if they are published, else the number of test
    images; for a half of the classes, their number and that of the test images of a class.
    counts: images per role and `classes` of the published set, empty if not known.
    """
    spec, split = record.spec, record.split
    names = split.get("classnames")
    if names and not spec.target and verify_names(names, spec.dataset, spec.classes) is False:
        return False
    lists = published_splits().get(spec.dataset)
    kind, _, digest = spec.revision.rpartition(":")
    if lists and kind:
        return lists.lists_sha256.startswith(digest)
    images, published = record.metrics.get("n"), counts.get("test", 0)
    if spec.classes == "all":
        return bool(counts) and images == published
    if not isinstance(images, int):
        return False
    total, classes = counts.get("classes", 0), split.get("classes")
    if not (total and isinstance(classes, int)):
        return 0 < images < published
    half = len(class_half(total, spec.classes))
    return classes == half and abs(images / classes - published / total) < 1
