"""The known hazards to a fair comparison, and what the records show for each.

What rests on a method's own code (`_OF_CODE`) is not shown by records of code that nobody of this
project has written: it runs with the user's rights, in the process that counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from operator import eq

from fewshot_bench.analysis.audit.facts import HAZARD as LABELS
from fewshot_bench.analysis.audit.facts import HELD, labels_text
from fewshot_bench.analysis.audit.findings import (
    Answer,
    Finding,
    cells_of,
    labels_of,
    some,
    spread,
)
from fewshot_bench.analysis.record_columns import RecordColumns
from fewshot_bench.api.record import NOT_OBSERVED, SEPARATE

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


TRAINED = 11
_OF_CODE = (1, 7, 8, 9, 10, 11, 15)
# Those that the conformance kit checks too.
_OF_KIT = (LABELS, TRAINED)


def answers(columns: RecordColumns, findings: Sequence[Finding]) -> tuple[Answer, ...]:
    """The answer for every hazard, in order. columns: those built by `audit.audit`."""
    values = _text_values(columns)
    found = []
    for number_, (name, text) in HAZARDS.items():
        mine = [finding for finding in findings if finding.hazard == number_]
        grave = [finding.text for finding in mine if finding.level == "finding"]
        observed = "; ".join([text.format(**values), *(finding.text for finding in mine)])
        unknown = "; ".join(_unknown(columns, number_))
        if grave:
            found.append(Answer(number_, name, "; ".join(grave), "open"))
        elif unknown:
            text = f"not shown: {unknown}. Observed: {observed}"
            found.append(Answer(number_, name, text, "not shown"))
        else:
            found.append(Answer(number_, name, observed, "ok"))
    return tuple(found)


def _unknown(columns: RecordColumns, hazard: int) -> Iterator[str]:
    """The reasons why finished records do not show the answer to a hazard."""
    if hazard in _OF_CODE:
        foreign = columns.having(lambda done, own: done and not own, "done", "own code")
        if foreign:
            yield f"third-party code runs with the user's rights: {labels_of(foreign)}"
    if hazard in _OF_KIT:
        bare = columns.having(lambda done, kit: done and not kit, "done", "kit")
        if bare:
            yield f"the conformance kit never checked the code of {labels_of(bare)}"
    if hazard == LABELS:
        mixed = columns.having(lambda done, held: done and held != SEPARATE, "done", HELD)
        if mixed:
            yield f"test labels may have been in the process: {cells_of(mixed)}"
    if hazard == TRAINED:
        unseen = columns.having(partial(eq, NOT_OBSERVED), "footprint.trained_source")
        if unseen:
            yield f"gradients that no torch optimizer used: {labels_of(unseen)}"


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
