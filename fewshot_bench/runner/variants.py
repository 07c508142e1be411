"""Methods with their hyper-parameters, parsed from user input."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot_bench.api import own_methods
from fewshot_bench.api.method import (
    Hyperparameter,
    configuration,
    convert_value,
    find_changed_when_built,
    find_parameter,
    hyperparameters,
    read_value,
)
from fewshot_bench.api.method_card import FitSetting, MethodCard, card_of, no_own_values
from fewshot_bench.api.method_code import canonical, is_meant
from fewshot_bench.api.method_rules import refuse_broken
from fewshot_bench.api.option_files import find_files, is_default, state_files
from fewshot_bench.api.own_methods import OwnMethod, digest_in, version_in
from fewshot_bench.api.registry import Registry, registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.kept_methods import find_named
from fewshot_bench.utils.errors import ContractError, FsbenchError, PluginError, UsageError, unknown
from fewshot_bench.utils.plugin_code import plugin_code

# A method with options, as tables call its row, and the commas between these.
_LABEL = re.compile(r"([^\[\]]+)\[(.*)\]", re.DOTALL)
_BETWEEN = re.compile(r",(?![^\[]*\])")
_FILE_OPTION = re.compile(r"(.+\.py:[^\W\d]\w*)\.([\w-]+)=(.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method with one set of hyper-parameters.

    overrides: the values that differ from the defaults. chosen: the values that the user named.
    card: the method's, of these values. prompts: the template set of its authors, if published
    values are taken and state one.
    """

    method: str
    options: Mapping[str, Any]
    overrides: Mapping[str, Any]
    version: str
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    card: MethodCard = dataclasses.field(default=MethodCard(""))
    prompts: str = ""


@dataclasses.dataclass(frozen=True)
class Configured:
    """A method given as an object, with the values of its hyper-parameters.

    whole: False for one that is named with some values, as tables call it: `clip-lora[rank=4]`.
    """

    method: str
    values: Mapping[str, Any]
    whole: bool = True


# `[method.]name=value[,value]`, or a pair of `[method.]name` and values.
Option = str | tuple[str, tuple[Any, ...]]


def expand_methods(
    methods: Iterable[str | Configured],
    options: Iterable[Option],
    catalog: Registry,
    left_out: dict[str, str] | None = None,
) -> list[Variant]:
    """Every method with every combination of the option values.

    options: the last one per parameter counts; a `Configured` method takes none.
    left_out: receives the broken methods of `all` and of suites: name to reason.
    UsageError for unknown names and values, PluginError for a broken method given by name.
    """
    own: dict[str, OwnMethod] = {}
    asked = _expand_names(methods, catalog, {} if left_out is None else left_out, own)
    references = {reference: method.name for reference, method in own.items()}
    # What `fsbench show` takes for a method of a file.
    spellings = {method.name: reference for reference, method in own.items()}
    names = list(dict.fromkeys(m if isinstance(m, str) else m.method for m in asked))
    settings = [
        (references.get(owner, owner), parameter, given)
        for owner, parameter, given in map(split_setting, options)
    ]
    used: set[int] = set()
    variants = []
    for method in asked:
        name = method if isinstance(method, str) else method.method
        cls = catalog.method_class(name)
        refuse_broken(name, cls, catalog.method(name).origin)
        if isinstance(method, Configured) and method.whole:
            parameters = {field.name: field for field in hyperparameters(cls)}
            values = {
                key: convert_value(name, parameters[key], value)
                for key, value in method.values.items()
            }
            variant = variant_of(name, cls, values)
            # An object does not tell which of its values were named.
            variants.append(dataclasses.replace(variant, chosen=variant.overrides))
            continue
        named = {} if isinstance(method, str) else method.values
        chosen: dict[str, list[Any]] = {key: [value] for key, value in named.items()}
        for index, (owner, parameter, given) in enumerate(settings):
            if owner not in ("", name) or (owner == "" and not _has(cls, parameter)):
                continue
            used.add(index)
            spelling = spellings.get(name, name)
            field = find_parameter(spelling, cls, parameter)
            chosen[field.name] = [read_value(spelling, field, value) for value in given]
        variants += [
            variant_of(name, cls, dict(zip(chosen, values, strict=True)))
            for values in itertools.product(*chosen.values())
        ]
    objects = {m.method for m in asked if isinstance(m, Configured) and m.whole}
    for index, (owner, parameter, _) in enumerate(settings):
        if index not in used:
            fixed = [n for n in ([owner] if owner else names) if n in objects]
            if any(_has(catalog.method_class(name), parameter) for name in fixed):
                raise UsageError(
                    f"option {parameter}: {', '.join(fixed)} was given as an object, "
                    "which has a value for it: give the class, or make the object with another one"
                )
            _refuse_setting(owner, parameter, names, catalog)
    return list({(v.method, repr(sorted(v.options.items()))): v for v in variants}.values())


