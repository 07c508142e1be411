"""Static rules for a method's class, checked before anything is run.

The conformance kit and `fsbench run` share them. `find_broken_rules` is the entry point.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fewshot_bench.api.method import (
    Hyperparameter,
    convert_value,
    find_changed_when_built,
    find_parameter,
    hyperparameters,
    parse_value,
)
from fewshot_bench.api.method_card import card_of
from fewshot_bench.utils.errors import ContractError, FsbenchError, PluginError, UsageError
from fewshot_bench.utils.plugin_code import plugin_code

TYPES = "int, float, str, bool, Path, Literal[...] or one of them | None"
NAME = re.compile(r"[a-z0-9][a-z0-9._+-]*")
# Labels, signatures and file names of results contain versions.
VERSION = re.compile(r"[A-Za-z0-9._+-]+")
# The suite of all methods.
EVERY = "all"
# Class attributes that the harness reads; none is a hyper-parameter.
ABOUT = (
    *("name", "version", "trains", "tied_to_classes", "card", "cannot_be_kept"),
    *("unprojected_views", "imports", "cannot_take_texts", "poolings"),
)
# Of these, texts that say why something cannot be.
REASONS = ("tied_to_classes", "cannot_be_kept", "cannot_take_texts")
ARGUMENTS = ("task", "backbone", "ctx")
# The checks of the kit that these rules belong to.
STATIC = (
    "check_hyperparameters_are_typed_fields",
    "check_name_is_a_class_variable",
    "check_fit_returns_a_classifier",
)


class BrokenRule(NamedTuple):
    """A rule that a class breaks: the name of the kit's check, and the reason."""

    check: str
    reason: str


def find_broken_rules(method: type, registered: str = "") -> list[BrokenRule]:
    """Rules that a method's class breaks, in the order in which an author would fix them.

    registered: the registered name of the method; "" if unknown.
    """
    fields, name, fit = STATIC
    # A method in a file is named by its path, which is no registered name.
    registered = registered if NAME.fullmatch(registered) else ""
    try:
        return [
            *(BrokenRule(fields, reason) for reason in field_problems(method)),
            *(BrokenRule(name, reason) for reason in name_problems(method, registered)),
            *(BrokenRule(fit, reason) for reason in fit_problems(method)),
        ]
    except (Exception, SystemExit) as error:
        # A metaclass may raise on any attribute.
        kind = type(error).__name__
        return [BrokenRule(fields, f"its class cannot be examined: {kind}: {error}")]


def refuse_broken(name: str, method: type, origin: str) -> None:
    """Raise PluginError with the reasons if a method's class breaks a rule or cannot be built.

    origin: the plug-in that registered it.
    """
    by = f" ({origin})" if origin != name else ""
    reasons = [rule.reason for rule in find_broken_rules(method, name)] or cannot_be_built(method)
    if reasons:
        raise PluginError(
            f"method '{name}'{by}: {'; '.join(reasons)} (fsbench check {shlex.quote(name)})"
        )


def cannot_be_built(method: type) -> list[str]:
    """Errors of building a method, or its card, from its defaults; empty if both can be built."""
    try:
        with plugin_code():
            built = method()
        defaults = {option.name: option.default for option in hyperparameters(method)}
        changed = find_changed_when_built(built, defaults)
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        # A metaclass may raise on `__name__`.
        own = vars(type)["__name__"].__get__(method)
        return [f"{own} cannot be built from its defaults: {kind}: {error}"]
    if changed:
        return [
            f"{method.__name__} is built with {changed}={getattr(built, changed)!r}, but its "
            f"default is {defaults[changed]!r}: leave fields as given, and compute other values in "
            "fit"
        ]
    try:
        card = card_of(method)
        for published in card.published if card else ():
            for option, value in published.values.items():
                name = str(getattr(method, "name", method.__name__))
                convert_value(name, find_parameter(name, method, option), value)
    except (ContractError, UsageError) as error:
        return [str(error)]
    return []


def field_problems(method: type) -> Iterator[str]:
    """Hyper-parameters are typed fields of a frozen dataclass, each with a default."""
    name = method.__name__
    if not getattr(getattr(method, "__dataclass_params__", None), "frozen", False):
        yield f"{name} is not decorated with @dataclass(frozen=True)"
        return
    try:
        parameters = hyperparameters(method)
    except (Exception, SystemExit) as error:
        yield (
            f"the types of {name}'s fields cannot be read: {type(error).__name__}: {error}; "
            "import what they name at run time"
        )
        return
    stray = sorted(_find_stray(method))
    if stray:
        yield (
            f"{name}.{', '.join(stray)} is set on the class without being a field: annotate "
            "it (rate: float = hyper(...)), or mark a constant as ClassVar"
        )
    kinds = {field.name: field for field in dataclasses.fields(method)}
    for parameter in parameters:
        problem = _field_problem(name, parameter, given=kinds[parameter.name].init)
        if problem:
            yield f"{name}.{parameter.name}{problem}"


