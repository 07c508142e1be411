"""Finds the records of a store that repeat a published cell, or nearly do, with `Matches`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fewshot_bench.analysis.conditions import code, loaded_weights, templates
from fewshot_bench.api.image_facts import test_images
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS, KEPT_MODEL, RunSpec, canonical_json
from fewshot_bench.plugins.reproduce.cells import Cell, Wanted
from fewshot_bench.splits.draw import class_half
from fewshot_bench.splits.published import published_splits, verified_names

_SHOWN = {"method_version": "method version"}
# No mean is taken over records that differ in one of these; `mixture` names it.
_MIXED = ("device", "weights", "revision")
Place = tuple[str, str, str, str, int]
Places = Mapping[Place, Sequence[Record]]


class Matches:
    """Records of a store by the published cell that they belong to."""

    def __init__(self, records: Iterable[Record], wanted: Wanted, backbone: str) -> None:
        self.wanted = wanted
        self.backbone = backbone
        self._found: defaultdict[Place, list[Record]] = defaultdict(list)
        self._crossed: defaultdict[Place, list[Record]] = defaultdict(list)
        self._own: defaultdict[Place, list[Record]] = defaultdict(list)
        for record in records:
            spec = record.spec
            if spec.target:
                continue
            same = spec.split_seed == spec.train_seed
            kind = self._own if _own(spec) else self._found if same else self._crossed
            kind[_place(spec)].append(record)

    def of(self, cell: Cell) -> list[Record]:
        """Records of the cell under its conditions, of the seeds that were asked for."""
        found = [record for record in self._near(cell) if not self._differs(record.spec, cell)]
        # Equal options are the same cell, published or named one by one: each seed once.
        planned = [record for record in found if record.spec.published == cell.setting.published]
        return planned or found

    def elsewhere(self, cells: Sequence[Cell]) -> Counter[str]:
        """Count records of these cells under other conditions, by the conditions that differ."""
        found: Counter[str] = Counter()
        seen: set[str] = set()
        for cell in cells:
            for record in self._near(cell):
                differing = self._differs(record.spec, cell)
                if differing and record.spec.key() not in seen:
                    seen.add(record.spec.key())
                    found[", ".join(f"{name} {value}" for name, value in differing.items())] += 1
            for record in self._crossed_of(cell):
                if record.spec.key() not in seen:
                    seen.add(record.spec.key())
                    found["another split seed than training seed"] += 1
            for record in self._near(cell, self._own):
                if record.spec.key() not in seen:
                    seen.add(record.spec.key())
                    found[_own(record.spec)] += 1
        return found

    def _crossed_of(self, cell: Cell) -> list[Record]:
        """Records of the cell with another split seed than training seed, if seeds matter."""
        place = _place_of(cell)
        return self._crossed.get(place, []) if place and cell.setting.random else []

    def _near(self, cell: Cell, records: Places | None = None) -> list[Record]:
        """Records of the cell under any conditions; of any shots if it is zero-shot."""
        place, records = _place_of(cell), self._found if records is None else records
        if place is None:
            return []
        if not cell.setting.random:
            return [r for other, found in records.items() if other[:4] == place[:4] for r in found]
        return [r for r in records.get(place, ()) if r.spec.train_seed in self.wanted.seeds]

    def _version(self, cell: Cell) -> str:
        """The requested version of the method, else the installed one."""
        installed = cell.variant.version if cell.variant else ""
        return self.wanted.versions.get(cell.setting.method, installed)

    def _differs(self, spec: RunSpec, cell: Cell) -> Mapping[str, str]:
        expected: dict[str, Any] = {
            "backbone": self.backbone,
            "precision": self.wanted.precision,
            "limit": self.wanted.limit,
            "protocol": cell.setting.protocol,
            "val": cell.val,
            "prompts": cell.prompts,
            "method_version": self._version(cell),
        }
        # All papers have the default values of the other conditions.
        expected |= {
            name: about.default
            for name, about in CONDITIONS.items()
            if name not in expected and name not in (*_MIXED, "published")
        }
        if not cell.setting.random:
            # Nothing is drawn, so that the sampling does not matter.
            del expected["protocol"], expected["val"]
        return {
            _SHOWN.get(name, name): str(getattr(spec, name))
            for name, value in expected.items()
            if getattr(spec, name) != value
        }


def _place_of(cell: Cell) -> Place | None:
    """The place of a cell; None for a method that is not installed."""
    if cell.variant is None:
        return None
    options, number = canonical_json(cell.variant.options), cell.number
    return cell.variant.method, options, number.dataset, number.classes, cell.shots


def _place(spec: RunSpec) -> Place:
    return spec.method, canonical_json(spec.options), spec.dataset, spec.classes, spec.shots


def _own(spec: RunSpec) -> str:
    """The user's own data, or picks that no protocol drew; empty if there is neither."""
    if spec.data:
        return f"own data ({', '.join(sorted(spec.data))})"
    if spec.picks:
        return "the picks of a kept model" if spec.protocol == KEPT_MODEL else "imported picks"
    return ""


def mixture(records: Sequence[Record]) -> list[str]:
    """Conditions in which these records differ, so that they have no common mean: `device` ..."""
    found = [name for name in _MIXED if len({getattr(r.spec, name) for r in records}) > 1]
    loaded = set(map(loaded_weights, records)) - {""}
    found += ["weights"] if len(loaded) > 1 and "weights" not in found else []
    found += ["templates"] if len(set(map(templates, records)) - {""}) > 1 else []
    tested = {test_images(record.split) for record in records} - {""}
    found += ["bytes of test images"] if len(tested) > 1 else []
    return found + (["code"] if len({code(record) for record in records}) > 1 else [])


def is_published_data(record: Record, counts: Mapping[str, int]) -> bool:
    """True when a record was evaluated on the published lists of its data set.

    Compares class names and the digest of the lists if they are published, else the number of test
    images; for a half of the classes, their number and that of the test images of a class.
    counts: images per role and `classes` of the published set, empty if not known.
    """
    images = record.metrics.get("n")
    known = published_splits().get(record.spec.dataset)
    if _is_renamed(record):
        return False
    digest = record.spec.revision.rpartition(":")
    if known and digest[0]:
        return known.lists_sha256.startswith(digest[2])
    published = counts.get("test", 0)
    if record.spec.classes != "all":
        return isinstance(images, int) and _is_half(record, images, published, counts)
    return bool(counts) and images == published


def _is_half(record: Record, images: int, published: int, counts: Mapping[str, int]) -> bool:
    """True if a half has the published classes, and test images of a class to less than one."""
    total, classes = counts.get("classes", 0), record.split.get("classes")
    if not (total and isinstance(classes, int)):
        return 0 < images < published
    half = len(class_half(total, record.spec.classes))
    return classes == half and abs(images / classes - published / total) < 1


def _is_renamed(record: Record) -> bool:
    """True if the classes of a public set had other names; False where a record states none."""
    spec, names = record.spec, record.split.get("classnames")
    if not names or spec.target:
        return False
    return verified_names(names, spec.dataset, spec.classes) is False
