"""Numbers of Python that a step can reach: if it changes one, a repetition would not."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

# What a step reaches within this many references; more would be the harness and torch.
_DEPTH, _MOST = 6, 2_000
# Of a collection, such as all images, these are read, and its length.
_FIRST = 200
# What belongs to the harness may change meanwhile, by threads that load images, say.
_HARNESS = tuple(f"fewshot_bench.{part}" for part in ("runner", "engines", "images", "backbones"))
_OTHER = (torch.Tensor, torch.nn.Module, torch.Generator, types.ModuleType, type)
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def read_numbers(step: Callable[..., Any]) -> dict[str, Any]:
    """Numbers and texts by path, such as `step.done`: of closures, attributes and collections."""
    return dict(_read(step))


def _read(root: Any) -> Iterator[tuple[str, Any]]:
    met: dict[int, Any] = {}
    waiting: list[tuple[Any, str, int]] = [(root, "step", 0)]
    while waiting and len(met) < _MOST:
        value, path, depth = waiting.pop()
        if isinstance(value, _PLAIN):
            yield path, value
        elif id(value) not in met:
            met[id(value)] = value
            if isinstance(value, list | dict | set):
                yield f"len({path})", len(value)
            if depth < _DEPTH:
                parts = itertools.islice(_parts(value, path), _FIRST)
                waiting += [(part, name, depth + 1) for name, part in parts]


def _parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if str(getattr(value, "__module__", "")).startswith(_HARNESS):
        return
    if isinstance(value, partial):
        yield from ((f"{path}[{place}]", part) for place, part in enumerate(value.args))
        yield from ((f"{path}.{name}", part) for name, part in value.keywords.items())
        yield path, value.func
    elif isinstance(value, types.MethodType):
        yield path, value.__func__
        yield f"{path}.self", value.__self__
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield f"{path}.{name}", _content(cell)
    elif isinstance(value, dict):
        yield from ((f"{path}[{name!r:.40}]", part) for name, part in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"{path}[{place}]", part) for place, part in enumerate(value))
    elif not isinstance(value, _OTHER) and hasattr(value, "__dict__"):
        yield from ((f"{path}.{name}", part) for name, part in vars(value).items())


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
