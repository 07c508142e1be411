"""Checks of the interface: hyper-parameters, name, classifier, logits, stored tensors."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewshot_bench.errors import FsbenchError
from fewshot_bench.method import hyperparameters, parse_value
from fewshot_bench.testing.bench import Bench, Fit
from fewshot_bench.testing.failure import CheckFailure, require


def check_hyperparameters_are_typed_fields(bench: Bench) -> None:
    """Hyper-parameters are typed fields of a frozen dataclass, each with a default."""
    kind = type(bench.method)
    frozen = getattr(getattr(kind, "__dataclass_params__", None), "frozen", False)
    require(frozen, f"{kind.__name__} is not decorated with @dataclass(frozen=True)")
    stray = sorted(_stray_attributes(kind))
    require(
        not stray,
        f"{kind.__name__}.{', '.join(stray)} is set on the class without being a field: annotate "
        "it (rate: float = hyper(...)), or mark a constant as ClassVar",
    )
    for parameter in hyperparameters(kind):
        where = f"{kind.__name__}.{parameter.name}"
        require(
            parameter.default is not dataclasses.MISSING,
            f"{where} has no default; `fsbench run` builds a method from its defaults",
        )
        require(
            _round_trips(kind, parameter),
            f"{where}: default {parameter.default!r} cannot be given as -o {parameter.name}=...; "
            "annotate it as int, float, str, bool, Literal[...] or one of them | None",
        )


def _stray_attributes(kind: type) -> set[str]:
    """Public plain values on the class that are neither fields nor ClassVars."""
    known = {"name", "trains", "tied_to_classes"} | {
        field.name for field in dataclasses.fields(kind)
    }
    for base in kind.__mro__:
        hints = vars(base).get("__annotations__", {})
        known |= {name for name, hint in hints.items() if "ClassVar" in str(hint)}
    plain = (int, float, str, bool, tuple, list, dict, type(None))
    return {
        name
        for base in kind.__mro__
        for name, value in vars(base).items()
        if not name.startswith("_") and name not in known and isinstance(value, plain)
    }


def _round_trips(kind: type, parameter: Any) -> bool:
    try:
        parsed = parse_value(kind.__name__, parameter, str(parameter.default))
    except FsbenchError:
        return False
    return bool(parsed == parameter.default)


def check_name_is_a_class_variable(bench: Bench) -> None:
    """`name` is a ClassVar[str] in lower case, as it is written on the command line."""
    kind = type(bench.method)
    name = getattr(kind, "name", None)
    require(
        isinstance(name, str) and re.fullmatch(r"[a-z0-9][a-z0-9._+-]*", name) is not None,
        f"{kind.__name__}.name is {name!r}, expected lower-case letters, digits and hyphens",
    )
    hint = typing.get_type_hints(kind, include_extras=True).get("name")
    require(
        hint in (None, ClassVar, ClassVar[str]),
        f"{kind.__name__}.name is annotated as a field; write name: ClassVar[str] = {name!r}",
    )


def check_fit_returns_a_classifier(bench: Bench) -> None:
    """`fit` returns an object with `logits(queries)` and `tensors()`, a mapping of tensors."""
    classifier = bench.first.classifier
    for part in ("logits", "tensors"):
        require(
            callable(getattr(classifier, part, None)),
            f"fit returned {type(classifier).__name__} without {part}()",
        )
    stored = classifier.tensors()
    require(
        isinstance(stored, Mapping) and all(isinstance(name, str) for name in stored),
        f"tensors() returned {type(stored).__name__}, expected a mapping of names to tensors",
    )
    other = {name: type(value).__name__ for name, value in stored.items() if not _is_tensor(value)}
    require(not other, f"tensors() holds what is not a tensor: {other}")


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


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


def check_logits_do_not_depend_on_the_batch(bench: Bench) -> None:
    """A query's logits are the same alone, in halves and in another order."""
    fit = bench.first
    count = len(fit.queries)
    whole = as_floats(fit.logits)
    half = count // 2
    backwards = list(range(count))[::-1]
    settings = {
        "when the queries come in reverse order": (backwards, fit.predict(backwards)),
        "in the first half": (list(range(half)), fit.predict(range(half))),
        "in the second half": (list(range(half, count)), fit.predict(range(half, count))),
        "alone": ([3], fit.predict([3])),
    }
    for when, (order, logits) in settings.items():
        require_close(as_floats(logits), whole[order], f"a query's logits differ {when}")


def as_floats(logits: Tensor) -> Tensor:
    """Logits as float64 on the CPU."""
    return logits.detach().double().cpu()


def require_close(found: Tensor, expected: Tensor, complaint: str) -> None:
    """CheckFailure unless two logit matrices agree to a thousandth of their spread."""
    require(
        found.shape == expected.shape,
        f"{complaint}: shape {tuple(found.shape)} instead of {tuple(expected.shape)}",
    )
    gap = float((found - expected).abs().max()) if found.numel() else 0.0
    allowed = 1e-3 * max(1.0, float(expected.std()))
    require(gap <= allowed, f"{complaint}: by up to {gap:.3g}, allowed {allowed:.3g}")


def check_tensors_are_detached_and_finite(bench: Bench) -> None:
    """What `tensors` returns needs no gradient and is finite."""
    stored = bench.first.classifier.tensors()
    attached = sorted(name for name, tensor in stored.items() if tensor.requires_grad)
    require(not attached, f"tensors() holds {attached} with requires_grad; detach() them")
    here = {name: t for name, t in stored.items() if t.device == bench.first.backbone.device}
    bad = sorted(name for name, tensor in here.items() if not bool(tensor.isfinite().all()))
    require(not bad, f"tensors() holds {bad} with values that are not finite")


def check_logits_come_from_the_stored_tensors(bench: Bench) -> None:
    """Zeroing what `tensors` returns changes the logits: it is what prediction uses."""
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
        finally:
            for tensor, copy in zip(tensors, kept, strict=True):
                tensor.copy_(copy)
    whole = as_floats(fit.logits)
    same = zeroed.shape == whole.shape and torch.allclose(zeroed, whole, atol=1e-6)
    require(not same, "the logits stay as they are when all of tensors() is zero")
