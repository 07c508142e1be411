"""Checks that a method learns, stores what it trained, and handles unusual tasks."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot_bench.api.method import Transferable
from fewshot_bench.api.method_card import NO_PROMPTS, card_of
from fewshot_bench.api.metrics import TOLERANCE, gap
from fewshot_bench.api.task import Vocabulary
from fewshot_bench.testing.bench import Bench
from fewshot_bench.testing.contract_checks import as_floats, require_close, require_rows
from fewshot_bench.testing.failure import CheckFailure, CheckSkipped, listed, require
from fewshot_bench.testing.observe import not_stored
from fewshot_bench.training.train_step import CaptureError, DriftError
from fewshot_bench.utils.errors import NotApplicableError
from fewshot_bench.utils.rng import isolate
from fewshot_bench.utils.step_kind import SOFT

ABOVE_CHANCE = 0.25
SLACK = 0.1
AGREEMENT = 0.8
# The toy's classes in another order.
PERMUTATION = (2, 0, 3, 1)


def check_trained_parameters_are_stored(bench: Bench) -> None:
    """Every parameter that an optimizer moved in `fit` is accounted for in `tensors`."""
    moved = bench.first.trained
    if not moved:
        raise CheckSkipped("no torch optimizer moved a parameter in fit")
    missing = not_stored(moved, bench.first.tensors())
    shapes = listed(tuple(parameter.shape) for parameter in missing)
    require(
        not missing,
        f"{len(missing)} of {len(moved)} trained parameters are not in tensors(): shapes {shapes}",
    )


def check_training_moves_parameters(bench: Bench) -> None:
    """A method that claims to train moves a parameter or declares some; one that doesn't, neither.

    Every parameter of an optimizer that needs a gradient has one at some step.
    The claim is the class variable `trains`; without it, any optimizer step counts as the claim.
    """
    seen, declared = bench.first.seen, bench.first.context.declared or 0
    claim: bool | None = getattr(type(bench.method), "trains", None)
    count = sum(parameter.numel() for parameter in seen.moved)
    if claim is False:
        require(count + declared == 0, f"trains = False, but {count + declared} values trained")
    elif claim or seen.steps:
        require(
            count + declared > 0,
            f"{seen.steps} optimizer steps moved no parameter, and ctx.declare_trained was not "
            "called",
        )
    shapes = listed(tuple(parameter.shape) for parameter in seen.idle)
    require(
        not seen.idle,
        f"{len(seen.idle)} parameters of an optimizer never get a gradient: shapes {shapes}; use "
        "each in the loss (one encoder may lack its own), or leave it out",
    )


def check_captured_steps_do_the_same(bench: Bench) -> None:
    """A step of `ctx.train_step` does the same when it is captured once and repeated.

    Skipped if there is no such step, or if none was captured, which is no fault: steps are eager.
    """
    if not bench.first.steps:
        raise CheckSkipped("no step of ctx.train_step")
    try:
        steps = bench.fit(step=SOFT).steps
    except CaptureError as error:
        kind = CheckFailure if isinstance(error.__cause__, DriftError) else CheckSkipped
        raise kind(error.reason) from None
    if not any(step.used == SOFT for step in steps):
        raise CheckSkipped(next((step.reason for step in steps if step.reason), "too few steps"))


def check_permuted_classes_permute_predictions(bench: Bench) -> None:
    """With the classes in another order, the same queries go to the same classes.

    Training-free methods must give the same logits; trained ones, whose random initialization may
    differ by class, must agree on at least 80 % of the queries.
    """
    original = as_floats(bench.first.logits)[:, list(PERMUTATION)]
    permuted = as_floats(bench.fit(classes=PERMUTATION).logits)
    complaint = "classes in another order get other logits"
    if not bench.first.seen.moved and not bench.first.context.declared:
        require_close(permuted, original, complaint)
    agreement = _share(permuted.argmax(dim=1) == original.argmax(dim=1))
    require(
        agreement >= AGREEMENT,
        f"with the classes in another order, only {agreement:.0%} of the queries get the same "
        f"class (at least {AGREEMENT:.0%} expected); is a label used as a position?",
    )


def check_learns_a_separable_task(bench: Bench) -> None:
    """On colored squares it is well above chance, and training makes it no worse.

    A method that trains is compared with itself, fitted with every optimizer step undone.
    """
    fit = bench.first
    accuracy = accuracy_of(fit.logits, fit.labels)
    chance = 1 / len(fit.setting.classes)
    require(
        accuracy >= chance + ABOVE_CHANCE,
        f"accuracy {accuracy:.0%} on colored squares, where chance is {chance:.0%}",
    )
    # No fit is needed where no start can be better.
    if accuracy < 1 - SLACK and bench.untrained is not None:
        start = accuracy_of(bench.untrained.logits, fit.labels)
        require(
            accuracy >= start - SLACK,
            f"accuracy {accuracy:.0%} on colored squares, and {start:.0%} without training",
        )


def accuracy_of(logits: Tensor, labels: Tensor) -> float:
    """The share of rows whose argmax is the label."""
    return _share(as_floats(logits).argmax(dim=1) == labels)


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())


def check_one_shot_is_enough(bench: Bench) -> None:
    """One image per class is enough to fit and predict."""
    require_rows(bench.fit(shots=1, validation=1))


def check_needs_no_validation(bench: Bench) -> None:
    """`task.val` may be None."""
    require_rows(bench.fit(validation=0))


def check_one_and_two_classes_work(bench: Bench) -> None:
    """Tasks of one class and of two classes are fitted and predicted like any other."""
    for classes in ((2,), (3, 0)):
        require_rows(bench.fit(shots=2, validation=1, classes=classes))


def check_texts_of_classes_move_the_logits(bench: Bench) -> None:
    """In a run with texts, texts of other classes give other logits, or it says why it has none.

    Skipped if the card says that no prompt is read, or does not say it, and with a reason in
    `cannot_take_texts`.
    """
    card = card_of(bench.method)
    if card is None or card.text in NO_PROMPTS:
        raise CheckSkipped("its card names no prompts as knowledge of classes")
    if reason := getattr(bench.method, "cannot_take_texts", ""):
        raise CheckSkipped(f"takes no texts: {reason}")
    logits = as_floats(bench.fit(texts=PERMUTATION).logits)
    expected = as_floats(bench.first.logits)
    moved = gap(logits.numpy(), expected.numpy(), expected.numpy())
    require(
        moved > TOLERANCE["fp32"],
        "with the texts of other classes its logits are as with prompts: start from "
        "backbone.class_features(task), or give the card text='none' or a reason in "
        "cannot_take_texts",
    )


def check_other_classes_are_answered_consistently(bench: Bench) -> None:
    """`for_classes` repeats the fitted logits for the fitted classes, and has a column per class.

    Also checks that the backbone is unchanged. Skipped if the classifier has no `for_classes`, or
    if a reason is given in `tied_to_classes` or by NotApplicableError.
    """
    fit = bench.first
    if not isinstance(fit.classifier, Transferable):
        raise CheckSkipped("the classifier has no for_classes")
    tied = str(getattr(bench.method, "tied_to_classes", ""))
    if tied:
        raise CheckSkipped(f"tied to its classes: {tied}")
    names, templates = fit.task.classnames, fit.task.templates
    try:
        with isolate(0), torch.no_grad():
            of_same = fit.classifier.for_classes(Vocabulary(names, templates))
            of_fewer = fit.classifier.for_classes(Vocabulary(names[1:3], templates))
            same, fewer = (fit.predict(classifier=each) for each in (of_same, of_fewer))
    except NotApplicableError as reason:
        raise CheckSkipped(f"tied to its classes: {reason}") from None
    complaint = "for_classes of the classes that were fitted on gives other logits"
    require_close(as_floats(same), as_floats(fit.logits), complaint)
    require(
        tuple(fewer.shape) == (len(fit.queries), 2) and bool(fewer.isfinite().all()),
        f"for_classes of two classes gives logits of shape {tuple(fewer.shape)}, expected "
        f"({len(fit.queries)}, 2) finite numbers",
    )
    require(
        fit.backbone.fingerprint() == fit.fingerprints[0],
        "for_classes left the backbone changed",
    )
