"""The atlas: all numbers that papers and repositories printed, with their sources."""

from __future__ import annotations

from typing import Any

from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.reproduce.numbers import (
    AVERAGE,
    AVERAGE_OF_TEN,
    all_numbers,
    numbers,
    sources,
)
from fewshot_bench.plugins.reproduce.printed import agreement, settings_of
from fewshot_bench.plugins.reproduce.published import reproductions
from fewshot_bench.plugins.site.page import coded, write_page

# What the page shows first, and shows without scripts.
SHOTS = 16
FIRST = {"metric": "top1", "backbone": "ViT-B-16", "shots": str(SHOTS), "classes": "all"}
_METRICS = {
    "top1": "top-1 accuracy, %",
    "train_minutes": "training, minutes",
    "seconds_per_run": "one run, seconds",
    "trained_params": "trained parameters",
}
# Fields of numbers that have few values.
_CODED = (
    *("name", "backbone", "metric", "label", "dataset", "classes", "under", "note"),
    *("seeds", "shots", "sd"),
)
_OF_SOURCE = ("source", "table", "kind", "url", "place", "citation", "commit")


def write_atlas(title: str, results: str) -> str:
    """The page of all printed numbers. results: address of the page of results; empty without."""
    every = all_numbers()
    data = columns()
    offered = {
        "metric": _METRICS,
        "backbone": _count(number.backbone for number in every),
        "shots": {str(k): str(k) for k in sorted({n.shots for n in every if n.shots is not None})},
        "classes": _count(number.classes for number in every),
        "dataset": {name: name for name in data["sets"]},
        "source": {name: name for name in sorted({number.source for number in every})},
    }
    known = schedules()
    means = [n for n in numbers(shots=SHOTS, dataset=AVERAGE, classes="all") if not n.under]
    means.sort(key=lambda number: (number.backbone, -number.value))
    return write_page(
        "atlas.html",
        {**data, "first": {"dataset": "*", "source": "*", **FIRST}, "metrics": _METRICS},
        title=title,
        results=results,
        offered=offered,
        agreement=agreement(numbers()),
        means=[
            (n.name, n.source, n.backbone, n.printed, known.get(id(n), "not stated")) for n in means
        ],
        count=len(every),
        tables=len(sources()),
    )


def columns() -> dict[str, Any]:
    """All numbers in columns, and by their places the settings that several sources print."""
    every, places = all_numbers(), {}
    for place, number in enumerate(every):
        places[id(number)] = place
    keys, known = list(sources()), schedules()
    data: dict[str, Any] = {
        name: coded(getattr(number, name) for number in every) for name in _CODED
    }
    data["table"] = [keys.index((number.source, number.table)) for number in every]
    data["why"] = coded("; ".join(number.why_incomparable) for number in every)
    data["schedule"] = coded(known.get(id(number), "") for number in every)
    several = settings_of(numbers(), 2)
    return {
        "numbers": {**data, "value": [number.printed for number in every]},
        "tables": [[getattr(source, name) for name in _OF_SOURCE] for source in sources().values()],
        "settings": [[places[id(number)] for number in each.numbers] for each in several],
        "sets": _sets(),
        "eleven": list(registry().expand_datasets(["all"])),
    }


def schedules() -> dict[int, str]:
    """The stated training schedule behind numbers, by their identity."""
    found: dict[int, str] = {}
    for table in reproductions().values():
        for number in table.printed:
            setting = table.setting(number)
            if setting is not None and setting.schedule:
                found.setdefault(id(number), setting.schedule)
    return found


def _sets() -> list[str]:
    """Names of data sets and means: those of the eleven first."""
    usual = [AVERAGE, AVERAGE_OF_TEN, *registry().expand_datasets(["all"])]
    printed = sorted({number.dataset for number in all_numbers() if number.dataset})
    return [*(name for name in usual if name in printed), *(n for n in printed if n not in usual)]


def _count(values: Any) -> dict[str, str]:
    """The values, the most frequent first."""
    found = list(values)
    return {name: name for name in sorted(set(found), key=lambda name: -found.count(name))}
