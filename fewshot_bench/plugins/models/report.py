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
from fewshot_bench.plugins.page import Tile, draw_small, template
from fewshot_bench.store.kept_models import REPORT, SUSPECTS

if TYPE_CHECKING:
    from fewshot_bench.plugins.models.learned import Learned
    from fewshot_bench.plugins.models.material import Material
    from fewshot_bench.store.kept_models import ModelConfig

MOST_PICTURES = 24


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
            tiles.append(
                Tile(draw(row["image"]), (answer, f"labeled {row['label']}", row["image"]))
            )
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
