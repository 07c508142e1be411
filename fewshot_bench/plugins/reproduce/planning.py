"""The runs that a published table needs, as one plan."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from fewshot_bench.api.spec import RunSpec
from fewshot_bench.plugins.reproduce.cells import Cell, Wanted
from fewshot_bench.runner.request import Plan, Request, expand


def plan(cells: Sequence[Cell], wanted: Wanted, backbone: str, device: str, store: Path) -> Plan:
    """Every run that the cells need; data sets that are not there are its `problems`.

    Cells that share how images are drawn are expanded together, so that each data set is opened
    once for them, and what shares a support set stands together.
    """
    merged = Plan([], {}, {})
    groups: defaultdict[tuple[str, str, str, bool], list[Cell]] = defaultdict(list)
    for cell in cells:
        setting = cell.setting
        groups[setting.protocol, setting.val, cell.prompts, setting.random].append(cell)
    for group in groups.values():
        for found in _expanded(group, wanted, backbone, device, store, merged):
            merged.cells.append(found)
    merged.cells = list({cell.key(): cell for cell in merged.cells}.values())
    return merged


def _expanded(
    group: Sequence[Cell], wanted: Wanted, backbone: str, device: str, store: Path, merged: Plan
) -> list[RunSpec]:
    first = group[0]
    request = Request(
        methods=(first.variant.method,),
        datasets=tuple(dict.fromkeys(cell.number.dataset for cell in group)),
        shots=tuple(sorted({_shots(cell) for cell in group})),
        # Where nothing is drawn, one seed says everything.
        seeds=wanted.seeds if first.setting.random else wanted.seeds[:1],
        backbone=backbone,
        device=device,
        precision=wanted.precision,
        protocol=first.setting.protocol,
        val=first.setting.val,
        prompts=first.prompts,
        limit=wanted.limit,
        store=store,
    )
    expanded = expand(request)
    merged.datasets.update(expanded.datasets)
    merged.problems.update(expanded.problems)
    wanted_here: defaultdict[tuple[str, int], list[Cell]] = defaultdict(list)
    for cell in group:
        wanted_here[cell.number.dataset, _shots(cell)].append(cell)
    return [
        dataclasses.replace(
            spec,
            method=cell.variant.method,
            options=cell.variant.options,
            overrides=cell.variant.overrides,
            method_version=cell.variant.version,
        )
        for spec in expanded.cells
        for cell in wanted_here[spec.dataset, spec.shots]
    ]


def _shots(cell: Cell) -> int:
    """A run has a support set, also where the method does not look at it."""
    return cell.shots or 1
