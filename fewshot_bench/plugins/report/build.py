"""The report as one HTML text: `body` reads predictions and draws for a table, `page` joins."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

from markupsafe import Markup

from fewshot_bench.analysis.audit.audit import audit
from fewshot_bench.analysis.citations import of_records
from fewshot_bench.analysis.comparison import Made
from fewshot_bench.analysis.table.build import with_baseline
from fewshot_bench.analysis.table.table import Table
from fewshot_bench.api.spec import ALL_SHOTS
from fewshot_bench.plugins.report import board, text
from fewshot_bench.plugins.report.drilldown import Budget, drills
from fewshot_bench.plugins.report.figures import costs, curves, ranks, reliability
from fewshot_bench.plugins.report.figures.svg import use_settings
from fewshot_bench.plugins.report.headline import Headline, headline
from fewshot_bench.plugins.report.page import embed_script, template
from fewshot_bench.plugins.report.pairs import compare
from fewshot_bench.plugins.report.predictions import Predictions
from fewshot_bench.plugins.report.provenance import failures, holes, provenance
from fewshot_bench.plugins.report.rows import method_row
from fewshot_bench.plugins.report.verdict import cost, subject, verdict
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.utils.text import joined, printable, printable_lines

if TYPE_CHECKING:
    import pandas as pd

MOST_COMMANDS, MOST_NOTES = 20, 60


def body(
    table: Table,
    data: pd.DataFrame,
    outcomes: Outcomes,
    *,
    title: str,
    budget: Budget,
    baseline: str | None,
) -> str:
    """Render all parts of the page on a table.

    data: the frame of records that the table was built from; outcomes: of their store. title: of
    the page. budget: example images. The same arguments give the same text. No record and no
    logits are changed.
    UsageError for a baseline that is not in the table.
    """
    if baseline:
        label = with_baseline(table, baseline).baseline
        table = dataclasses.replace(table, baseline=label)
    records = list(data["record"])
    chosen = headline(table)
    shown = [
        record
        for contestant in chosen.ranked
        for group in chosen.members
        for record in chosen.records_of(contestant, group).values()
    ]
    predictions = Predictions(outcomes, shown)
    pairs = compare(chosen, predictions.of)
    checked = audit(records, signature=table.signatures[""], data=data)
    marks, line = board.list_marks(table), printable(checked.signature)
    with use_settings():
        cost_figures, cost_sentences = costs.draw_all(chosen)
        figures = {
            "large": curves.draw_large(chosen),
            "panels": curves.draw_panels(chosen),
            "costs": cost_figures,
            "same_costs": cost_sentences,
            "ranks": ranks.draw(chosen),
            "reliability": reliability.draw_all(chosen, predictions),
        }
    grids = {
        "leaderboard": board.leaderboard(chosen, pairs),
        "by_dataset": board.by_dataset(chosen),
        "results": [board.results(chosen, group, n) for n, group in enumerate(chosen.shown_groups)],
        "against": board.against_best(chosen, pairs),
        "matrix": board.matrix(chosen, pairs),
        "calibration": board.calibration(chosen),
        "drills": drills(chosen, predictions, budget),
        "provenance": provenance(table, data, checked),
        "failures": failures(records),
        "holes": holes(table),
    }
    return template("block.html").render(
        figures | grids,
        table=table,
        pairs=pairs,
        marks=marks,
        line=line,
        subject=subject(chosen),
        more_shots=_more_shots(chosen),
        signature=table.signature(chosen.group.seeds),
        latex=board.write_latex(chosen),
        bibtex=printable_lines(of_records(records).text),
        verdict=verdict(chosen, pairs, records, str(predictions.store)),
        cost=cost(chosen, pairs),
        bars=board.bars(chosen),
        legend=[method_row(contestant, ()) for contestant in chosen.drawn],
        hidden=len(chosen.contestants) - len(chosen.drawn),
        images=budget.images,
        findings=[each.text for each in checked.findings if each.level == "finding"],
        problems=predictions.problems,
        most={"notes": MOST_NOTES, "commands": MOST_COMMANDS},
        card=board.card(chosen, title, marks, line),
    )


def page(made: Sequence[Made[str]], title: str) -> str:
    """The page with the bodies of all sets of conditions under this title."""
    files = resources.files("fewshot_bench.plugins.report.page")
    script = (files / "script.js").read_text("utf-8")
    bodies = [
        _prefix_ids(part.value or "", f"b{number}-" if number > 1 else "")
        for number, part in enumerate(made, 1)
    ]
    return template("report.html").render(
        title=title,
        blocks=made,
        bodies=list(map(Markup, bodies)),
        # Those that stand in several blocks count once.
        records=len({record.spec.key() for part in made for record in part.block.records}),
        **embed_script(script),
    )


_TAG = re.compile(r"<[a-z][^>]*>")
# An id, or references to ids.
_IDS = re.compile(
    r'(?<= )((?:id|for|data-filter|aria-labelledby)="|href="#|clip-path="url\(#)([^"]*)'
)


def _prefix_ids(html: str, prefix: str) -> str:
    """The markup with a prefix to all its ids, so that they are unique on a page of several.

    Text and values of attributes are escaped, so that neither holds a tag or ends a value.
    """

    def rename(ids: re.Match[str]) -> str:
        return ids[1] + " ".join(f"{prefix}{name}" for name in ids[2].split())

    return _TAG.sub(lambda tag: _IDS.sub(rename, tag[0]), html) if prefix else html


def _more_shots(chosen: Headline) -> str:
    """Larger numbers of shots than the headline's: `At 4 and 8 shots`."""
    larger = [shots for shots in chosen.group.shots if shots > chosen.shots]
    counted = [str(shots) for shots in larger if shots != ALL_SHOTS]
    parts = [f"at {joined(counted)} shots"] if counted else []
    parts += [text.at_shots(ALL_SHOTS)] if ALL_SHOTS in larger else []
    return joined(parts).capitalize()
