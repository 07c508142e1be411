"""The commands that would run the cells that do not exist."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewshot_bench.compare.mixing import data_digest
from fewshot_bench.compare.model import Group, Row, Seed, Table
from fewshot_bench.names import join_names


@dataclass(frozen=True, slots=True)
class _Block:
    """Missing cells of one data set as a product: what is evaluated, shots, seeds.

    `classes` are base or new where these are missing, `targets` those of missing transfers; both
    empty for the data set itself.
    """

    dataset: str
    shots: tuple[int, ...]
    seeds: tuple[Seed, ...]
    data: str
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


def commands(table: Table, store: str) -> list[str]:
    """`fsbench run` commands for exactly the cells that do not exist, and the fits they need."""
    known = {data_digest(cell.own_data): cell.own_data for cell in table.cells.values()}
    return [
        _command(row, datasets, block, known[block.data], store)
        for row in table.rows
        for block, datasets in _joined(_needed(_blocks(table, row)), known)
    ]


def _blocks(table: Table, row: Row) -> list[_Block]:
    """Missing cells of a row, one block per data set, seeds, shots and kind of evaluation."""
    holes: defaultdict[tuple[Group, tuple[Seed, ...], str], list[int]] = defaultdict(list)
    for cell in table.cells.values():
        if cell.row is row and cell.missing_seeds and cell.expected and not cell.group.derived:
            holes[cell.group, cell.missing_seeds, data_digest(cell.own_data)].append(cell.shots)
    blocks: dict[tuple[object, ...], _Block] = {}
    for (group, seeds, data), shots in holes.items():
        kind = "halves" if group.scope in ("base", "new") else group.scope
        key = (kind, group.dataset, tuple(shots), seeds, data)
        found = blocks.get(key) or _Block(group.dataset, tuple(shots), seeds, data)
        blocks[key] = _with_group(found, group)
    return list(blocks.values())


def _with_group(block: _Block, group: Group) -> _Block:
    classes = (group.scope,) if group.scope in ("base", "new") else ()
    targets = (group.target,) if group.scope == "transfer" else ()
    return replace(block, classes=(*block.classes, *classes), targets=(*block.targets, *targets))


def _needed(blocks: Sequence[_Block]) -> Iterator[_Block]:
    """All but those of a data set itself that a run with --transfer makes anyway."""
    transfers = [block for block in blocks if block.targets]
    for block in blocks:
        plain = not block.classes and not block.targets
        if not (plain and any(_covers(other, block) for other in transfers)):
            yield block


def _covers(other: _Block, block: _Block) -> bool:
    same = (other.dataset, other.data) == (block.dataset, block.data)
    return same and set(block.shots) <= set(other.shots) and set(block.seeds) <= set(other.seeds)


def _joined(
    blocks: Iterable[_Block], known: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[_Block, list[str]]]:
    """Blocks that differ in the data set alone as one, with its data sets."""
    found: defaultdict[tuple[object, ...], list[_Block]] = defaultdict(list)
    for block in blocks:
        # A run takes class names for one data set only.
        apart = block.dataset if "classnames" in known[block.data] else ""
        key = (block.shots, block.seeds, block.data, block.classes, block.targets, apart)
        found[key].append(block)
    for group in found.values():
        yield group[0], [block.dataset for block in group]


def _command(
    row: Row, datasets: Sequence[str], block: _Block, data: Mapping[str, Any], store: str
) -> str:
    spec = row.spec
    words = ["fsbench", "run", "--store", store, "--method", spec.method]
    for name in sorted(spec.overrides):
        words += ["-o", f"{name}={spec.overrides[name]}"]
    words += ["--dataset", join_names(datasets)]
    if block.classes:
        words += ["--classes", ",".join(block.classes)]
    if block.targets:
        words += ["--transfer", join_names(block.targets)]
    words += [*_own_data(data), "--shots", _join(block.shots), "--seeds", _join(block.seeds)]
    for name in ("backbone", "protocol", "val", "prompts", "precision", "device"):
        words += [f"--{name}", getattr(spec, name)]
    if spec.limit is not None:
        words += ["--limit", str(spec.limit)]
    return shlex.join(words)


def _own_data(data: Mapping[str, Any]) -> list[str]:
    """Options that say the same about a person's own data; FILE stands for the class names."""
    words = ["--classnames", "FILE"] if "classnames" in data else []
    for template in data.get("templates", ()):
        words += ["--templates", template]
    if "holdout" in data:
        words += ["--holdout", str(data["holdout"])]
    return words


def _join(values: Iterable[object]) -> str:
    return ",".join(map(str, values))
