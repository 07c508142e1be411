"""Functions of torch, of Python and of the harness that a plug-in replaced."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_BUILTINS = builtins.__dict__
MODULES = (
    *("copy", "hashlib", "json", "math", "numpy", "numpy.random", "os", "PIL.Image", "random"),
    *("subprocess", "threading", "time", "warnings", "torch", "torch.amp", "torch.autograd"),
    *("torch.cuda", "torch.linalg", "torch.nn", "torch.nn.functional", "torch.nn.init"),
    *("torch.optim", "torch.optim.lr_scheduler", "torch.random", "torch.utils.data"),
)
# Modules whose classes are watched as well.
_WITH_CLASSES = ("torch.nn", "torch.optim", "torch.optim.lr_scheduler", "torch.utils.data")
_CLASSES = ("Tensor", "Generator")


class Functions:
    """A snapshot of watched modules and classes before plug-in code runs."""

    def __init__(self) -> None:
        self._builtins = dict(_BUILTINS)
        self._modules = {name: sys.modules[name] for name in _watched()}
        self._spaces = {}
        for space in _spaces(self._modules):
            self._spaces[id(space)] = (space, dict(vars(space)))
        self._codes = [(f, f.__code__) for f in _functions(space for space, _ in self._own())]

    def _own(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Modules and classes of the harness."""
        for space, before in self._spaces.values():
            name = space.__name__ if isinstance(space, ModuleType) else space.__module__
            if name.partition(".")[0] == _PACKAGE:
                yield space, before

    def restore(self) -> tuple[list[str], bool]:
        """Restore replaced functions. Returns their names, and True if all were restored."""
        # Builtins first, calling only dict methods: any builtin name may have been replaced.
        saved, swapped = self._builtins, []
        for name in saved:
            if name != "_" and _BUILTINS.get(name) is not saved[name]:
                swapped.append(f"builtins.{name}")
                _BUILTINS[name] = saved[name]
        complete = True
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module:
                swapped.append(name)
                sys.modules[name] = module
        for function, code in self._codes:
            if function.__code__ is not code:
                swapped.append(f"{function.__module__}.{function.__qualname__}.__code__")
                function.__code__ = code
        for space, before in self._spaces.values():
            for name in _replaced(before, vars(space)):
                if _by_its_owner(space, before[name], vars(space).get(name)):
                    continue
                swapped.append(f"{_name(space)}.{name}")
                try:
                    setattr(space, name, before[name])
                except Exception:
                    complete = False
            for name in _shadowing(space, before):
                swapped.append(f"{_name(space)}.{name}")
                delattr(space, name)
        return swapped, complete


def _watched() -> Iterator[str]:
    for name in list(sys.modules):
        if name == _PACKAGE or name.startswith(f"{_PACKAGE}."):
            yield name
    for name in MODULES:
        if name in sys.modules:
            yield name


def _spaces(modules: dict[str, ModuleType]) -> Iterator[Any]:
    for name, module in modules.items():
        yield module
        ours = name.partition(".")[0] == _PACKAGE
        if ours or name in _WITH_CLASSES:
            for value in list(vars(module).values()):
                if isinstance(value, type) and (not ours or value.__module__ == name):
                    yield value
        elif name == "torch":
            yield from (vars(module)[part] for part in _CLASSES)


def _functions(spaces: Iterable[Any]) -> Iterator[FunctionType]:
    """Functions of this package defined in the given modules and classes."""
    for space in spaces:
        for value in list(vars(space).values()):
            if isinstance(value, property):
                value = value.fget
            elif isinstance(value, staticmethod | classmethod):
                value = value.__func__
            if isinstance(value, FunctionType) and value.__module__.startswith(_PACKAGE):
                yield value


def _replaced(before: dict[str, Any], now: Any) -> list[str]:
    return [
        name
        for name, value in before.items()
        if now.get(name) is not value and (callable(value) or isinstance(value, _DESCRIPTORS))
    ]


def _shadowing(space: Any, before: dict[str, Any]) -> list[str]:
    """Names of new class attributes that override inherited functions."""
    if not isinstance(space, type) or len(vars(space)) == len(before):
        return []
    found = []
    for name, value in list(vars(space).items()):
        old = getattr(super(space, space), name, None)
        new = name not in before and old is not None and callable(value)
        if new and not _by_its_owner(space, old, value):
            found.append(name)
    return found


_DESCRIPTORS = (property, staticmethod, classmethod)


def _by_its_owner(space: Any, old: Any, new: Any) -> bool:
    """True if a library wrapped its own function, as torch does with an optimizer's step."""
    code = getattr(new, "__code__", None)
    if code is None or getattr(new, "__wrapped__", None) is not old:
        return False
    name = space.__name__ if isinstance(space, ModuleType) else space.__module__
    top = name.partition(".")[0]
    path = getattr(sys.modules.get(top), "__file__", None)
    return path is not None and Path(path).parent in Path(code.co_filename).parents


def _name(space: Any) -> str:
    if isinstance(space, ModuleType):
        return space.__name__
    return f"{space.__module__}.{space.__qualname__}"
