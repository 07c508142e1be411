"""Writes method classes of a notebook or a script to files that worker processes can import.

`reference` returns the name of a class for `fsbench run -m`; a class that is not in an importable
file is written into the store, with the definitions, imports and constants that it needs. A file is
named by the digest of its content, so that no two versions of a class share a name.
"""

from __future__ import annotations

import ast
import enum
import functools
import hashlib
import inspect
import json
import os
import re
import subprocess
import symtable
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot_bench.api.method_files import load
from fewshot_bench.api.registry import registry
from fewshot_bench.engines.live_values import (
    difference,
    first_line,
    functions_behind,
    last_line,
    notebook_cells,
    parsed,
    source_of,
    stems_from,
)
from fewshot_bench.store.store import METHODS
from fewshot_bench.utils.errors import PluginError, UsageError
from fewshot_bench.utils.files import make_folder, write_synced

_FUTURE = "from __future__ import annotations"
_PLAIN = (bool, int, float, str, bytes, type(None))
# Immutable values: evaluating their assignment again gives an equal value.
_FIXED = (re.Pattern, typing.TypeVar, types.GenericAlias, types.UnionType)
_STEP = "put the class into a file and pass 'file.py:{}'"


def reference(cls: type, store: Path) -> str:
    """The name of a method's class: registered, or in a file, which is written if necessary.

    UsageError if its source is unavailable, or needs values that a file cannot hold.
    """
    if not callable(getattr(cls, "fit", None)):
        raise UsageError(
            f"{cls!r:.120} is no method: expected a name, or a dataclass with fit(task, backbone, "
            "ctx), or an object of one; docs/plugins.md shows a whole one"
        )
    name = registry().name_of(cls)
    if name:
        return name
    if "." in cls.__qualname__:
        raise UsageError(
            f"{cls.__name__} is defined inside of '{cls.__qualname__.rpartition('.')[0]}', where "
            "worker processes cannot find it: define it at the top level of the file or cell"
        )
    return _written(cls, store)


def _written(cls: type, store: Path) -> str:
    sources = Sources(cls)
    content = sources.text().encode()
    folder = store.absolute() / METHODS / hashlib.sha256(content).hexdigest()[:16]
    path = folder / f"{cls.__name__}.py"
    if not path.is_file() or path.read_bytes() != content:
        make_folder(folder)
        os.replace(write_synced(folder, content), path)
    name = f"{os.path.realpath(path)}:{cls.__name__}"
    sources.check(sys.modules[load(name).__module__])
    return name


