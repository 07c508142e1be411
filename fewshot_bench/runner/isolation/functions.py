"""Functions and constants of libraries, of Python and of this project that a plug-in replaced."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterable, Iterator, Sequence
from operator import is_
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_OURS = (_PACKAGE, "fsbench_methods", "fsbench_datasets")
# Images, prompts, features, steps and solutions come from these: their modules and classes are
# watched as ours are.
_WHOLE = (
    *_OURS,
    *("open_clip", "PIL", "scipy.optimize", "sklearn.linear_model", "torch.optim"),
    "torchvision.transforms",
)
_BELOW = tuple(f"{package}." for package in _WHOLE)
# The code and the defaults of functions are watched in these.
_PARTS_OF = (*_OURS, "torch.nn.functional", "torch.optim")
# Types of constants; values of other types may change in place.
_PLAIN = (bool, float, frozenset, int, str, tuple)
_BUILTINS = builtins.__dict__
MODULES = (
    *("contextlib", "copy", "dataclasses", "functools", "hashlib", "json", "math", "numpy"),
    *("numpy.linalg", "numpy.random", "os", "random", "subprocess", "threading", "time"),
    *("warnings", "torch", "torch.amp", "torch.autograd", "torch.cuda", "torch.functional"),
    *("torch.linalg", "torch.nn", "torch.nn.functional", "torch.nn.init", "torch.random"),
    "torch.utils.data",
)
# Modules whose classes are watched as well, wherever they are defined.
_WITH_CLASSES = ("torch.nn", "torch.utils.data")
_CLASSES = ("Tensor", "Generator")


class _Space:
    """A module or a class: its attributes, and those that are classes or watched functions."""

    def __init__(self, space: Any) -> None:
        self.space = space
        self.before = dict(vars(space))
        self.classes = [value for value in self.before.values() if isinstance(value, type)]
        self.functions = list(_functions(space, self.before.values()))

    def is_unchanged(self) -> bool:
        """True if all names and values are the same objects in the same order."""
        now, before = vars(self.space), self.before
        same = len(now) == len(before) and all(map(is_, now.values(), before.values()))
        return same and all(map(is_, now, before))


# The spaces of the last snapshot by id: most are unchanged when the next one is taken.
_last: dict[int, _Space] = {}


class Functions:
    """A snapshot of watched modules and classes before plug-in code runs."""

    def __init__(self) -> None:
        global _last
        self._builtins = dict(_BUILTINS)
        self._modules = {name: sys.modules[name] for name in _watched()}
        self._spaces: dict[int, _Space] = {}
        for name, module in self._modules.items():
            classes = self._added(module).classes
            if name == "torch":
                classes = [vars(module)[part] for part in _CLASSES]
            elif name not in _WITH_CLASSES:
                own = _is_whole(name)
                classes = [one for one in classes if own and one.__module__ == name]
            for each in classes:
                self._added(each)
        _last = self._spaces
        self._functions = [each for one in self._spaces.values() for each in one.functions]
        self._parts = _parts(self._functions)

    def _added(self, space: Any) -> _Space:
        key = id(space)
        if key not in self._spaces:
            known = _last.get(key)
            known = known if known and known.space is space and known.is_unchanged() else None
            self._spaces[key] = known or _Space(space)
        return self._spaces[key]

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
        for part, values, now in zip(_PARTS, self._parts, _parts(self._functions), strict=True):
            for function, value, other in zip(self._functions, values, now, strict=True):
                if value is not other:
                    swapped.append(f"{function.__module__}.{function.__qualname__}.{part}")
                    setattr(function, part, value)
        for each in self._spaces.values():
            if each.is_unchanged():
                continue
            space, before = each.space, each.before
            for name in _replaced(space, before):
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
    yield from filter(_is_whole, list(sys.modules))
    for name in MODULES:
        if name in sys.modules:
            yield name


def _is_whole(name: str) -> bool:
    return name in _WHOLE or name.startswith(_BELOW)


def _functions(space: Any, values: Iterable[Any]) -> Iterator[FunctionType]:
    """Functions whose code is watched, among the values of a module or a class."""
    if not _module_of(space).startswith(_PARTS_OF):
        return
    for value in values:
        if isinstance(value, property):
            value = value.fget
        elif isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, FunctionType) and str(value.__module__).startswith(_PARTS_OF):
            yield value


_PARTS = ("__code__", "__defaults__", "__kwdefaults__")


def _parts(functions: Sequence[FunctionType]) -> list[list[Any]]:
    """The values of `_PARTS`, each in the order of the functions."""
    return [[getattr(function, part) for function in functions] for part in _PARTS]


def _replaced(space: Any, before: dict[str, Any]) -> list[str]:
    now, ours = vars(space), _module_of(space).startswith(_OURS)
    return [
        name
        for name, value in before.items()
        if now.get(name) is not value
        and (
            callable(value)
            or isinstance(value, _DESCRIPTORS)
            or (ours and name.isupper() and isinstance(value, _PLAIN))
        )
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
    top = _module_of(space).partition(".")[0]
    path = getattr(sys.modules.get(top), "__file__", None)
    return path is not None and Path(path).parent in Path(code.co_filename).parents


def _module_of(space: Any) -> str:
    name: str = space.__name__ if isinstance(space, ModuleType) else space.__module__
    return name


def _name(space: Any) -> str:
    if isinstance(space, ModuleType):
        return space.__name__
    return f"{space.__module__}.{space.__qualname__}"
