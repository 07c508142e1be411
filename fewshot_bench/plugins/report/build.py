"""The report as one HTML text: `body` reads predictions and draws for a table, `page` joins."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.audit.audit import audit
from fewshot_bench.analysis.citations import of_records
from fewshot_bench.analysis.formats.style import variables
from fewshot_bench.analysis.record_columns import RecordColumns
from fewshot_bench.analysis.table.build import with_baseline
from fewshot_bench.analysis.table.notes import stated_notes, toy_notes
from fewshot_bench.analysis.table.table import Table
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import ALL_SHOTS
from fewshot_bench.plugins.report import board, comparisons, text
from fewshot_bench.plugins.report.drilldown import drills
from fewshot_bench.plugins.report.figures import costs, curves, ranks, reliability
from fewshot_bench.plugins.report.figures.svg import drawing
from fewshot_bench.plugins.report.headline import Headline, headline
from fewshot_bench.plugins.report.pairs import compared
from fewshot_bench.plugins.report.predictions import Predictions
from fewshot_bench.plugins.report.provenance import failures, holes, provenance
from fewshot_bench.plugins.report.share import card, latex_of
from fewshot_bench.plugins.report.thumbnails import Budget
from fewshot_bench.plugins.report.verdict import cost, subject, verdict
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.utils.text import joined, printable, printable_lines

if TYPE_CHECKING:
    from jinja2 import Template

    from fewshot_bench.analysis.blocks import Made

MOST_COMMANDS, MOST_NOTES, MOST_NAMES = 20, 60, 5
_PAGE = "fewshot_bench.plugins.report.page"


def body(
    table: Table,
    facts: RecordColumns,
    outcomes: Outcomes,
    *,
    title: str,
    budget: Budget,
    baseline: str | None,
) -> str:
    """Render all parts of the page on a table.

    facts: `columns_of` the records that the table was built from; outcomes: of their store. title:
    of the page. budget: example images. The same arguments give the same text. No record and no
    logits are changed.
    UsageError for a baseline that is not in the table.
    """
    if baseline:
        label = with_baseline(table, baseline).baseline
        table = dataclasses.replace(table, baseline=label)
    chosen = headline(table, facts)
    predictions = Predictions(outcomes, _needed(chosen))
    context = _context(chosen, facts, predictions, budget)
    shown = card(chosen, title, context["marks"], context["line"])
    return _template("block.html").render(context, card=shown)


def page(made: Sequence[Made[str]], title: str) -> str:
    """The page with the bodies of all sets of conditions under this title."""
    from markupsafe import Markup

    script = _own("script.js")
    # Only the script with this digest may run, whatever else got into the page.
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template("report.html").render(
        title=text.name(title),
        blocks=[
            {
                "title": text.message(one.block.title),
                "refusal": text.message(one.refusal),
                "html": Markup(_with_own_ids(one.value or "", f"b{number}-" if number > 1 else "")),
            }
            for number, one in enumerate(made, 1)
        ],
        records=sum(len(one.block.records) for one in made),
        script=Markup(script),
        script_digest=allowed,
        style=Markup(_own("style.css")),
        light=Markup(variables(dark=False)),
        dark=Markup(variables(dark=True)),
    )


_TAG = re.compile(r"<[a-z][^>]*>")
# An id, or references to ids.
_IDS = re.compile(
    r'(?<= )((?:id|for|data-filter|aria-labelledby)="|href="#|clip-path="url\(#)([^"]*)'
)


def _with_own_ids(html: str, prefix: str) -> str:
    """The markup with a prefix to all its ids, so that they are unique on a page of several.

    Text and values of attributes are escaped, so that neither holds a tag or ends a value.
    """

    def renamed(found: re.Match[str]) -> str:
        return found[1] + " ".join(f"{prefix}{name}" for name in found[2].split())

    return _TAG.sub(lambda tag: _IDS.sub(renamed, tag[0]), html) if prefix else html


def _needed(chosen: Headline) -> list[Record]:
    """The finished records behind the headline."""
    return [
        record
        for contestant in chosen.ranked
        for group in chosen.members
        for record in chosen.records_of(contestant, group).values()
    ]


def _context(
    chosen: Headline, facts: RecordColumns, predictions: Predictions, budget: Budget
) -> dict[str, Any]:
    table = chosen.table
    pairs = compared(chosen, predictions)
    found = audit(facts.records, signature=table.signatures[""], columns=facts)
    with drawing():
        cost_pictures, alike = costs.draw_all(chosen)
        pictures = {
            "large": curves.draw_large(chosen),
            "panels": curves.draw_panels(chosen),
            "costs": cost_pictures,
            "same_costs": alike,
            "ranks": ranks.draw(chosen),
            "reliability": reliability.draw_all(chosen, predictions),
        }
    return {
        "subject": subject(chosen),
        "more_shots": _more_shots(chosen),
        "metric": table.main.title,
        "table": table,
        "signature": text.message(table.signature(chosen.group.seeds)),
        "line": printable(found.signature),
        "latex": latex_of(chosen),
        "bibtex": printable_lines(of_records(facts.records).text),
        "marks": _marks(table),
        "verdict": verdict(chosen, pairs, facts, str(predictions.store)),
        "cost": cost(chosen, pairs),
        "pairs": pairs,
        "leaderboard": board.leaderboard(chosen, pairs),
        "bars": board.bars(chosen),
        "legend": board.legend(chosen),
        "hidden": len(chosen.contestants) - len(chosen.drawn),
        "by_dataset": board.by_dataset(chosen),
        "results": [board.results(chosen, group, n) for n, group in enumerate(chosen.shown_groups)],
        "against": comparisons.against_best(chosen, pairs),
        "matrix": comparisons.matrix(chosen, pairs),
        "calibration": board.calibration(chosen),
        "drills": drills(chosen, predictions, budget),
        "images": budget.images,
        "provenance": provenance(table, facts, found),
        "findings": [text.message(each.text) for each in found.findings if each.level == "finding"],
        "failures": failures(facts.records),
        "holes": holes(table),
        "unread": [text.message(problem) for problem in predictions.problems[:MOST_NOTES]],
        "unread_count": len(predictions.problems),
        "notes": [text.message(note) for note in table.notes[:MOST_NOTES]],
        "commands": [printable(command) for command in table.commands[:MOST_COMMANDS]],
        "more_commands": max(0, len(table.commands) - MOST_COMMANDS),
        **pictures,
    }


def _more_shots(chosen: Headline) -> str:
    """Larger numbers of shots than the headline's: `At 4 and 8 shots`."""
    larger = [shots for shots in chosen.group.shots if shots > chosen.shots]
    counted = [str(shots) for shots in larger if shots != ALL_SHOTS]
    parts = [f"at {joined(counted)} shots"] if counted else []
    parts += [text.at_shots(ALL_SHOTS)] if ALL_SHOTS in larger else []
    return joined(parts).capitalize()


def _marks(table: Table) -> list[str]:
    """Marks that qualify all numbers: unfair validation, limited runs."""
    unfair = [text.name(row.label) for row in table.rows if row.spec.val == "full"]
    limits = sorted({row.spec.limit for row in table.rows if row.spec.limit is not None})
    found = [f"{note[0].upper()}{note[1:]}." for note in toy_notes(row.spec for row in table.rows)]
    found += [
        f"Limited to {limit} test images per data set: these are not the data sets' accuracies."
        for limit in limits
    ]
    if unfair:
        names = joined(unfair[:MOST_NAMES])
        more = f" and {len(unfair) - MOST_NAMES} more" if len(unfair) > MOST_NAMES else ""
        found.append(
            f"Unfair validation: {names}{more} had the full validation set, which has many "
            "more labels than the shots."
        )
    stated = stated_notes((row.label, row.stated) for row in table.rows)
    found += [f"{note[0].upper()}{text.message(note[1:])}." for note in stated]
    return found


@functools.cache
def _template(name: str) -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fewshot_bench.plugins.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _own(name: str) -> str:
    return (resources.files(_PAGE) / name).read_text(encoding="utf-8")
