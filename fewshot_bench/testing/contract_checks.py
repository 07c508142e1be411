"""Checks of the interface: hyper-parameters, name, classifier, logits, stored tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.api.keeping import reason_not_to_keep
from fewshot_bench.api.method_card import read_card
from fewshot_bench.api.method_rules import field_problems, fit_problems, name_problems
from fewshot_bench.api.metrics import TOLERANCE, are_probabilities, gap
from fewshot_bench.api.violations import VIOLATIONS
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import accounted
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner.verification import PART, Groups, Witness
from fewshot_bench.testing.bench import SEED, Bench, Fit, skip_unless_finite
from fewshot_bench.testing.failure import CheckFailure, CheckSkipped, listed, require
from fewshot_bench.testing.restoring import logits_elsewhere
from fewshot_bench.utils.rng import isolate


def _refuse(problems: Iterator[str]) -> None:
    """CheckFailure with all problems, if there are any."""
    reasons = list(problems)
    require(not reasons, listed(reasons, "; "))


def check_hyperparameters_are_typed_fields(bench: Bench) -> None:
    """Hyper-parameters are typed fields of a frozen dataclass, each with a default."""
    _refuse(field_problems(type(bench.method)))


def check_name_is_a_class_variable(bench: Bench) -> None:
    """`name` is a ClassVar[str] in lower case, as it is written on the command line."""
    _refuse(name_problems(type(bench.method)))


def check_fit_returns_a_classifier(bench: Bench) -> None:
    """`fit` returns an object with `logits(queries)` and `tensors()`, a mapping of tensors.

    One with `start()` in place of `logits`, if the card says `sees="stream"`.
    """
    _refuse(fit_problems(type(bench.method)))
    classifier = bench.first.classifier
    for part in (bench.first.answers, "tensors"):
        require(
            callable(getattr(classifier, part, None)),
            f"fit returned {type(classifier).__name__} without {part}()",
        )
    stored = classifier.tensors()
    require(
        isinstance(stored, Mapping) and all(isinstance(name, str) for name in stored),
        f"tensors() returned {type(stored).__name__}, expected a mapping of names to tensors",
    )
    other = [
        f"{name}: {type(value).__name__}"
        for name, value in stored.items()
        if not isinstance(value, Tensor)
    ]
    require(not other, f"tensors() holds what is not a tensor: {listed(other)}")


def check_logits_are_one_finite_row_per_query(bench: Bench) -> None:
    """`logits` returns one row of finite numbers per query, one column per class."""
    require_rows(bench.first)


def require_rows(fit: Fit) -> None:
    """CheckFailure unless the logits of a fit have the right shape and are finite."""
    logits, expected = fit.logits, (len(fit.queries), len(fit.setting.classes))
    if not isinstance(logits, Tensor):
        raise CheckFailure(f"logits() returned {type(logits).__name__}, expected a tensor")
    require(
        tuple(logits.shape) == expected,
        f"logits() returned shape {tuple(logits.shape)}, expected {expected}",
    )
    require(logits.is_floating_point(), f"logits() returned {logits.dtype}, expected floats")
    bad = int((~logits.isfinite().all(dim=1)).sum())
    require(bad == 0, f"{bad} of {expected[0]} rows of logits() hold values that are not finite")


def check_logits_are_no_probabilities(bench: Bench) -> None:
    """`logits` returns scores before the softmax, or logarithms of probabilities."""
    logits = bench.first.logits
    require(
        not are_probabilities(as_floats(logits).numpy()),
        "the rows of logits() are probabilities, of which the softmax is taken again for nll, "
        "brier and ece; return their logarithms",
    )


def check_answers_use_what_the_card_allows(bench: Bench) -> None:
    """Other queries and other views change an answer no further than the card's `sees` says.

    All queries are asked for again, as a run does with some of them: alone and in another order;
    batches in another order, after others, of one query, of one class and of equal ones; the
    beginning of a stream in other parts, with others behind it.
    """
    fit, count = bench.first, len(bench.first.queries)
    skip_unless_finite(fit)
    order = [(11 * place + 5) % count for place in range(count)]
    quarters = [order[at : at + count // 4] for at in range(0, count, count // 4)]
    groups = quarters if fit.sees == "batch" else [order]

    def ask(groups: Groups, anew: bool) -> np.ndarray:
        with isolate(SEED + anew):
            return as_floats(fit.answer(groups, PART)).numpy()

    meter, card = Meter(fit.backbone.device), read_card(bench.method)
    with accounted(FeatureCache(None), meter), isolate(SEED):
        rows = as_floats(fit.answer(groups, count)).numpy()
    witness = Witness(ask, rows[np.argsort(np.concatenate(groups))], order, "fp32", count)
    witness.ask(fit.sees, groups)
    witness.count_views(fit.queries, meter, Meter(fit.backbone.device), card.views_per_query)
    found = [f"{name} ({VIOLATIONS[name]})" for name in witness.facts["violations"]]
    require(not found, f"against its card (sees='{fit.sees}'): {listed(found, '; ')}")


def as_floats(logits: Tensor) -> Tensor:
    """Logits as float64 on the CPU."""
    return logits.detach().cpu().double()


def require_close(
    logits: Tensor, expected: Tensor, complaint: str, whole: Tensor | None = None
) -> None:
    """CheckFailure if logits are others than expected; whole: those of all queries, if more."""
    whole = expected if whole is None else whole
    require(
        logits.shape == expected.shape,
        f"{complaint}: shape {tuple(logits.shape)} instead of {tuple(expected.shape)}",
    )
    largest, allowed = gap(logits.numpy(), expected.numpy(), whole.numpy()), TOLERANCE["fp32"]
    require(
        largest <= allowed,
        f"{complaint}: by up to {largest:.3g} times their spread, allowed {allowed:.3g}",
    )


def check_tensors_are_detached_and_finite(bench: Bench) -> None:
    """Tensors of `tensors` need no gradient and are finite."""
    stored = bench.first.stored()
    attached = sorted(name for name, tensor in stored.items() if tensor.requires_grad)
    require(not attached, f"tensors() holds {listed(attached)} with requires_grad; detach() them")
    here = {name: t for name, t in stored.items() if t.device == bench.first.backbone.device}
    bad = sorted(name for name, tensor in here.items() if not bool(tensor.isfinite().all()))
    require(not bad, f"tensors() holds {listed(bad)} with values that are not finite")


def check_restored_from_its_tensors_it_answers_alike(bench: Bench) -> None:
    """Restored in another process from `tensors` alone it gives the same logits, bit for bit.

    A method that cannot be kept gives the reason in the class attribute `cannot_be_kept`.
    """
    reason = reason_not_to_keep(bench.method)
    if reason:
        raise CheckSkipped(f"cannot be kept: {reason}")
    fit = bench.first
    stored = fit.stored()
    skip_unless_finite(fit)
    if len(fit.tensors()) < len(stored) or not all(isinstance(name, str) for name in stored):
        raise CheckSkipped("needs named tensors on the backbone's device")
    restored = logits_elsewhere(fit, bench.method)
    logits = fit.logits.detach().cpu()
    require(
        restored.shape == logits.shape and restored.dtype == logits.dtype,
        f"the restored classifier gives {restored.dtype} {tuple(restored.shape)}, the fitted one "
        f"{logits.dtype} {tuple(logits.shape)}",
    )
    gap = float((restored.double() - logits.double()).abs().max()) if restored.numel() else 0.0
    require(
        torch.equal(restored, logits),
        f"logits of the restored classifier differ by up to {gap:.3g}: keep all that prediction "
        "needs in tensors(), as contiguous tensors, or compute it again in restore()",
    )


def check_logits_come_from_the_stored_tensors(bench: Bench) -> None:
    """Zeroing what `tensors` returns changes the logits: it is what prediction uses.

    An error counts as a change: a classifier that refuses zeros (as a number of views) reads them.
    """
    fit = bench.first
    tensors = fit.tensors()
    if not any(tensor.numel() for tensor in tensors):
        return
    with torch.inference_mode():
        kept = [tensor.clone() for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.zero_()
            zeroed = as_floats(fit.predict())
        except Exception:
            return
        finally:
            for tensor, copy in zip(tensors, kept, strict=True):
                tensor.copy_(copy)
    whole = as_floats(fit.logits)
    same = zeroed.shape == whole.shape and torch.allclose(zeroed, whole, atol=1e-6)
    require(not same, "the logits stay as they are when all of tensors() is zero")
