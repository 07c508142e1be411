"""The known hazards to a fair comparison, and what the records show for each.

What rests on a method's own code (`_OF_CODE`) is not shown by records of code that nobody of this
project has written: it runs with the user's rights, in the process that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from fewshot_bench.analysis.audit.findings import (
    Answer,
    Finding,
    cells_of,
    labels_of,
    select,
    some,
    spread,
)
from fewshot_bench.analysis.audit.stated import HELD
from fewshot_bench.analysis.frame import distinct
from fewshot_bench.api.record import NOT_OBSERVED, SEPARATE

if TYPE_CHECKING:
    import pandas as pd

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
_OF_CODE = (1, 7, 8, 9, 10, 11, 15)
# Hazards, what records do not show of them, the columns that tell, and a test of these.
_UNKNOWN: Sequence[tuple[tuple[int, ...], str, tuple[str, ...], Callable[..., object]]] = (
    (
        _OF_CODE,
        "third-party code runs with the user's rights: {labels}",
        ("done", "own code"),
        lambda done, own: done and not own,
    ),
    (
        (1, 11),
        "the conformance kit never checked the code of {labels}",
        ("done", "kit"),
        lambda done, kit: done and not kit,
    ),
    (
        (1,),
        "test labels may have been in the process: {cells}",
        ("done", HELD),
        lambda done, held: done and held != SEPARATE,
    ),
    (
        (11,),
        "gradients that no torch optimizer used: {labels}",
        ("footprint.trained_source",),
        lambda source: source == NOT_OBSERVED,
    ),
)


def answer_hazards(data: pd.DataFrame, findings: Sequence[Finding]) -> tuple[Answer, ...]:
    """The answer for every hazard, in order. data: of `load_stated`."""
    words = _words(data)
    reasons = list(_reasons(data))
    answers = []
    for number, (name, text) in HAZARDS.items():
        mine = [finding for finding in findings if finding.hazard == number]
        grave = [finding.text for finding in mine if finding.level == "finding"]
        observed = "; ".join([text.format(**words), *(finding.text for finding in mine)])
        unknown = "; ".join(reason for numbers, reason in reasons if number in numbers)
        if grave:
            answers.append(Answer(number, name, "; ".join(grave), "open"))
        elif unknown:
            text = f"not shown: {unknown}. Observed: {observed}"
            answers.append(Answer(number, name, text, "not shown"))
        else:
            answers.append(Answer(number, name, observed, "ok"))
    return tuple(answers)


def _reasons(data: pd.DataFrame) -> Iterator[tuple[tuple[int, ...], str]]:
    """The reasons why finished records do not show the answer to some hazards."""
    for numbers, text, columns, test in _UNKNOWN:
        part = select(data, test, *columns)
        if len(part):
            yield numbers, text.format(labels=labels_of(part), cells=cells_of(part))


def _labels_text(data: pd.DataFrame) -> str:
    """Sentence on how many cells ran fit and logits in a process without test labels."""
    done = select(data, bool, "done")
    apart = len(select(data, lambda is_done, held: is_done and held == SEPARATE, "done", HELD))
    if not len(done):
        return "no result"
    if not apart:
        return (
            f"whether the process of fit and logits held test labels is not told: {cells_of(done)}"
        )
    said = "no test labels in the process of fit and logits: "
    if apart == len(done):
        return f"{said}{cells_of(done)}"
    return f"{said}{apart} of {cells_of(done)}; the others do not say"


def _words(data: pd.DataFrame) -> dict[str, str]:
    """Words for the placeholders in `HAZARDS`; braces in a value are not interpreted again."""
    # Cells without shots are not repeated over seeds.
    rows = distinct(data, "split_seed", "train_seed", "shots")
    seeds = {(split_seed, train_seed) for split_seed, train_seed, shots in rows if shots}
    numbers = {"steps": "steps", "images": "images billed", "trained": "trained", "tried": "tried"}
    return {
        "labels": _labels_text(data),
        **{
            name: some(sorted(value for (value,) in distinct(data, name)))
            for name in ("val", "prompts", "protocol", "precision")
        },
        **{
            name: spread(value for (value,) in distinct(data, column)) or "unknown"
            for name, column in numbers.items()
        },
        "seeds": f"{len(seeds) or 'no'} seed{'s' if len(seeds) != 1 else ''}",
        "records": f"{len(data):,}",
    }