@dataclass
class Sources:
    """Collects the definitions that the source of a class needs, in order of dependency."""

    cls: type
    _imports: list[str] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _foreign: dict[str, str] = field(default_factory=dict)
    _own: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Source of a file that defines the class; UsageError for values that it cannot hold."""
        self._define(self.cls.__name__, self.cls)
        _refuse_unreachable(self.cls, self._foreign)
        future = [_FUTURE] if self._has_future else []
        head = f'"""{self.cls.__name__}, as `fewshot_bench.run` was given it."""'
        groups = [head, *future, "\n".join(dict.fromkeys(self._imports)), *self._parts]
        return "\n\n".join(filter(None, groups)) + "\n"

    def check(self, written: types.ModuleType) -> None:
        """UsageError unless the imported file defines what this session has under the names."""
        for name, value in self._own.items():
            changed = difference(value, getattr(written, name, None))
            if not changed:
                continue
            if isinstance(value, type):
                self._refuse_earlier_bases(value)
                raise _set_later(changed, value)
            raise UsageError(
                f"{self.cls.__name__} uses '{name}', which is not what its source alone defines (a "
                "function made by another one, or values that were set later): write it as a "
                f"function of its own, or {_STEP.format(self.cls.__name__)}"
            )

    @functools.cached_property
    def _namespace(self) -> Mapping[str, Any]:
        """The global namespace of the class's source."""
        function = next(_functions(self.cls), None)
        if function is not None:
            return function.__globals__
        # A class with only fields, which inherits all its functions.
        found = vars(sys.modules.get(self.cls.__module__, types))
        if found.get(self.cls.__name__) is not self.cls:
            raise UsageError(self._no_source(self.cls.__name__))
        return found

    def _file_of(self, value: Any) -> str:
        """The file or notebook cell that defines a class; by its text if it has only fields."""
        function = next(_functions(value), None)
        if function is not None:
            return function.__code__.co_filename
        files = [one.__code__.co_filename for one in _functions(self.cls)][:1]
        if files and _definition(source_of(files[0]), value.__name__, None) is not None:
            # `check` compares what it defines.
            return files[0]
        files += [str(self._namespace["__file__"])] if "__file__" in self._namespace else []
        files += notebook_cells()
        nodes = {file: _definition(source_of(file), value.__name__, None) for file in files}
        found = [(file, node) for file, node in nodes.items() if node is not None]
        for file, node in found:
            # `check` compares what the only definition gives.
            if len(found) == 1 or _defines(node, value, self._namespace):
                return file
        self._refuse_earlier_bases(value)
        raise UsageError(self._no_source(value.__name__))

    def _refuse_earlier_bases(self, cls: type) -> None:
        """UsageError if a class inherits from one whose name has another class by now."""
        for base in cls.__bases__:
            now = self._namespace.get(base.__name__)
            if self._is_own(base) and isinstance(now, type) and difference(base, now):
                raise UsageError(
                    f"{cls.__name__} inherits from an earlier definition of {base.__name__}: run "
                    f"the cell of {cls.__name__} again"
                )

    @functools.cached_property
    def _has_future(self) -> bool:
        flag = __import__("__future__").annotations.compiler_flag
        return any(one.__code__.co_flags & flag for one in _functions(self.cls))

    def _define(self, name: str, value: Any) -> None:
        """Add the import, definition or assignment that binds `name` to `value`."""
        if name in self._seen:
            return
        self._seen.add(name)
        if isinstance(value, types.ModuleType):
            self._import(f"import {value.__name__} as {name}", value.__name__)
        elif self._is_own(value):
            self._add_definition(name, value)
        elif found := _importable(name, value):
            module, attribute = found
            self._import(f"from {module} import {attribute} as {name}", module)
        elif (text := _literal(value)) is not None:
            self._parts.append(f"{name} = {text}")
        elif found := next(self._imported(name, value), None):
            module, attribute = found
            self._import(f"from {module} import {attribute} as {name}", module)
        elif isinstance(value, _FIXED) or typing.get_origin(value) is not None:
            self._add_statement(name)
        else:
            raise UsageError(
                f"{self.cls.__name__} uses '{name}', a {type(value).__name__} of this session, "
                "which the processes that run cells cannot have: make it in fit, or a "
                f"hyper-parameter of it, or {_STEP.format(self.cls.__name__)}"
            )

    def _imported(self, name: str, value: Any) -> Iterator[tuple[str, str]]:
        """Module and attribute of a value that does not state them, such as an alias of a type.

        From the `from` imports of the source of the class and of all notebook cells.
        """
        for file in dict.fromkeys([self._file_of(self.cls), *notebook_cells()]):
            for node in ast.walk(parsed(source_of(file))):
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    for part in node.names:
                        attribute = name if part.name == "*" else part.name
                        bound = part.asname or attribute
                        module = sys.modules.get(node.module)
                        if bound == name and getattr(module, attribute, self) is value:
                            yield node.module, attribute

    def _is_own(self, value: Any) -> bool:
        own = isinstance(value, type) or callable(getattr(value, "__wrapped__", value))
        where = getattr(value, "__module__", None)
        return own and where == self._namespace.get("__name__") and hasattr(value, "__qualname__")

    def _import(self, line: str, module: str) -> None:
        name = line.rpartition(" as ")[2]
        self._imports.append(line.removesuffix(f" as {name}") if line.split()[-3] == name else line)
        self._foreign.setdefault(module.partition(".")[0], name)

    def _add_definition(self, name: str, value: Any) -> None:
        self._own[name] = value
        text = self._source(name, value)
        for used in _names(text, self._has_future):
            self._use(used)
        for used in _annotations(text):
            self._use(used, needed=False)
        for line in _submodules(text, self._namespace):
            self._import(line, line.split()[1])
        self._parts.append(text)
        if value.__name__ not in (name, "<lambda>"):
            self._parts.append(f"{name} = {value.__name__}")

    def _use(self, name: str, *, needed: bool = True) -> None:
        if name not in self._namespace:
            return
        before = [*self._seen]
        try:
            self._define(name, self._namespace[name])
        except UsageError:
            if needed:
                raise
            self._seen = set(before)

    def _add_statement(self, name: str) -> None:
        """Add the only assignment of a name in the source of the class, else UsageError."""
        source = source_of(self._file_of(self.cls))
        found = [node for node in ast.parse(source).body if _assigns(node, name)]
        if len(found) != 1:
            raise UsageError(
                f"{self.cls.__name__} uses '{name}', which its own cell or file does not assign "
                f"just once: assign it there, or {_STEP.format(self.cls.__name__)}"
            )
        text = _segment(source, found[0])
        for used in _names(text, False):
            if used != name:
                self._use(used)
        self._parts.append(text)

    def _source(self, name: str, value: Any) -> str:
        """The source of a class or function; UsageError if it does not match the running code."""
        if isinstance(value, type):
            self._refuse_replaced(value)
        written = (f for f in _functions(value) if f.__qualname__.startswith(value.__qualname__))
        function = next(written, None)
        code = None if function is None else function.__code__
        file = self._file_of(value) if code is None else code.co_filename
        source = source_of(file)
        node = _definition(source, value.__name__, None if code is None else code.co_firstlineno)
        if node is None:
            raise UsageError(self._no_source(name))
        if code is not None and not stems_from(code, source):
            raise UsageError(
                f"the source of {name} was changed after it was defined: run its cell, or start "
                "the script, again"
            )
        return _segment(source, node)

    def _refuse_replaced(self, cls: type) -> None:
        """UsageError for a function that was set after the class was defined."""
        for name, function in _named_functions(cls):
            if not function.__qualname__.startswith(f"{cls.__qualname__}.") and (
                "<locals>" not in function.__qualname__
            ):
                raise _set_later(name, cls)

    def _no_source(self, name: str) -> str:
        return (
            f"the source of {name} cannot be had (it was typed into a prompt, made by exec, or has "
            f"several texts in this session): define it in the cell or script of "
            f"{self.cls.__name__}, or {_STEP.format(self.cls.__name__)}"
        )


