"""`report.html` of a model: what it learned from the images, and which of them it gets wrong.

The page holds small pictures of the images, so that it is never put on a hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.formats.tidy import write_csv
from fewshot_bench.plugins.models.model_card import MEASURED, list_methods
from fewshot_bench.plugins.models.rejection import describe
from fewshot_bench.plugins.models.suspects import HEADS, find_mistakes, find_suspects
from fewshot_bench.store.kept_models import REPORT, SUSPECTS

if TYPE_CHECKING:
    from fewshot_bench.plugins.models.learned import Learned
    from fewshot_bench.plugins.models.material import Material
    from fewshot_bench.store.kept_models import ModelConfig

MOST_PICTURES, MOST_PAIRS, MOST_CLASSES = 24, 12, 500


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
    from fewshot_bench.plugins.page import Tile, draw_small, template

    found = {item.id: item for item in material.items}
    draw = cache(lambda id: draw_small(material.dataset, found[id]))

    def show(row: Mapping[str, Any]) -> Tile:
        answer = f"{100 * row['probability']:.0f} % {row['suggested']}"
        return Tile(draw(row["image"]), (answer, f"labeled {row['label']}", row["image"]))

    files, shown = {}, {}
    if learned is not None:
        mistakes, suspects = find_mistakes(learned), find_suspects(learned)
        files[SUSPECTS] = write_csv(suspects, HEADS).encode()
        rows = sorted(learned.classes(), key=lambda row: (row["recall"] is None, row["recall"]))
        shown = {
            "classes": rows[:MOST_CLASSES],
            "confusions": learned.confusions()[:MOST_PAIRS],
            "bins": learned.calibration(),
            "mistakes": (len(mistakes), list(map(show, mistakes[:MOST_PICTURES]))),
            "suspects": (len(suspects), list(map(show, suspects[:MOST_PICTURES]))),
        }
    page = template("learned.html").render(
        title=f"{config.data['dataset']}: {config.method} on {config.backbone}",
        config=config,
        stated=config.accuracy,
        measured=MEASURED[config.accuracy["metric"]].lower() if config.accuracy else "",
        images=sum(config.data["images"].values()),
        rejected=describe(config),
        methods=list_methods(methods),
        chosen=[row["chosen"] for row in methods],
        notes=[*material.looks.lines(), *notes],
        learned=shown,
    )
    return files | {REPORT: page.encode()}
