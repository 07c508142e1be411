"""Compares classes and functions of this session with those that their written source defines.

`difference` is the entry. Equal code, defaults and attributes are required; nothing is called.
"""

from __future__ import annotations
import __future__

import ast
import enum
import inspect
import linecache
import types
from collections.abc import Iterator, Mapping
from typing import Any

# Attributes that Python or `dataclass` sets; they follow from the others.
_MADE = frozenset(
    {
        *("__module__", "__dict__", "__weakref__", "__annotations__", "__qualname__", "__doc__"),
        *("__firstlineno__", "__static_attributes__", "__match_args__", "__annotate_func__"),
        *("__annotations_cache__", "__conditional_annotations__", "__parameters__"),
        *("__orig_bases__", "__slots__", "__hash__", "__wrapped__", "__replace__"),
    }
)
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def difference(live: Any, made: Any) -> str:
    """The first attribute in which `live` differs from `made`; `itself` for a function's code.

    `__bases__` if what a class inherits differs. Empty if they are the same, or hold only values
    that cannot be compared.
    """
    if isinstance(live, type) and isinstance(made, type):
        return next(_in_class(live, made), "")
    return next(_in_function(live, made), "")


def same_code(one: types.CodeType, other: types.CodeType) -> bool:
    """True if two pieces of code do the same, wherever they stand in a file."""
    names = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_flags")
    return all(getattr(one, name) == getattr(other, name) for name in names) and _same_constants(
        one.co_consts, other.co_consts
    )


def source_of(file: str) -> str:
    """The present source of a file or of a notebook cell; empty if there is none."""
    linecache.checkcache(file)
    return "".join(linecache.getlines(file))


def notebook_cells() -> list[str]:
    """The names of all notebook cells, which are only in this cache, the newest first."""
    return [name for name, entry in linecache.cache.items() if entry[1:2] == (None,)][::-1]


def parsed(source: str) -> ast.Module:
    """The syntax tree of a source; empty if it has none."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], type_ignores=[])


def stems_from(code: types.CodeType, source: str) -> bool:
    """True if a source still compiles to this code: a script may be edited while it runs."""
    return any(same_code(one, code) for one in _compiled(code, source))


def _compiled(code: types.CodeType, source: str) -> Iterator[types.CodeType]:
    """The code that a source gives at the place of `code`: of that statement, then of the whole.

    A notebook compiles each statement of a cell alone, an import the whole file. The bytecode
    differs: a call of `name.function()` is another one where the same compilation imports `name`.
    """
    body = parsed(source).body
    here = [node for node in body if first_line(node) <= code.co_firstlineno <= last_line(node)]
    flags = code.co_flags & __future__.annotations.compiler_flag | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    for statements in (here, body):
        unit = ast.Module(statements, type_ignores=[])
        todo = [compile(unit, code.co_filename, "exec", flags, dont_inherit=True)]
        while todo:
            one = todo.pop()
            if (one.co_qualname, one.co_firstlineno) == (code.co_qualname, code.co_firstlineno):
                yield one
            todo += [part for part in one.co_consts if isinstance(part, types.CodeType)]


def _same_source(one: types.CodeType, other: types.CodeType) -> bool:
    """True if two pieces of code do the same, in whatever units they were compiled."""
    if same_code(one, other):
        return True
    sources = [source_of(code.co_filename) for code in (one, other)]
    if not (stems_from(one, sources[0]) and stems_from(other, sources[1])):
        return False
    alone = [next(_compiled(*pair)) for pair in zip((one, other), sources, strict=True)]
    return same_code(*alone)


def first_line(node: ast.stmt) -> int:
    """The line in which a statement begins, with its decorators."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def last_line(node: ast.stmt) -> int:
    """The line in which a statement ends."""
    return node.end_lineno or node.lineno


def _same_constants(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, types.CodeType):
        return same_code(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same_constants, one, other))
    # The text, since NaN differs from itself, and 0.0 equals -0.0.
    return repr(one) == repr(other) if isinstance(one, float | complex) else bool(one == other)


def _in_class(live: type, made: type) -> Iterator[str]:
    """The attributes of a class that are not those of its source."""
    if len(live.__bases__) != len(made.__bases__) or any(
        map(_differ, live.__bases__, made.__bases__)
    ):
        yield "__bases__"
    ours, theirs = _attributes(live), _attributes(made)
    for name in dict.fromkeys((*ours, *theirs)):
        if name not in ours or name not in theirs or _differ(ours[name], theirs[name]):
            yield name


def _attributes(cls: type) -> Mapping[str, Any]:
    def is_own(name: str, value: Any) -> bool:
        # Functions that `dataclass` makes have no file.
        code = getattr(value, "__code__", None)
        made = name in _MADE or name.startswith(("__dataclass_", "__abstract", "_abc_"))
        return not made and getattr(code, "co_filename", "") != "<string>"

    return {name: value for name, value in vars(cls).items() if is_own(name, value)}


def _differ(live: Any, made: Any) -> bool:
    if live is made:
        return False
    if isinstance(live, type) and isinstance(made, type):
        return live.__qualname__ != made.__qualname__ or any(_in_class(live, made))
    if isinstance(live, enum.Enum) and isinstance(made, enum.Enum):
        return _differ(live.value, made.value)
    if _is_plain(live) or _is_plain(made):
        return repr(live) != repr(made)
    return any(_in_function(live, made))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | dict) and type(value).__module__ == "builtins":
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return all(map(_is_plain, parts))
    return type(value) in _PLAIN


def _in_function(live: Any, made: Any) -> Iterator[str]:
    """`itself` if the code differs, else the attributes of a function that differ."""
    ours, theirs = list(functions_behind(live)), list(functions_behind(made))
    if len(ours) != len(theirs):
        yield "itself"
    for mine, other in zip(ours, theirs, strict=False):
        if not _same_source(mine.__code__, other.__code__) or _closed(mine) != _closed(other):
            yield "itself"
        for name in ("__defaults__", "__kwdefaults__", "__dict__"):
            value = getattr(mine, name)
            if _is_plain(value) and repr(value) != repr(getattr(other, name)):
                yield name
        if any(map(_differ, _defaults(mine), _defaults(other))):
            yield "__defaults__"


def _defaults(function: types.FunctionType) -> list[Any]:
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _closed(function: types.FunctionType) -> tuple[str, ...]:
    """Variables of an enclosing function, whose values the source of the inner one lacks."""
    return tuple(name for name in function.__code__.co_freevars if name != "__class__")


def functions_behind(value: Any) -> Iterator[types.FunctionType]:
    """The functions behind a method, property or decorator; none behind a class."""
    if isinstance(value, type):
        return
    if isinstance(value, property):
        found: list[Any] = [value.fget, value.fset, value.fdel]
    else:
        inner = getattr(value, "__func__", value)
        found = [getattr(inner, "func", inner)]
    for one in found:
        inner = inspect.unwrap(one) if callable(one) else one
        if isinstance(inner, types.FunctionType):
            yield inner
