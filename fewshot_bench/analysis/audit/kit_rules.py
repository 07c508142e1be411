"""The hazards that rules of the conformance kit concern: broken rules are filed under them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

# By the name of the rule, a number in `hazards.HAZARDS`; other rules concern none of them.
HAZARD_OF = {
    "check_asks_only_for_what_is_handed_over": 1,
    "check_logits_do_not_depend_on_the_batch": 1,
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


def group_by_hazard(rules: Iterable[str]) -> list[tuple[int, list[str]]]:
    """Rules by the hazard that they concern, 0 for none."""
    filed: defaultdict[int, list[str]] = defaultdict(list)
    for rule in rules:
        filed[HAZARD_OF.get(rule, 0)].append(rule)
    return sorted(filed.items())
