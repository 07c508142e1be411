"""The known hazards to a fair comparison, and what the records show for each.

What rests on a method's own code (`_OF_CODE`) is not shown by records of code that nobody of this
project has written: it runs with the user's rights, in the process that counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from fewshot_bench.analysis.audit.findings import Answer, Finding, select, some, spread, words_of
from fewshot_bench.analysis.audit.stated import HELD
from fewshot_bench.analysis.frame import distinct
from fewshot_bench.api.record import NOT_OBSERVED, SEPARATE
from fewshot_bench.utils.text import counted

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
# The hazard that a rule of the conformance kit concerns; other rules concern none.
HAZARD_OF = {
    "check_asks_only_for_what_is_handed_over": 1,
    "check_answers_use_what_the_card_allows": 1,
    "check_hyperparameters_are_typed_fields": 2,
    "check_needs_no_validation": 3,
    "check_permuted_classes_permute_predictions": 5,
    "check_one_shot_is_enough": 5,
    "check_same_seed_gives_the_same_logits": 6,
    "check_fit_is_repeatable": 6,
    "check_draws_from_no_global_generator": 6,
    "check_restored_from_its_tensors_it_answers_alike": 7,
    "check_trained_parameters_are_stored": 11,
    "check_training_moves_parameters": 11,
    "check_tensors_are_detached_and_finite": 11,
    "check_logits_come_from_the_stored_tensors": 11,
    "check_fits_and_predicts_in_bf16": 12,
    "check_follows_the_device": 12,
}
_OF_CODE = (1, 7, 8, 9, 10, 11, 15)
# Hazards, what finished records do not show of them, the columns that tell, and a test of these.
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
        (6,),
        "the conformance kit never checked that the seed decides what {labels} draws",
        ("unchecked",),
        bool,
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


def group_by_hazard(rules: Iterable[str]) -> list[tuple[int, list[str]]]:
    """Rules of the conformance kit by the hazard that they concern, 0 for none."""
    groups: defaultdict[int, list[str]] = defaultdict(list)
    for rule in rules:
        groups[HAZARD_OF.get(rule, 0)].append(rule)
    return sorted(groups.items())


def answer_hazards(data: pd.DataFrame, findings: Sequence[Finding]) -> tuple[Answer, ...]:
    """The answer for every hazard, in order. data: of `load_stated`."""
    words = _words(data)
    unknown: defaultdict[int, list[str]] = defaultdict(list)
    for numbers, text, columns, test in _UNKNOWN:
        part = select(data, test, *columns)
        for number in numbers if len(part) else ():
            unknown[number].append(text.format(**words_of(part)))
    answers = []
    for number, (name, text) in HAZARDS.items():
        mine = [finding for finding in findings if finding.hazard == number]
        grave = [finding.text for finding in mine if finding.level == "finding"]
        observed = "; ".join([text.format(**words), *(finding.text for finding in mine)])
        if grave:
            answers.append(Answer(number, name, "; ".join(grave), "open"))
        elif unknown[number]:
            text = f"not shown: {'; '.join(unknown[number])}. Observed: {observed}"
            answers.append(Answer(number, name, text, "not shown"))
        else:
            answers.append(Answer(number, name, observed, "ok"))
    return tuple(answers)


def _labels_text(data: pd.DataFrame) -> str:
    """Sentence on how many cells ran fit and logits in a process without test labels."""
    done = len(select(data, bool, "done"))
    apart = len(select(data, lambda is_done, held: is_done and held == SEPARATE, "done", HELD))
    cells = counted(done, "cell")
    if not done:
        return "no result"
    if not apart:
        return f"whether the process of fit and logits held test labels is not told: {cells}"
    some_apart = f"{apart:,} of {cells}; the others do not say"
    which = cells if apart == done else some_apart
    return f"no test labels handed over to the process of fit and logits: {which}"


def _words(data: pd.DataFrame) -> dict[str, str]:
    """Words for the placeholders in `HAZARDS`; braces in a value are not interpreted again."""
    # Cells without shots are not repeated over seeds.
    rows = distinct(data, "split_seed", "train_seed", "shots")
    seeds = {(split_seed, train_seed) for split_seed, train_seed, shots in rows if shots}
    words = {
        name: some(sorted(value for (value,) in distinct(data, name)))
        for name in ("val", "prompts", "protocol", "precision")
    }
    for name in ("steps", "images billed", "trained", "tried"):
        numbers = spread(value for (value,) in distinct(data, name))
        words[name.split()[0]] = numbers or "unknown"
    count = f"{len(seeds) or 'no'} seed{'s' if len(seeds) != 1 else ''}"
    return words | {"labels": _labels_text(data), "seeds": count, "records": f"{len(data):,}"}
