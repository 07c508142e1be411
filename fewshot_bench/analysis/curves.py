"""Curves of records: what fits logged by step, with the name of each record among the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.text import FEW, counted, limited

# Series that come first.
FIRST = ("loss", "rate")
COLUMNS = ("method", "dataset", "shots", "seed", "key", "series", "step", "value")


@dataclass(frozen=True)
class Curve:
    """One series of one record; label: of the record among those shown."""

    label: str
    record: Record
    steps: Sequence[int]
    values: Sequence[float]


# The curves of each series.
Curves = Mapping[str, Sequence[Curve]]


def collect_curves(records: Sequence[Record], series: Sequence[str] = ()) -> Curves:
    """The curves of records by series, all of them by default.

    UsageError if no record has curves, or none of those asked for.
    """
    with_any = [record for record in records if record.curves]
    if not with_any:
        raise UsageError(f"no curves to draw: {limited([*map(why_none, records)], FEW)}")
    every = dict.fromkeys(name for record in with_any for name in record.curves)
    names = order_series(every)
    for name in series:
        if name not in every:
            raise unknown("series", name, names, f"these records have {', '.join(names)}")
    labels = label_records(with_any)
    return {
        name: [
            Curve(label, record, record.curves[name]["steps"], record.curves[name]["values"])
            for label, record in zip(labels, with_any, strict=True)
            if name in record.curves
        ]
        for name in series or names
    }


def order_series(names: Iterable[str]) -> list[str]:
    """Names of series: the loss and the learning rate first, the others as they are."""
    return sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def why_none(record: Record) -> str:
    """The reason why a record has no curves."""
    name, steps = record.spec.describe(), record.footprint.get("steps")
    if record.status != "done":
        return f"{name} failed before it logged any"
    for incident in record.incidents:
        if incident.get("kind") == "curves":
            return f"{name}: {incident.get('text')}"
    if steps:
        text = f"took {counted(steps, 'step')}, and its record keeps none: run it again (--force)"
        return f"{name} {text}"
    return f"{name} has none: its fit takes no training steps and logs nothing (ctx.log)"


def label_records(records: Sequence[Record]) -> list[str]:
    """A name of each record that has what differs between them."""
    parts = [_parts(record.spec) for record in records]
    differing = [
        index for index in range(len(_parts(records[0].spec))) if len({p[index] for p in parts}) > 1
    ]
    # The method is always named, and of more than that what differs.
    labels = [", ".join(dict.fromkeys(part[index] for index in [0, *differing])) for part in parts]
    if len(set(labels)) == len(labels):
        return labels
    keys = (record.spec.key()[:8] for record in records)
    return [f"{label}, {key}" for label, key in zip(labels, keys, strict=True)]


def _parts(spec: RunSpec) -> tuple[str, ...]:
    name, _, rest = spec.describe().partition(" on ")
    seed = f"seed {spec.train_seed}"
    backbone = f"{spec.backbone} {spec.precision}"
    return name, spec.evaluated, f"{spec.shots}-shot", seed, backbone, rest and spec.protocol


def rows_of(curves: Curves) -> list[dict[str, Any]]:
    """Every point as a row, with the columns `COLUMNS`."""
    rows = []
    for series, shown in curves.items():
        for curve in shown:
            spec = curve.record.spec
            cell = (spec.label, spec.evaluated, str(spec.shots), spec.train_seed, spec.key())
            for point in zip(curve.steps, curve.values, strict=True):
                rows.append(dict(zip(COLUMNS, (*cell, series, *point), strict=True)))
    return rows
