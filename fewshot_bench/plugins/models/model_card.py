"""Descriptions of an adapted model: its card (`card`) and its page (`show_learned`).

The card is README.md with the metadata that model hubs read; the page has small pictures of the
images, so that it is never put on a hub.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

from fewshot_bench.analysis.formats.tidy import write_csv
from fewshot_bench.plugins.models.budget import duration
from fewshot_bench.plugins.models.rejection import describe
from fewshot_bench.plugins.models.suspects import HEADS, find_mistakes, find_suspects
from fewshot_bench.plugins.report.page import Tile, draw_small, template
from fewshot_bench.store.kept_models import MACRO, REPORT, SUSPECTS, TOP1, ModelConfig
from fewshot_bench.utils.text import printable, shortened

if TYPE_CHECKING:
    from fewshot_bench.plugins.models.learned import Learned
    from fewshot_bench.plugins.models.material import Material

LIBRARY = "fewshot_bench"
# License names on model hubs, by prefix of the open_clip tag of the weights.
LICENSES = {"openai": "mit", "laion": "mit", "datacomp": "mit", "dfn": "apple-amlr"}
UNKNOWN = "other"
MEASURED = {TOP1: "Accuracy", MACRO: "Mean recall of the classes"}
MOST_PICTURES = 24


def license_of(backbone: str) -> str:
    """License of a backbone's weights; `other` if it is not known here."""
    if backbone == "tiny":
        return "apache-2.0"
    tag = backbone.partition("/")[2].partition("@")[0]
    return next((name for start, name in LICENSES.items() if tag.startswith(start)), UNKNOWN)


def card(config: ModelConfig, tried: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """README.md of a model. tried: rows of `Adapted.tried`; notes: on images and search."""
    text = template("card.md").render(
        metadata=yaml.safe_dump(_metadata(config), sort_keys=False, allow_unicode=True),
        name=_plain(config.data["dataset"]),
        config=config,
        stated=config.accuracy,
        measured=MEASURED,
        license=license_of(config.backbone),
        classes="\n".join(shortened(list(_table(_list_classes(config))), 200)),
        methods="\n".join(_table(list_methods(tried))),
        notes=map(_plain, notes),
        rejected=describe(config),
    )
    return f"{text}\n"


def list_methods(tried: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table of methods as texts: its heads, and a line for each row of `Adapted.tried`."""
    lines = [["method", "accuracy", "interval", "time", "folds", "note"]]
    for row in tried:
        stated = state(row["accuracy"], row["low"], row["high"])
        took = [duration(row["seconds"]), str(row["folds"])] if row["folds"] else ["–", "–"]
        note = ": ".join(filter(None, ("chosen" * row["chosen"], row["note"])))
        lines.append([row["method"], *stated, *took, note])
    return lines


def state(mean: float | None, low: float, high: float) -> list[str]:
    """A share and its interval in percent; dashes for None or NaN."""
    if mean is None or math.isnan(mean):
        return ["–", "–"]
    return [f"{100 * mean:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"]


def _list_classes(config: ModelConfig) -> list[list[str]]:
    """The table of classes as texts, with results if there are any."""
    lines = [["class", "images", "held out", "recall", "interval", "most often taken for"]]
    lines += [[name, f"{count:,}"] for name, count in config.data["images"].items()]
    for line, row in zip(lines[1:], config.classes, strict=False):
        stated = state(row["recall"], row["low"], row["high"])
        line += [f"{row['images']:,}", *stated, row["most_confused_with"] or "–"]
    return lines if config.classes else [line[:2] for line in lines]


def _table(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table in Markdown; the first is its head."""
    for cells in (lines[0], ["---"] * len(lines[0]), *lines[1:]):
        yield f"| {' | '.join(_plain(text).replace('|', '/') for text in cells)} |"


def _metadata(config: ModelConfig) -> dict[str, Any]:
    from fewshot_bench.backbones.loading import repository_of

    facts: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": f"{'zero-shot-' * (config.method == 'zero-shot')}image-classification",
        "tags": ["clip", "few-shot", config.method, LIBRARY],
    }
    if base := repository_of(config.backbone):
        facts["base_model"] = base
    if config.accuracy:
        value = round(100 * config.accuracy["mean"], 2)
        kind = "recall" if config.accuracy["metric"] == MACRO else "accuracy"
        metric = {"type": kind, "name": f"out-of-fold {kind}", "value": value}
        data = {"name": _plain(config.data["dataset"]), "type": "imagefolder"}
        result = {"task": {"type": "image-classification"}, "dataset": data, "metrics": [metric]}
        facts["metrics"] = [kind]
        facts["model-index"] = [{"name": config.method, "results": [result]}]
    return facts


def _plain(text: str) -> str:
    """An arbitrary name on one line, with Markdown and HTML markup escaped."""
    shown = printable(text)
    return "".join(f"\\{sign}" if sign in "<>[]`*_" else sign for sign in shown)


def show_learned(
    config: ModelConfig,
    learned: Learned | None,
    material: Material,
    methods: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> dict[str, bytes]:
    """The contents of REPORT, and of SUSPECTS if images were held out.

    learned: of the images of `material`; methods: rows of `Adapted.tried`; notes: on the search.
    """
    items = {item.id: item for item in material.items}
    draw = cache(lambda id: draw_small(material.dataset, items[id]))

    def show(rows: Sequence[Mapping[str, Any]]) -> tuple[int, list[Tile]]:
        tiles = []
        for row in rows[:MOST_PICTURES]:
            answer = f"{100 * row['probability']:.0f} % {row['suggested']}"
            lines = answer, f"labeled {row['label']}", row["image"]
            tiles.append(Tile(draw(row["image"]), lines))
        return len(rows), tiles

    suspects = find_suspects(learned) if learned else []
    page = template("learned.html").render(
        title=f"{config.data['dataset']}: {config.method} on {config.backbone}",
        config=config,
        measured=MEASURED,
        rejected=describe(config),
        listed=list_methods(methods),
        methods=methods,
        notes=[*material.looks.lines(), *notes],
        learned=learned,
        mistakes=show(find_mistakes(learned) if learned else []),
        suspects=show(suspects),
    )
    files = {REPORT: page.encode()}
    return files | ({SUSPECTS: write_csv(suspects, HEADS).encode()} if learned else {})
