"""The state of a fitted classifier, to detect that an evaluation changed it: `read_state`.

Cells that share a fit are evaluated one after the other. A classifier that counts or collects
something in `logits` would give answers that depend on their order.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from contextlib import suppress
from functools import cached_property
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.images.features import ImageView

# Values that are compared as they are.
_PLAIN = (bool, bytes, complex, float, int, str, type(None))
_SEQUENCES = (deque, frozenset, list, set, tuple)
_OPAQUE = (ImageView, ModuleType, type, torch.device, torch.dtype)


def read_state(thing: object, but: tuple[object, ...] = ()) -> list[Any]:
    """The values, and the identities and versions of tensors, that an object reaches.

    Equal results mean that nothing was changed in place or replaced in between. but: objects that
    are not entered, such as a backbone.
    """
    seen, waiting, facts = set(map(id, but)), [thing], []
    while waiting:
        value = waiting.pop()
        if isinstance(value, _PLAIN):
            facts.append(value)
            continue
        facts.append(id(value))
        if id(value) in seen or isinstance(value, _OPAQUE):
            continue
        seen.add(id(value))
        facts.append(_value(value))
        waiting.extend(_parts(value))
    return facts


def _value(value: object) -> Any:
    """Facts that differ once an object itself was changed, other than its parts."""
    if isinstance(value, Tensor):
        # Tensors of inference mode have no version.
        version = None if value.is_inference() else value._version
        return version, tuple(value.shape), value.dtype
    if isinstance(value, np.ndarray) and value.dtype != object:
        return hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, random.Random):
        return value.getstate()
    return len(value) if isinstance(value, (dict, *_SEQUENCES)) else None


def _parts(value: object) -> list[Any]:
    """The objects that an object holds; none of them is made here, since ids are reused."""
    parts: list[Any] = []
    if isinstance(value, dict):
        parts += [*value.keys(), *value.values()]
    elif isinstance(value, _SEQUENCES):
        parts += value
    elif isinstance(value, MethodType):
        parts += [value.__self__, value.__func__]
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            with suppress(ValueError):
                # A variable without a value.
                parts.append(cell.cell_contents)
    # An object of a plug-in may raise anything when it is asked.
    with suppress(Exception):
        for name, part in vars(value).items():
            # A cached property follows from the rest.
            if not isinstance(getattr(type(value), name, None), cached_property):
                parts += [name, part]
    for base in type(value).__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            with suppress(Exception):
                parts.append(base.__dict__[name].__get__(value))
    return parts
