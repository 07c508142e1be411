"""The known hazards to a fair comparison, and what the records show for each."""

from __future__ import annotations

from collections.abc import Sequence

from fewshot_bench.analysis.audit.facts import labels_text
from fewshot_bench.analysis.audit.findings import Answer, Finding, some, spread
from fewshot_bench.analysis.record_columns import RecordColumns

# Number: (name, the text that holds unless a finding replaces it).
HAZARDS = {
    1: ("selection on test data", "{labels}"),
    2: ("options per data set", "one configuration per method over all data sets and shots"),
    3: ("validation data", "all methods were allowed the same: {val}"),
    4: ("templates", "all methods had the same prompts: {prompts}"),
    5: ("few-shot sampling", "all methods had the same images: protocol {protocol}"),
    6: ("seeds", "{seeds}"),
    7: (
        "checkpoint rule",
        "last checkpoint, unless a method chose on validation, which is counted",
    ),
    8: (
        "training budget",
        "{steps} steps, {images} images billed, tests too; overrides are named",
    ),
    9: ("augmentation", "views come from the harness; mirroring belongs to the data set"),
    10: (
        "prompt ensembles",
        "class features are means at unit length, raw ones where a method is published so",
    ),
    11: ("trained parameters", "observed at the optimizer: {trained}"),
    12: ("precision", "all cells in {precision}"),
    13: ("copied numbers", "{records} records, all computed by this harness"),
    14: ("versions of data sets", "no data set in two revisions"),
    15: ("tuning breadth", "configurations compared within a cell are counted: {tried}"),
}


def answers(columns: RecordColumns, findings: Sequence[Finding]) -> tuple[Answer, ...]:
    """The answer for every hazard, in order. columns: those built by `audit.audit`."""
    values = _text_values(columns)
    found = []
    for number_, (name, text) in HAZARDS.items():
        mine = [finding for finding in findings if finding.hazard == number_]
        grave = [finding.text for finding in mine if finding.level == "finding"]
        if grave:
            text = "; ".join(grave)
        else:
            text = "; ".join([text.format(**values), *(finding.text for finding in mine)])
        found.append(Answer(number_, name, text, bool(grave)))
    return tuple(found)


def _text_values(columns: RecordColumns) -> dict[str, str]:
    """Values for the placeholders in `HAZARDS`; braces in a value are not interpreted again."""
    # Cells without shots are not repeated over seeds.
    rows = columns.rows(("split_seed", "train_seed", "shots")).values
    seeds = {(split_seed, train_seed) for split_seed, train_seed, shots in rows if shots}
    steps, images, trained, tried = (
        spread(columns[name].values) or "unknown"
        for name in ("steps", "images billed", "trained", "tried")
    )
    return {
        "labels": labels_text(columns),
        "val": some(sorted(columns["val"].values)),
        "prompts": some(sorted(columns["prompts"].values)),
        "protocol": some(sorted(columns["protocol"].values)),
        "precision": some(sorted(columns["precision"].values)),
        "seeds": f"{len(seeds) or 'no'} seed{'s' if len(seeds) != 1 else ''}",
        "steps": steps,
        "images": images,
        "trained": trained,
        "records": f"{len(columns.records):,}",
        "tried": tried,
    }