def _field_problem(owner: str, parameter: Hyperparameter, *, given: bool) -> str:
    default, name = parameter.default, parameter.name
    advice = f"annotate {name} as {TYPES}"
    if default is dataclasses.MISSING:
        return " has no default; `fsbench run` builds a method from its defaults"
    if not given:
        return " has init=False, so that it cannot be given; compute it in `fit`"
    if isinstance(default, list | dict | set | bytearray):
        return f": default {default!r} can be changed in place; {advice}"
    if isinstance(default, float) and not math.isfinite(default):
        return f": default {default!r} is not finite, and a record holds finite numbers alone"
    with contextlib.suppress(FsbenchError):
        plain = isinstance(default, str | int | float | bool | Path | None)
        if plain and parse_value(owner, parameter, str(default)) == default:
            return ""
    return f": default {default!r} cannot be given as -o {name}=...; {advice}"


def _find_stray(method: type) -> set[str]:
    """Public plain values on the class that are neither fields nor ClassVars."""
    names = {*ABOUT, *(field.name for field in dataclasses.fields(method))}
    for base in method.__mro__:
        hints = vars(base).get("__annotations__", {})
        names |= {name for name, hint in hints.items() if "ClassVar" in str(hint)}
    plain = (int, float, str, bool, tuple, list, dict, type(None))
    return {
        name
        for base in method.__mro__
        for name, value in vars(base).items()
        if not name.startswith("_") and name not in names and isinstance(value, plain)
    }


def name_problems(method: type, registered: str = "") -> Iterator[str]:
    """`name` is a ClassVar[str] in lower case, as it is written on the command line.

    `version`, if there is one, is a ClassVar[str] too; reasons why something cannot be are texts.
    """
    kind, name = method.__name__, getattr(method, "name", None)
    if name is None:
        example = registered or "my-method"
        yield f"{kind} has no name; write name: ClassVar[str] = {example!r}"
    elif name == EVERY:
        yield f"{kind}.name is '{EVERY}', the reserved name of all methods together; choose another"
    elif not isinstance(name, str) or NAME.fullmatch(name) is None:
        yield (
            f"{kind}.name is {name!r}, expected lower-case letters, digits, '.', '_', '+' and '-', "
            "a letter or digit first"
        )
    elif registered and name != registered:
        yield f"{kind}.name is {name!r}, but it is registered as {registered!r}: use one name"
    version = getattr(method, "version", "1")
    if not isinstance(version, str) or VERSION.fullmatch(version) is None:
        yield (
            f"{kind}.version is {version!r}, expected a text of letters, digits, '.', '_', '+' and "
            "'-', such as '2'"
        )
    for about in REASONS:
        reason = getattr(method, about, "")
        # A property is read from an instance.
        if not isinstance(reason, str) and not hasattr(type(reason), "__get__"):
            yield f"{kind}.{about} is {reason!r}, expected the reason as a text, which tables show"
    fields = dataclasses.fields(method) if dataclasses.is_dataclass(method) else ()
    for about in ABOUT[:2]:
        if about in {field.name for field in fields}:
            value = getattr(method, about, "")
            yield (
                f"{kind}.{about} is annotated as a field; write {about}: ClassVar[str] = {value!r}"
            )


def fit_problems(method: type) -> Iterator[str]:
    """Reasons why `fit` does not take a task, a backbone and a context."""
    expected = f"write def fit(self, {', '.join(ARGUMENTS)})"
    fit: Any = getattr(method, "fit", None)
    if not callable(fit):
        yield f"{method.__name__} has no fit; {expected}"
        return
    if inspect.isabstract(method):
        names = ", ".join(sorted(getattr(method, "__abstractmethods__", ())))
        yield f"{method.__name__} is abstract: it does not define {names}"
    bound = isinstance(inspect.getattr_static(method, "fit"), staticmethod | classmethod)
    try:
        inspect.signature(fit).bind(*ARGUMENTS, *([] if bound else ["self"]))
    except TypeError:
        yield f"{method.__name__}.fit takes {inspect.signature(fit)}; {expected}"
    except ValueError:
        # Without a known signature, the call itself is the test.
        return
