"""Kept classifiers: `restore` rebuilds one from its tensors, in another process or years later.

For a method without its own `restore`, `rebuilt` fills the fields of the classifier's dataclass by
name. Only tensors and plain values are kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pkgutil
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.method import Classifier, configuration
from fewshot_bench.api.method_card import IN_COMPANY, read_card
from fewshot_bench.api.method_code import FILE_MODULE
from fewshot_bench.utils.devices import place
from fewshot_bench.utils.errors import ContractError, NotApplicableError

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_bench.api.backbone import Backbone
    from fewshot_bench.api.task import Vocabulary

# The package whose classifiers any method may return, without stating so.
TRAINING = "fewshot_bench.training"
# Fields filled from the vocabulary and backbone, unless tensors or hyper-parameters have the name.
GIVEN: Mapping[str, Callable[[Vocabulary, Backbone], Any]] = {
    "backbone": lambda vocabulary, backbone: backbone,
    "vocabulary": lambda vocabulary, backbone: vocabulary,
    "class_features": lambda vocabulary, backbone: backbone.class_features(vocabulary),
    "logit_scale": lambda vocabulary, backbone: backbone.logit_scale,
    "scale": lambda vocabulary, backbone: backbone.logit_scale,
}


def reason_not_to_keep(method: object) -> str:
    """The reason why a method's classifiers cannot be kept; empty if they can."""
    card = read_card(method)
    if card.sees in IN_COMPANY:
        return f"its answers depend on {card.seen}"
    return str(getattr(method, "cannot_be_kept", "") or "")


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the bytes of a safetensors file; ContractError for values that are not finite."""
    from safetensors.torch import save

    plain = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ContractError(f"tensor {name} has values that are not finite; it is not kept")
        plain[name] = tensor.detach().cpu().contiguous().clone()
    content: bytes = save(plain)
    return content


def name_of_class(classifier: object) -> str:
    """`module:Class`, from which `class_named` resolves the class of a classifier."""
    return f"{type(classifier).__module__}:{type(classifier).__qualname__}"


def class_named(name: str, method: object) -> type | None:
    """The class of a classifier; None if neither the method's own package nor `TRAINING` has it.

    Nothing is imported from other packages, whatever the name. A class of a file that fsbench
    imported is looked up in the module of the method, which a user may import by another name.
    """
    place, _, qualname = name.partition(":")
    own = type(method).__module__
    if place.startswith(FILE_MODULE):
        name, place = f"{own}:{qualname}", own
    shared = f"{place}.".startswith(f"{TRAINING}.")
    if not shared and place.partition(".")[0] != own.partition(".")[0]:
        return None
    try:
        value = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return None
    if not isinstance(value, type) or (shared and value.__module__ != place):
        return None
    return value


def restore(
    method: Any,
    tensors: Mapping[str, Tensor],
    vocabulary: Vocabulary,
    backbone: Backbone,
    kind: type | None = None,
) -> Classifier:
    """The classifier with these kept tensors; its logits are bit-identical on the same device.

    tensors: the result of `tensors()`; moved to the backbone's device here. vocabulary: the class
    names and templates of the fit. kind: the class of the classifier; default: the return
    annotation of `fit`. NotApplicableError if the method has a reason in `cannot_be_kept`,
    ContractError if the tensors do not fit the classifier.
    """
    reason = reason_not_to_keep(method)
    if reason:
        raise NotApplicableError(reason)
    placed = {name: place(tensor, backbone.device) for name, tensor in tensors.items()}
    own = getattr(method, "restore", None)
    if not callable(own):
        return rebuilt(_classifier_class(method, kind), method, placed, vocabulary, backbone)
    classifier: Classifier = own(placed, vocabulary, backbone)
    if not callable(getattr(classifier, "logits", None)):
        kind = type(classifier)
        raise ContractError(f"{method.name}.restore returned {kind.__name__} without logits")
    return classifier


def rebuilt(
    kind: type,
    method: Any,
    tensors: Mapping[str, Tensor],
    vocabulary: Vocabulary,
    backbone: Backbone,
) -> Classifier:
    """An instance of the dataclass `kind` with fields filled by name.

    Values come first from the tensors (a one-element tensor becomes a number if the field is one),
    then from the method's hyper-parameters, then from `GIVEN`; other fields keep their defaults.
    ContractError names a field without a value, or a tensor without a field.
    """
    if not dataclasses.is_dataclass(kind):
        raise ContractError(f"{kind.__name__} is not a dataclass; {_advice(method)}")
    hints, options = typing.get_type_hints(kind), configuration(method)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    stray = sorted(set(tensors) - set(fields))
    if stray:
        raise ContractError(
            f"tensors() holds {', '.join(stray)}, which {kind.__name__} has no field for; "
            f"{_advice(method)}"
        )
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in tensors:
            tensor, hint = tensors[name], hints.get(name)
            is_number = hint in (bool, int, float) and tensor.numel() == 1
            values[name] = hint(tensor.item()) if hint and is_number else tensor
        elif name in options:
            values[name] = options[name]
        elif name in GIVEN:
            values[name] = GIVEN[name](vocabulary, backbone)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ContractError(
                f"{kind.__name__}.{name} is neither among tensors() nor a hyper-parameter, nor one "
                f"of {', '.join(GIVEN)}; {_advice(method)}"
            )
    return typing.cast(Classifier, kind(**values))


def _classifier_class(method: Any, kind: type | None) -> type:
    """`kind`, or the dataclass in the return annotation of `fit`; ContractError without one."""
    if kind is not None:
        return kind
    with contextlib.suppress(NameError, TypeError, AttributeError):
        stated = typing.get_type_hints(type(method).fit).get("return")
        if isinstance(stated, type) and dataclasses.is_dataclass(stated):
            return stated
    raise ContractError(f"fit does not name a dataclass that it returns; {_advice(method)}")


def _advice(method: Any) -> str:
    return (
        f"give {type(method).__name__} a method restore(tensors, vocabulary, backbone), or say why "
        "not in the class attribute cannot_be_kept"
    )
