"""`report.html` of a model: what it learned from the images, and which of them it gets wrong.

`show_learned` is the entry point. The page holds small pictures of the images, so that it is never
put on a hub.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot_bench.plugins.models.model_card import MEASURED, list_methods
from fewshot_bench.plugins.models.suspects import find_suspects, write_suspects
from fewshot_bench.store.kept_models import REPORT, SUSPECTS

if TYPE_CHECKING:
    from fewshot_bench.plugins.models.learned import Learned
    from fewshot_bench.plugins.models.material import Material
    from fewshot_bench.plugins.page import Tile
    from fewshot_bench.store.kept_models import ModelConfig

MOST_PICTURES, MOST_PAIRS, MOST_CLASSES = 24, 12, 500
"""Maximum pictures of a section, maximum confusions, and maximum classes."""


def show_learned(
    config: ModelConfig,
    learned: Learned | None,
    material: Material,
    methods: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> dict[str, bytes]:
    """The contents of REPORT, and of SUSPECTS if images were held out.

    learned: of the images of `material`; methods: rows of `Adapted.tried`; notes: on images and
    search.
    """
    suspects = [] if learned is None else find_suspects(learned)
    page = _write(config, learned, suspects, material, methods, notes)
    files = {} if learned is None else {SUSPECTS: write_suspects(suspects).encode()}
    return {REPORT: page.encode(), **files}


def _write(
    config: ModelConfig,
    learned: Learned | None,
    suspects: Sequence[Mapping[str, Any]],
    material: Material,
    methods: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> str:
    from fewshot_bench.plugins.page import draw_small, template

    found = {item.id: item for item in material.items}
    draw = cache(lambda id: draw_small(material.dataset, found[id]))
    shown: dict[str, Any] = {}
    if learned is not None:
        rows = sorted(learned.classes(), key=lambda row: (row["recall"] is None, row["recall"]))
        mistakes = list(_list_mistakes(learned))
        bins = learned.calibration()
        answers = sum(each["images"] for each in bins)
        shown = {
            "classes": rows[:MOST_CLASSES],
            "confusions": learned.confusions()[:MOST_PAIRS],
            "bins": bins,
            "claimed": sum(each["probability"] * each["images"] for each in bins) / answers,
            "right": sum(each["right"] * each["images"] for each in bins) / answers,
            "largest": max(each["images"] for each in bins),
            "mistakes": _tiles(mistakes, draw),
            "mistaken": len(mistakes),
            "suspects": _tiles(suspects, draw),
            "suspected": len(suspects),
        }
    return template("learned.html").render(
        title=f"{config.data['dataset']}: {config.method} on {config.backbone}",
        config=config,
        stated=config.accuracy,
        measured=MEASURED[config.accuracy["metric"]].lower() if config.accuracy else "",
        images=sum(config.data["images"].values()),
        methods=list_methods(methods),
        chosen=[row["chosen"] for row in methods],
        notes=notes,
        learned=shown,
    )


def _list_mistakes(learned: Learned) -> Iterator[dict[str, Any]]:
    """Rows as of `find_suspects` of wrong answers, the most confident first; one of its copies."""
    shares = np.where(learned.held[:, None], learned.probabilities, -1.0)
    answers, seen = shares.argmax(axis=1), set()
    for index in np.argsort(-shares.max(axis=1), kind="stable").tolist():
        group, label, answer = learned.groups[index], learned.labels[index], answers[index]
        if learned.held[index] and answer != label and group not in seen:
            seen.add(group)
            yield {
                "image": learned.ids[index],
                "label": learned.classnames[label],
                "suggested": learned.classnames[answer],
                "probability": float(shares[index, answer]),
            }


def _tiles(rows: Sequence[Mapping[str, Any]], draw: Any) -> list[Tile]:
    from fewshot_bench.plugins.page import Tile

    return [
        Tile(
            draw(row["image"]),
            (
                f"{100 * row['probability']:.0f} % {row['suggested']}",
                f"labeled {row['label']}",
                row["image"],
            ),
        )
        for row in rows[:MOST_PICTURES]
    ]
