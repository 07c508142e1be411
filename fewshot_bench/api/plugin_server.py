"""The process of one foreign plug-in, or of one file with methods: its code runs here alone.

`main` answers the requests of `plugin_host.PluginHost`. No labels and no other plug-in are in this
process.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from fewshot_bench.api.author_frame import place_of
from fewshot_bench.api.catalog import Entry
from fewshot_bench.api.code_closure import describe_root
from fewshot_bench.api.method import configuration, hyperparameters
from fewshot_bench.api.method_rules import ABOUT, refuse_broken
from fewshot_bench.api.options import Option
from fewshot_bench.api.plugin_host import pack, pack_error, pack_type, unpack
from fewshot_bench.api.registry import collect_plugins, registry
from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import PluginError
from fewshot_bench.utils.messages import Channel, Closed
from fewshot_bench.utils.plugin_code import plugin_code

# Functions of a method that planning calls.
DECLARING = ("fit_bytes", "views_per_image", "steps", "epochs_for")


def describe_plugin() -> Mapping[str, Any]:
    """A description of this process's plug-in: what it registers, its hooks, and why it failed."""
    plugins = collect_plugins()
    callers = vars(plugins.hooks).values()
    return {
        "error": next((info.error for info in plugins.plugins), None),
        "entries": {
            catalog.kind: [_describe_entry(entry) for entry in catalog.claims]
            for catalog in plugins.catalogs
        },
        "hooks": [caller.name for caller in callers if caller.get_hookimpls()],
    }


def _describe_entry(entry: Entry) -> dict[str, Any]:
    target = entry.target
    if not isinstance(target, str):
        target = f"{getattr(target, '__module__', '')}:{getattr(target, '__qualname__', target)}"
    return {
        "name": entry.name,
        "target": target,
        "origin": entry.origin,
        "suites": list(entry.suites),
        "elsewhere": entry.elsewhere,
        "options": [_describe_option(option) for option in entry.options],
        "papers": pack(entry.papers),
    }


def _describe_option(option: Option) -> dict[str, Any]:
    values = {field.name: getattr(option, field.name) for field in dataclasses.fields(option)}
    values["type"] = pack_type(option.type) if inspect.isclass(option.type) else None
    values["asks_gpus"] = option.asks_gpus is not None
    values["default"] = pack(option.default)
    return values


def describe_method(method: str) -> Mapping[str, Any]:
    """The class of a method, as far as planning needs it; PluginError if it breaks a rule."""
    cls = registry().method_class(method)
    refuse_broken(method, cls, registry().method(method).origin)
    return {
        "class": cls.__name__,
        "module": cls.__module__,
        "root": describe_root(cls),
        "fit": place_of(cls, getattr(cls, "fit", None)),
        "functions": [name for name in DECLARING if callable(getattr(cls, name, None))],
        "has_card": hasattr(cls, "card"),
        "fields": [
            {
                "name": field.name,
                "type": pack_type(field.type),
                "default": pack(field.default),
                "metadata": {"help": field.help, "unit": field.unit, "source": field.source},
            }
            for field in hyperparameters(cls)
        ],
        "constants": _about(cls),
    }


def _about(method: object) -> dict[str, Any]:
    constants = {}
    # Another function reads the card, which may raise.
    for name in {*ABOUT} - {"card"}:
        value = getattr(method, name, None)
        if isinstance(value, str | bool | int | tuple):
            constants[name] = pack(value)
    return constants


def build_method(method: str, values: Any) -> Mapping[str, Any]:
    """Facts of a method with these hyper-parameters: raises what the class raises."""
    built = _build(method, values)
    try:
        stated = {"card": pack(getattr(built, "card", None))}
    except (Exception, SystemExit) as error:
        stated = {"card_error": pack_error(error)}
    return {"values": pack(configuration(built)), "constants": _about(built), **stated}


def _build(method: str, values: Any) -> Any:
    with plugin_code():
        return registry().method_class(method)(**unpack(values))


def call_method(method: str, values: Any, function: str, sizes: list[int]) -> Any:
    """The number that a method declares about a fit of these sizes."""
    built = _build(method, values)
    with plugin_code():
        return pack(getattr(built, function)(*sizes))


def call_option(kind: str, entry: str, option: str, function: str, value: Any) -> Any:
    """The result of an option's function for a value: of its `type`, or `asks_gpus`."""
    (catalog,) = (catalog for catalog in registry().catalogs if catalog.kind == kind)
    (declared,) = (one for one in catalog.entries[entry].options if one.name == option)
    return pack(getattr(declared, function)(unpack(value)))


def call_hook(hook: str, arguments: Any) -> Any:
    """The value that a hook returns, in a list; an empty list for None."""

    def fail(plugin: str, failure: PluginError) -> None:
        raise failure

    results = registry().call(hook, fail, **unpack(arguments))
    return [pack(value) for _, value in results]


def set_variables(variables: Mapping[str, str]) -> None:
    """Set environment variables that hooks read."""
    os.environ.update(variables)


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(describe_plugin, describe_method, build_method, call_method),
        *(call_option, call_hook, set_variables),
    )
}


def main(arguments: Sequence[str], channels: Sequence[Channel]) -> None:
    """Answer the requests of a `PluginHost`, until it closes its channel."""
    offline.enforce_if_asked()
    (channel,) = channels
    with suppress(Closed, OSError):
        while True:
            values, _ = channel.receive()
            try:
                answer = {"value": OPERATIONS[values.pop("operation")](**values)}
            except (Exception, SystemExit) as error:
                answer = {"error": pack_error(error)}
            channel.send(answer)