def _expand_names(
    requested: Iterable[str | Configured],
    catalog: Registry,
    left_out: dict[str, str],
    own: dict[str, OwnMethod],
) -> list[str | Configured]:
    """The methods to run, each name once. own: receives methods of files by reference."""
    methods: list[str | Configured] = []
    for method in requested:
        suite = catalog.suite_of_methods(method) if isinstance(method, str) else None
        if suite is not None:
            usable, broken = suite
            methods += usable
            left_out |= broken
        elif isinstance(method, str):
            methods.append(_read_label(method, catalog, own) or _find_name(method, catalog, own))
        else:
            name = _find_name(method.method, catalog, own)
            methods.append(dataclasses.replace(method, method=name))
    # No dict: the values of a `Configured` need not be hashable.
    return [method for index, method in enumerate(methods) if method not in methods[:index]]


def _read_label(label: str, catalog: Registry, own: dict[str, OwnMethod]) -> Configured | None:
    """The method and the values of `transclip[on=clip-lora]`; None for a name without brackets."""
    found = _LABEL.fullmatch(label)
    if found is None:
        return None
    name, values = _find_name(found[1].strip(), catalog, own), {}
    for part in _BETWEEN.split(found[2]):
        _, parameter, (value, *_) = split_setting(part.replace(",", "\\,"))
        field = find_parameter(name, catalog.method_class(name), parameter)
        values[field.name] = read_value(name, field, value)
    return Configured(name, values, whole=False)


def find_inner(variant: Variant, catalog: Registry, store: Path) -> Variant | None:
    """The variant that a method on top of another starts from, which its option `on` names.

    None without such an option. store: has methods of files by name. UsageError for one that cannot
    be started from.
    """
    fields = hyperparameters(catalog.method_class(variant.method))
    name = variant.options.get("on") if ("on", "") in [(f.name, f.default) for f in fields] else ""
    if not name:
        return None
    where = f"{variant.method}: on='{name}'"
    if catalog.suite_of_methods(name) is not None:
        raise UsageError(f"{where} names several methods: expected one (fsbench list methods)")
    bare, bracket, options = name.partition("[")
    own = bare not in catalog.methods.entries and (
        own_methods.find(bare) or find_named(store, bare)
    )
    reference = own.reference if own else bare
    (inner,) = expand_methods([f"{reference}{bracket}{options}"], (), catalog)
    if inner.options.get("on") or inner.card.sees not in ("query", "views"):
        raise UsageError(
            f"{where}: {inner.method} is on top of another method itself, or answers by other "
            "queries; expected one that answers for each query alone (fsbench list methods)"
        )
    owners = {catalog.owner(name) for name in (variant.method, inner.method)} - {""}
    if len({owner.partition(":")[0] for owner in owners}) > 1:
        raise UsageError(
            f"{where}: code of {' and of '.join(sorted(owners))} never runs in one process; put "
            "both methods into one package or file"
        )
    return inner


def _find_name(given: str, catalog: Registry, own: dict[str, OwnMethod]) -> str:
    """The name of a method; UsageError for two of one name and other code, as rows would be one."""
    if given in catalog.methods.entries or not is_meant(given):
        return catalog.methods.find(given).name
    method = catalog.own_method(given)
    own[canonical(given)] = method
    other = next(other for other in own.values() if other.name == method.name)
    if other.version != method.version:
        raise UsageError(
            f"'{other.reference}' and '{method.reference}' are two states of one method, "
            f"'{method.name}': give one of the classes another name, or run them one after the "
            f"other (fsbench compare -m {method.name}@{digest_in(other.version)},"
            f"{method.name}@{digest_in(method.version)} shows both)"
        )
    return method.name


def split_setting(option: Option) -> tuple[str, str, Sequence[Any]]:
    """Split `[method.]name=value[,value]` into method, parameter and values."""
    if not isinstance(option, str):
        owner, _, parameter = option[0].rpartition(".")
        return canonical(owner), parameter, option[1]
    in_file = _FILE_OPTION.fullmatch(option)
    if in_file is not None:
        # Dots, commas and equal signs in the path are no separators.
        owner, parameter, value = in_file.groups()
        return canonical(owner.strip()), parameter, _texts(value)
    name, equals, value = option.partition("=")
    if not equals or not name.strip():
        is_file = bool(Path(option).suffix) or os.sep in option
        hint = f"; the file to write is -O {option}" if is_file else ""
        raise UsageError(
            f"option '{option}': expected name=value, for example -o rank=4 or "
            f"-o clip-lora.rank=4{hint}"
        )
    owner, dot, parameter = name.strip().rpartition(".")
    return (owner if dot else "", parameter, _texts(value))


def _texts(value: str) -> list[str]:
    r"""The texts of a comma-separated value; `\,` is a comma in one of them."""
    parts = re.split(r"(?<!\\),", value)
    stripped = [part.strip() for part in parts] if len(parts) > 1 else parts
    return [part.replace("\\,", ",") for part in stripped]


