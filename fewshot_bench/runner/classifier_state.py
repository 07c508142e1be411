"""The state of a fitted classifier, to detect that an evaluation changed it: `held_state`.

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

# Values that are compared as they are.
_PLAIN = (bool, bytes, complex, float, int, str, type(None))
_SEQUENCES = (deque, frozenset, list, set, tuple)
_OPAQUE = (ModuleType, type, torch.device, torch.dtype)


def held_state(thing: object, but: tuple[object, ...] = ()) -> list[Any]:
    """The values, and the identities and versions of tensors, that an object reaches.

    Equal results mean that nothing was changed in place or replaced in between. but: objects that
    are not entered, such as a backbone.
    """
    seen, waiting, found = set(map(id, but)), [thing], []
    while waiting:
        one = waiting.pop()
        if isinstance(one, _PLAIN):
            found.append(one)
            continue
        found.append(id(one))
        if id(one) in seen or isinstance(one, _OPAQUE):
            continue
        seen.add(id(one))
        found.append(_value(one))
        waiting.extend(_parts(one))
    return found


def _value(one: object) -> Any:
    """Facts that differ once an object itself was changed, other than its parts."""
    if isinstance(one, Tensor):
        # Tensors of inference mode have no version.
        version = None if one.is_inference() else one._version
        return version, tuple(one.shape), one.dtype
    if isinstance(one, np.ndarray) and one.dtype != object:
        return hashlib.sha256(np.ascontiguousarray(one).tobytes()).digest()
    if isinstance(one, torch.Generator):
        return one.get_state().numpy().tobytes()
    if isinstance(one, np.random.Generator):
        return repr(one.bit_generator.state)
    if isinstance(one, random.Random):
        return one.getstate()
    return len(one) if isinstance(one, (dict, *_SEQUENCES)) else None


def _parts(one: object) -> list[Any]:
    """The objects that an object holds; none of them is made here, since ids are reused."""
    found: list[Any] = []
    if isinstance(one, dict):
        found += [*one.keys(), *one.values()]
    elif isinstance(one, _SEQUENCES):
        found += one
    elif isinstance(one, MethodType):
        found += [one.__self__, one.__func__]
    elif isinstance(one, FunctionType):
        for cell in one.__closure__ or ():
            with suppress(ValueError):
                # A variable without a value.
                found.append(cell.cell_contents)
    # An object of a plug-in may raise anything when it is asked.
    with suppress(Exception):
        for name, value in vars(one).items():
            # A cached property follows from the rest.
            if not isinstance(getattr(type(one), name, None), cached_property):
                found += [name, value]
    for base in type(one).__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            with suppress(Exception):
                found.append(base.__dict__[name].__get__(one))
    return found
