"""The atlas: all numbers that papers and repositories printed, with their sources."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.report.page import embed_script, template
from fewshot_bench.plugins.reproduce.numbers import (
    AVERAGE,
    AVERAGE_OF_TEN,
    all_numbers,
    numbers,
    sources,
)
from fewshot_bench.plugins.reproduce.printed import agreement, settings_of
from fewshot_bench.plugins.reproduce.published import reproductions

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
    *("seeds", "shots", "sd", "kind"),
)
_OF_SOURCE = ("source", "table", "url", "place", "citation", "commit")


def write_atlas(title: str = "Few-shot adaptation of CLIP") -> str:
    """Return the HTML page of all printed numbers; it loads nothing."""
    every, data = all_numbers(), columns()
    offered = {
        "metric": _METRICS,
        "backbone": [name for name, _ in Counter(n.backbone for n in every).most_common()],
        "shots": sorted({n.shots for n in every if n.shots is not None}),
        "classes": [name for name, _ in Counter(n.classes for n in every).most_common()],
        "dataset": data["sets"],
        "source": sorted({number.source for number in every}),
    }
    means = [n for n in numbers(shots=SHOTS, dataset=AVERAGE, classes="all") if not n.under]
    means.sort(key=lambda number: (number.backbone, -number.value))
    first = {"dataset": "*", "source": "*", **FIRST}
    shared = files("fewshot_bench.plugins.report.page") / "script.js"
    own = files(__package__) / "page" / "site.js"
    return template("atlas.html", __package__).render(
        title=title,
        data=Markup(_json({**data, "first": first, "metrics": _METRICS})),
        **embed_script(shared.read_text("utf-8") + own.read_text("utf-8")),
        offered=offered,
        agreement=agreement(numbers()),
        means=[
            (n.name, n.source, n.backbone, n.printed, schedules().get(id(n), "not stated"))
            for n in means
        ],
        count=len(every),
        tables=len(sources()),
    )


def encode_column(values: Iterable[Hashable]) -> dict[str, Any]:
    """Encode a column as its distinct values (`of`) and the place of each row's value (`at`)."""
    places: dict[Hashable, int] = {}
    at = [places.setdefault(value, len(places)) for value in values]
    return {"of": list(places), "at": at}


def _json(values: Any) -> str:
    """Return JSON that may stand in a script: no text in it ends the element."""
    return json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")


def columns() -> dict[str, Any]:
    """All numbers in columns, and by their places the settings that several sources print."""
    every, tables = all_numbers(), sources()
    places = {id(number): place for place, number in enumerate(every)}
    keys = list(tables)
    usual = list(registry().expand_datasets(["all"]))
    printed = {number.dataset for number in every if number.dataset}
    # Means and the eleven stand first.
    sets = dict.fromkeys((AVERAGE, AVERAGE_OF_TEN, *usual, *sorted(printed)))
    return {
        "numbers": {
            **{name: encode_column(getattr(number, name) for number in every) for name in _CODED},
            "table": [keys.index((number.source, number.table)) for number in every],
            "why": encode_column("; ".join(number.why_incomparable) for number in every),
            "schedule": encode_column(schedules().get(id(number), "") for number in every),
            "value": [number.printed for number in every],
        },
        "tables": [{name: getattr(s, name) for name in _OF_SOURCE} for s in tables.values()],
        # The gap as `fsbench printed` rounds it, then its numbers.
        "settings": [
            [f"{each.gap:.2f}", *(places[id(n)] for n in each.numbers)]
            for each in settings_of(numbers(), 2)
        ],
        "sets": [name for name in sets if name in printed],
        "eleven": usual,
    }


@cache
def schedules() -> Mapping[int, str]:
    """The stated training schedule behind numbers, by their identity."""
    stated: dict[int, str] = {}
    for table in reproductions().values():
        for number in table.printed:
            setting = table.setting(number)
            if setting is not None and setting.schedule:
                stated.setdefault(id(number), setting.schedule)
    return stated