def _has(cls: type, parameter: str) -> bool:
    return parameter.replace("-", "_") in {field.name for field in hyperparameters(cls)}


def _refuse_setting(owner: str, parameter: str, names: list[str], catalog: Registry) -> None:
    if owner:
        raise UsageError(
            f"option {owner}.{parameter}: method '{owner}' is not among those that run "
            f"({', '.join(names)})"
        )
    if len(names) == 1:
        find_parameter(names[0], catalog.method_class(names[0]), parameter)
    every = {field.name for name in names for field in hyperparameters(catalog.method_class(name))}
    raise unknown(
        f"hyper-parameter of {', '.join(names)}",
        parameter,
        every,
        f"fsbench show {shlex.quote(names[0])}",
    )


def variant_of(name: str, cls: type, chosen: Mapping[str, Any]) -> Variant:
    """The variant of a method's class with these hyper-parameters, of the types of its fields.

    UsageError for values that the class refuses, PluginError for a class that changes them.
    """
    fields, files = hyperparameters(cls), find_files(name, cls, chosen)
    method = _build(name, cls, {**chosen, **files})
    try:
        card = card_of(method) or MethodCard("")
    except ContractError as error:
        raise PluginError(f"method '{name}': {error} (fsbench show {shlex.quote(name)})") from error
    options = configuration(method)
    defaults = {field.name: field.default for field in fields}
    given = {**defaults, **chosen, **files}
    changed = find_changed_when_built(method, given)
    if changed:
        raise PluginError(
            f"method '{name}' changes {changed} from {given[changed]!r} to {options[changed]!r} "
            "when it is built, so that records would hold another value than was given; its "
            "author should compute that value in fit, or in a property"
        )
    try:
        options, stated = state_files(options), state_files(files)
    except OSError as error:
        raise UsageError(f"{name}: '{error.filename}' cannot be read: {error.strerror}") from error
    for field in fields:
        options[field.name] = _plain_option(name, field, options[field.name])
    overrides = {key: value for key, value in chosen.items() if value != defaults[key]}
    overrides |= {key: value for key, value in stated.items() if key in chosen}
    for key in [key for key in overrides if is_default(name, cls, key, stated.get(key, ""))]:
        del overrides[key]
    # No version of a method fixes what is in a file, not even in that of a default.
    chosen = {**chosen, **stated}
    return Variant(name, options, overrides, version_in(name, cls), chosen, card)


class PublishedVariants:
    """Variants with the values of their methods' authors, cached by method and values."""

    def __init__(self, catalog: Registry) -> None:
        self._catalog = catalog
        self._made: dict[tuple[str, str], Variant] = {}

    def of(self, variant: Variant, setting: FitSetting) -> Variant:
        """The variant with its authors' values in a setting; values that the user named win."""
        cls = self._catalog.method_class(variant.method)
        card = card_of(cls)
        values = {**(card.published_in(setting) if card else {}), **variant.chosen}
        key = variant.method, repr((sorted(values.items()), sorted(variant.chosen)))
        if key not in self._made:
            # Overrides are what the user named. A default counts if its option has published
            # values, which it replaces.
            counted = {*(card.varied if card else ()), *variant.overrides}
            overrides = {name: v for name, v in variant.chosen.items() if name in counted}
            made = variant_of(variant.method, cls, values)
            self._made[key] = dataclasses.replace(made, overrides=overrides, chosen=variant.chosen)
        return dataclasses.replace(
            self._made[key], prompts=card.prompts_in(setting) if card else ""
        )


def note_published(cells: Iterable[RunSpec]) -> Iterator[str]:
    """Notes on methods that run with published values on data sets without values of their own."""
    asked: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for cell in cells:
        if cell.published:
            asked[cell.method][cell.dataset] = None
    alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for method, datasets in asked.items():
        card = card_of(registry().method_class(method)) or MethodCard("")
        alike[card.without_own_values(datasets)].append(method)
    for without, methods in alike.items():
        if without:
            yield f"{', '.join(methods)}: {no_own_values(without)}"


def _build(name: str, cls: type, chosen: Mapping[str, Any]) -> Any:
    """An instance; UsageError for values that the class itself rejects."""
    try:
        with plugin_code():
            return cls(**chosen)
    except FsbenchError:
        raise
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in chosen.items())
        raise UsageError(
            f"method '{name}' refuses {given}: {type(error).__name__}: {error} "
            f"(fsbench show {shlex.quote(name)})"
        ) from error


def _plain_option(method: str, field: Hyperparameter, value: Any) -> Any:
    """The value as recorded: a float's 1 becomes 1.0, so that both are one configuration."""
    if field.type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    finite = not isinstance(value, float) or math.isfinite(value)
    if finite and isinstance(value, str | int | float | bool | type(None)):
        return value
    raise PluginError(
        f"method '{method}': hyper-parameter {field.name} is {value!r}, expected a number, a "
        "string, a boolean or None; its author should use one of these types"
    )
