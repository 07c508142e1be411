"""The signature of records."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Any

from fewshot_bench.record import Record
from fewshot_bench.signature.boxes import Box, Point, boxes, hull, is_product
from fewshot_bench.signature.line import write
from fewshot_bench.signature.model import Choice, Matrix, Named, Pair, Signature
from fewshot_bench.spec import CLASSES, RunSpec, canonical_json

DIGITS = 6
# More parts than this are given as one product around the cells, with their number.
MOST_PARTS = 6
_Variant = tuple[str, str, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]


def signature_of(records: Sequence[Record]) -> str:
    """The line that stands under a table of these records; empty when there are none.

    It says which cells they are of, whatever their status, and under which conditions, so that
    `parse` and `commands` give the command that computes them. Digests are the first six
    hexadecimal digits: of a data set's revision (SHA-256 of its text), of the backbone's weights,
    and of all splits (`splits_digest`).
    """
    if not records:
        return ""
    splits = splits_digest(records)
    groups: defaultdict[Hashable, list[Record]] = defaultdict(list)
    for record in records:
        groups[_conditions(record)].append(record)
    matrices = [
        matrix for key in sorted(groups, key=repr) for matrix in _matrices(groups[key], splits)
    ]
    return write(Signature(tuple(matrices)))


def splits_digest(records: Iterable[Record]) -> str:
    """The first digits of the SHA-256 over the lines `evaluated shots split-seed digest`.

    Equal for two tables exactly when they are over the same images; empty where no split is known.
    """
    lines = {
        f"{r.spec.evaluated}\t{r.spec.shots}\t{r.spec.split_seed}\t{r.split['digest']}"
        for r in records
        if r.split.get("digest")
    }
    return _short("\n".join(sorted(lines))) if lines else ""


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def _conditions(record: Record) -> tuple[Hashable, ...]:
    spec = record.spec
    named = (spec.backbone, _weights(record))
    own = canonical_json(dict(spec.data))
    run = (spec.protocol, spec.val, spec.prompts, spec.precision, spec.device, spec.limit)
    return (*named, *run, own)


def _weights(record: Record) -> str:
    """Digits of the weights' digest: what the specification says, else what was loaded."""
    known = record.spec.weights or str(record.environment.get("weights_digest") or "")
    return known[:DIGITS] if set(known) <= set("0123456789abcdef") else _short(known)


def _matrices(records: Sequence[Record], splits: str) -> list[Matrix]:
    """Products of cells under one set of conditions."""
    known: dict[Hashable, _Variant] = {}
    points = {_point(record.spec, known) for record in records}
    found = boxes(points, _cost)
    if len(found) <= MOST_PARTS:
        return [_matrix(records[0], box, splits) for box in sorted(found, key=_order)]
    around = _matrix(records[0], hull(points), splits)
    return [dataclasses.replace(around, has=(len(points), around.count))]


def _cost(found: list[Box]) -> int:
    """Parts, those twice that transfer without the data set itself: no command is just that."""
    apart = [box for box in found if "all" not in box[2] and any(map(_is_target, box[2]))]
    return len(found) + len(apart)


def _is_target(asked: object) -> bool:
    return isinstance(asked, Named)


def _order(box: Box) -> str:
    return repr([sorted(map(repr, values)) for values in box])


def _point(spec: RunSpec, known: dict[Hashable, _Variant]) -> Point:
    dataset = Named(spec.dataset, _short(spec.revision) if spec.revision else "")
    # As text, for equal numbers of other types are other text: 1, 1.0 and True.
    key = (spec.method, spec.method_version, repr(spec.overrides), repr(spec.options))
    variant = known.get(key)
    if variant is None:
        variant = known[key] = _variant(spec)
    revision = _short(spec.target_revision) if spec.target_revision else ""
    asked: Hashable = Named(spec.target, revision) if spec.target else spec.classes
    return variant, dataset, asked, spec.shots, Pair(spec.split_seed, spec.train_seed)


def _variant(spec: RunSpec) -> _Variant:
    """Method, version, overrides, and all options; values as text."""
    overrides = {name: value_text(value) for name, value in spec.overrides.items()}
    options = {name: value_text(value) for name, value in spec.options.items()} | overrides
    parts = tuple(sorted(overrides.items())), tuple(sorted(options.items()))
    return (spec.method, spec.method_version, *parts)


def value_text(value: Any) -> str:
    """A hyper-parameter's value as `-o` reads it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _matrix(record: Record, box: Box, splits: str) -> Matrix:
    variants, datasets, asked, shots, seeds = box
    spec = record.spec
    data = spec.data
    holdout = data.get("holdout")
    names = data.get("classnames")
    targets = sorted(value for value in asked if _is_target(value))
    return Matrix(
        methods=tuple(_choices(variants)),
        backbone=Named(spec.backbone, _weights(record)),
        datasets=tuple(sorted(datasets)),
        shots=tuple(sorted(shots)),
        seeds=tuple(sorted(seeds)),
        val=spec.val,
        prompts=spec.prompts,
        precision=spec.precision,
        device=spec.device,
        protocol=spec.protocol,
        limit=spec.limit,
        classes=tuple(name for name in CLASSES if name in asked),
        targets=tuple(targets),
        holdout="" if holdout is None else str(holdout),
        templates=tuple(data.get("templates") or ()),
        classnames="" if names is None else _short(canonical_json(names)),
        splits=splits,
    )


def _choices(variants: Collection[Any]) -> list[Choice]:
    """The fewest choices for these variants: all of a method as one where they are a product."""
    groups: defaultdict[tuple[str, str], list[_Variant]] = defaultdict(list)
    for variant in variants:
        groups[variant[0], variant[1]].append(variant)
    found: list[Choice] = []
    for (method, version), members in sorted(groups.items()):
        names = sorted({name for member in members for name, _ in member[2]})
        rows = [tuple(dict(member[3]).get(name) for name in names) for member in members]
        whole = not any(value is None for row in rows for value in row)
        if whole and len(set(rows)) == len(rows) and is_product(rows):
            columns = [_sorted({str(row[i]) for row in rows}) for i in range(len(names))]
            options = tuple(zip(names, columns, strict=True))
            found.append(Choice(method, version, options))
        else:
            single = sorted(member[2] for member in members)
            found += [Choice(method, version, tuple((n, (v,)) for n, v in o)) for o in single]
    return found


def _sorted(values: Iterable[str]) -> tuple[str, ...]:
    """Numbers by size, then text."""

    def key(text: str) -> tuple[bool, float, str]:
        try:
            return False, float(text), text
        except ValueError:
            return True, 0.0, text

    return tuple(sorted(values, key=key))