def _set_later(name: str, cls: type) -> UsageError:
    return UsageError(
        f"'{name}' of {cls.__name__} was set after the class was defined, so that its source is "
        "not what runs: write it into the class"
    )


def _functions(value: Any) -> Iterator[types.FunctionType]:
    """The function itself, or the functions in the source of a class."""
    if isinstance(value, type):
        yield from (function for _, function in _named_functions(value))
    else:
        inner = inspect.unwrap(value)
        if isinstance(inner, types.FunctionType):
            yield inner


def _named_functions(cls: type) -> Iterator[tuple[str, types.FunctionType]]:
    for name, value in vars(cls).items():
        for one in functions_behind(value):
            # Methods generated by dataclasses have no source.
            if one.__module__ == cls.__module__ and one.__code__.co_filename != "<string>":
                yield name, one


def _definition(source: str, name: str, line: int | None) -> ast.stmt | None:
    """The statement that defines a name, around `line` if given; None unless exactly one does."""
    found = [
        node
        for node in ast.walk(parsed(source))
        if (isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name)
        or (isinstance(node, ast.Assign) and name == "<lambda>")
    ]
    if line is not None:
        found = [node for node in found if first_line(node) <= line <= last_line(node)]
    return found[0] if len(found) == 1 else None


def _is_same(one: Any, other: Any) -> bool:
    """True for one class, or for two of one definition that was run twice."""
    if one is other:
        return True
    classes = isinstance(one, type) and isinstance(other, type)
    return classes and one.__name__ == other.__name__ and not difference(one, other)


def _defines(node: ast.stmt, cls: Any, namespace: Mapping[str, Any]) -> bool:
    """True if a definition with only fields matches a class: bases, field names and values.

    False also for values that cannot be derived from the text.
    """
    if not isinstance(node, ast.ClassDef) or not isinstance(cls, type):
        return False
    bases = [_value(base, namespace) for base in node.bases] or [object]
    if len(bases) != len(cls.__bases__) or not all(map(_is_same, cls.__bases__, bases)):
        return False
    names = []
    for one in node.body:
        if isinstance(one, ast.Pass) or (
            isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
        ):
            continue
        if not isinstance(one, ast.Assign | ast.AnnAssign):
            return False
        stated = _UNKNOWN if one.value is None else _value(one.value, namespace)
        if one.value is not None and stated is _UNKNOWN:
            return False
        targets = one.targets if isinstance(one, ast.Assign) else [one.target]
        for target in targets:
            if not isinstance(target, ast.Name):
                return False
            actual = vars(cls).get(target.id, _UNKNOWN)
            actual = actual.value if isinstance(actual, enum.Enum) else actual
            if type(stated) is not type(actual) or stated != actual:
                return False
        names += [ast.unparse(one.target)] if isinstance(one, ast.AnnAssign) else []
    return names == list(inspect.get_annotations(cls))


_UNKNOWN = object()


