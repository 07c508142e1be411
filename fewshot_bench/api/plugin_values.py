"""Values that cross between the engine and the process of a plug-in, as JSON: nothing is executed.

`packed` and `unpacked` are inverse for plain values, tuples, paths, specifications and records.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from fewshot_bench.api.method_card import MethodCard, Published
from fewshot_bench.api.paper import Paper
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.utils import errors
from fewshot_bench.utils.errors import FsbenchError, PluginError

_PLAIN = (str, int, float, bool, type(None))
_BASIC = {kind.__name__: kind for kind in (int, float, str, bool)}
_FACTS: Mapping[str, Callable[..., Any]] = {
    kind.__name__: kind for kind in (MethodCard, Published, Paper)
}


def packed(value: Any) -> Any:
    """A value as JSON; PluginError for one of another type."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Path):
        return ["path", str(value)]
    if isinstance(value, RunSpec | Record):
        return [type(value).__name__, value.to_dict()]
    if isinstance(value, MethodCard | Published | Paper):
        found = {field.name: getattr(value, field.name) for field in fields(value)}
        # A function, which only lists of methods call.
        found.pop("trained", None)
        return [type(value).__name__, packed(found)]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: packed(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [type(value).__name__, [packed(part) for part in value]]
    if getattr(value, "shape", None) == ():
        return packed(value.item())
    raise PluginError(
        f"{value!r:.80} is a {type(value).__name__}: what a plug-in hands over are texts, numbers, "
        "lists, tuples and paths"
    )


def unpacked(value: Any) -> Any:
    """The value that `packed` wrote."""
    if isinstance(value, dict):
        return {name: unpacked(part) for name, part in value.items()}
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "RunSpec":
        return RunSpec.from_dict(content)
    if kind == "Record":
        return Record.from_dict(content)
    if kind in _FACTS:
        return _FACTS[kind](**unpacked(content))
    if kind == "path":
        return Path(content)
    parts = [unpacked(part) for part in content]
    return tuple(parts) if kind == "tuple" else parts


def packed_type(kind: Any) -> Any:
    """The type of a hyper-parameter as JSON; None for one that no hyper-parameter may have."""
    if kind in _BASIC.values():
        return kind.__name__
    if kind is type(None):
        return "None"
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return ["Literal", [packed(part) for part in parts]]
    return ["Union", [packed_type(part) for part in parts]] if parts else None


def unpacked_type(value: Any) -> Any:
    """The type that `packed_type` wrote."""
    if isinstance(value, str):
        return _BASIC.get(value, type(None))
    kind, parts = value
    if kind == "Literal":
        return Literal[tuple(unpacked(part) for part in parts)]
    return typing.Union[tuple(map(unpacked_type, parts))]  # noqa: UP007


def packed_error(error: BaseException) -> dict[str, Any]:
    """The kind and text of an error, and those of its cause."""
    found: dict[str, Any] = {"kind": type(error).__name__, "text": str(error)}
    if isinstance(error, KeyError) and error.args:
        found["text"] = str(error.args[0])
    if error.__cause__ is not None:
        found["cause"] = packed_error(error.__cause__)
    return found


def unpacked_error(values: Mapping[str, Any]) -> Exception:
    """The error that `packed_error` wrote; of a new class for a kind that is not ours."""
    name, text = values["kind"], values["text"]
    kind: Any = getattr(errors, name, None)
    found: Exception
    if isinstance(kind, type) and issubclass(kind, FsbenchError):
        found = kind(text)
    elif name in ("KeyError", "ValueError"):
        found = KeyError(text) if name == "KeyError" else ValueError(text)
    else:
        # Of this name, which messages state.
        found = type(name, (Exception,), {})(text)
    if "cause" in values:
        found.__cause__ = unpacked_error(values["cause"])
    return found