def _value(node: ast.expr, namespace: Mapping[str, Any]) -> Any:
    """The value of a literal, a name, or the default in the first argument of `fb.hyper(...)`."""
    if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith("hyper"):
        return _value(node.args[0], namespace)
    if isinstance(node, ast.Name):
        return namespace.get(node.id, _UNKNOWN)
    if isinstance(node, ast.Attribute):
        return getattr(_value(node.value, namespace), node.attr, _UNKNOWN)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return _UNKNOWN


def _segment(source: str, node: ast.stmt) -> str:
    lines = source.split("\n")[first_line(node) - 1 : node.end_lineno]
    return textwrap.dedent("\n".join(lines))


def _assigns(node: ast.stmt, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(one, ast.Name) and one.id == name for one in targets)


def _names(text: str, future: bool) -> list[str]:
    """The global names that a definition uses."""
    table = symtable.symtable(f"{_FUTURE}\n{text}" if future else text, "<definition>", "exec")
    found = [one.get_name() for one in table.get_symbols() if one.is_referenced()]
    todo = table.get_children()
    while todo:
        inner = todo.pop()
        found += [one.get_name() for one in inner.get_symbols() if one.is_global()]
        todo += inner.get_children()
    return list(dict.fromkeys(found))


def _annotations(text: str) -> Iterator[str]:
    """The names in annotations, which may be needed to read the types of hyper-parameters."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.AnnAssign):
            yield from _named_in(node.annotation)


def _named_in(annotation: ast.expr) -> Iterator[str]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                yield from _named_in(ast.parse(node.value, mode="eval").body)
            except SyntaxError:
                continue


def _submodules(text: str, namespace: Mapping[str, Any]) -> Iterator[str]:
    """Import lines for modules that are used as `package.module`."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Attribute):
            continue
        parts = ast.unparse(node).split(".")
        value = namespace.get(parts[0])
        if isinstance(value, types.ModuleType) and all(map(str.isidentifier, parts)):
            name = ".".join([value.__name__, *parts[1:]])
            if value.__name__ == parts[0] and isinstance(sys.modules.get(name), types.ModuleType):
                yield f"import {name} as {name}"


def _importable(name: str, value: Any) -> tuple[str, str] | None:
    """The module and attribute from which a value can be imported; None if there are none."""
    module = getattr(value, "__module__", None)
    if not isinstance(module, str) or module == "__main__":
        return None
    for attribute in (getattr(value, "__qualname__", ""), getattr(value, "_name", ""), name):
        # Some types of `typing` have None for a name.
        if attribute and getattr(sys.modules.get(module), attribute, None) is value:
            return module, attribute
    return None


def _literal(value: Any) -> str | None:
    """Source text of a value of plain types; None for others."""
    if type(value) is float:
        text = repr(value)
        return text if text.lstrip("-")[0].isdigit() else f'float("{text}")'
    if type(value) in _PLAIN:
        return repr(value)
    if type(value) is dict:
        pairs = [(_literal(key), _literal(item)) for key, item in value.items()]
        texts = [f"{key}: {item}" for key, item in pairs if key and item]
        return f"{{{', '.join(texts)}}}" if len(texts) == len(value) else None
    if type(value) in (list, tuple, set, frozenset):
        items = [part for item in value if (part := _literal(item)) is not None]
        if len(items) < len(value):
            return None
        # The order of sets differs between processes: sort for a stable digest.
        listed = ", ".join(sorted(items) if isinstance(value, set | frozenset) else items)
        return f"[{listed}]" if type(value) is list else f"{type(value).__name__}([{listed}])"
    return None


def _refuse_unreachable(cls: type, modules: Mapping[str, str]) -> None:
    """UsageError for a module that only this process can import."""
    asked = sorted(set(modules) - sys.stdlib_module_names - {"fewshot_bench", "torch", "numpy"})
    lost = _unreachable(tuple(asked)) if asked else []
    if lost:
        raise UsageError(
            f"{cls.__name__} uses the module '{lost[0]}', which worker processes cannot import (it "
            "lies beside the script or notebook): put the class into a file beside it and pass "
            f"'file.py:{cls.__name__}', or name its folder in PYTHONPATH before Python starts"
        )


@functools.cache
def _unreachable(modules: tuple[str, ...]) -> list[str]:
    """Modules not found by a process that is started like a worker."""
    code = (
        "import importlib.util, json, sys\n"
        "print(json.dumps([m for m in sys.argv[1:] if importlib.util.find_spec(m) is None]))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *modules], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PluginError(f"cannot find out which modules worker processes have: {done.stderr}")
    found: list[str] = json.loads(done.stdout)
    return found
