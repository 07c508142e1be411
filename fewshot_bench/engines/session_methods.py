"""Method classes of a notebook or a script, packed by cloudpickle into files that workers import.

`reference` returns the name of a class for `fsbench run -m`. A class that is in no importable file
is written into the store with all that it uses. The file is named by `digest_class`: a class
that changes is another method, and one that does not is the same one in the next session.
"""

from __future__ import annotations

import ast
import base64
import copyreg
import dataclasses
import dis
import functools
import hashlib
import importlib.util
import io
import linecache
import os
import re
import sys
import sysconfig
import textwrap
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle

from fewshot_bench.api import code_closure
from fewshot_bench.api.code_closure import SUFFIXES, list_data, with_beside
from fewshot_bench.api.method_code import derive_name
from fewshot_bench.api.own_methods import LONG, own_method, read_kept
from fewshot_bench.api.registry import registry
from fewshot_bench.store.kept_methods import keep
from fewshot_bench.store.store import METHODS
from fewshot_bench.utils.errors import UsageError

_FILE = '''"""{name}, as `fewshot_bench.run` was given it in a session, packed by cloudpickle."""

import base64

import cloudpickle

{name}, names = cloudpickle.loads(
    base64.b85decode(
{packed}
    )
)
# Types of hyper-parameters and kept classifiers are looked up here.
globals().update(names)
for value in ({name}, *names.values()):
    if isinstance(value, type) and value.__module__ == {module!r}:
        value.__module__ = __name__
getattr({name}.fit, "__globals__", {{}}).update(names)

# Its source:
#
{source}
'''
# By name: the fields of an unpickled dataclass compare with it by identity.
copyreg.pickle(type(dataclasses.MISSING), lambda value: "MISSING")
# Values that are pickled as they are.
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), list, tuple, dict)
# Attributes of a class that follow from others, or say where it stands.
_MADE = frozenset(
    {
        *("__module__", "__dict__", "__weakref__", "__qualname__", "__doc__", "_abc_impl"),
        *("__dataclass_fields__", "__firstlineno__", "__static_attributes__", "__slots__"),
        *("__annotate_func__", "__annotations_cache__", "__conditional_annotations__"),
    }
)


def reference(cls: type, store: Path) -> str:
    """The name of a method's class: registered, or in a file, which is written if necessary.

    UsageError if it uses what no other process can have.
    """
    if not callable(getattr(cls, "fit", None)):
        raise UsageError(
            f"{cls!r:.120} is no method: expected a name, or a dataclass with fit(task, backbone, "
            "ctx), or an object of one; docs/reference/method-contract.md shows a whole one"
        )
    name = registry().name_of(cls)
    if name:
        return name
    closure = Closure(cls)
    folder, file = store.absolute() / METHODS / closure.digest[:LONG], f"{cls.__name__}.py"
    where = f"{os.path.realpath(folder / file)}:{cls.__name__}"
    if read_kept(where) is None:
        content = _write(cls, closure.names).encode("utf-8", "surrogateescape")
        files = {**closure.list_files(), file: content}
        given = cls, file, cls.__name__, files, closure.digest, "", where
        keep(store.absolute(), own_method(*given))
    return where


def _write(cls: type, names: dict[str, Any]) -> str:
    """The text of a file that defines a class."""
    packed = base64.b85encode(_pack(cls, names)).decode()
    lines = [f'        b"{packed[start : start + 80]}"' for start in range(0, len(packed), 80)]
    source = _find_source(cls) or "unknown: it was typed into a prompt, or made by a function"
    return _FILE.format(
        name=cls.__name__,
        packed="\n".join(lines),
        module=cls.__module__,
        source=textwrap.indent(source, "# ", lambda line: True).rstrip(),
    )


def _find_source(cls: type) -> str:
    """The text of a class in the script or the notebook cell that defines `fit`, for readers."""
    code = getattr(getattr(cls, "fit", None), "__code__", None)
    text = "" if code is None else "".join(linecache.getlines(code.co_filename))
    with suppress(SyntaxError):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                return ast.get_source_segment(text, node) or ""
    return ""


def _pack(cls: type, names: dict[str, Any]) -> bytes:
    """The class and the names that it uses; those of annotations only where that is possible."""
    kept = {}
    for name, value in names.items():
        with suppress(Exception):
            cloudpickle.dumps(value)
            kept[name] = value
    stream = io.BytesIO()
    try:
        _Packer(stream, 5).dump((cls, kept))
    except Exception as error:
        raise UsageError(
            f"{cls.__name__} uses what the processes that run cells cannot have ({error}): make it "
            "in fit, or a hyper-parameter of it, or put the class into a file and pass "
            f"'file.py:{cls.__name__}'"
        ) from error
    return stream.getvalue()


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    """Packs functions without the folder of their file, which names a machine and its user."""

    def reducer_override(self, value: Any) -> Any:
        """How a value is pickled: code with the mere name of its file, functions without."""
        if isinstance(value, types.CodeType):
            code = value.replace(co_filename=os.path.basename(value.co_filename))
            return self.dispatch_table[types.CodeType](code)
        reduced = super().reducer_override(value)
        if isinstance(value, types.FunctionType) and isinstance(reduced, tuple):
            # One that needs it has it among the names.
            reduced[1][1].pop("__file__", None)
        return reduced


def digest_class(cls: type) -> str:
    """SHA-256 of a class: of its code, defaults and attributes, and of all of these that it uses.

    Files of other projects count by their content, installed libraries by their names.
    """
    return Closure(cls).digest


class Closure(cloudpickle.Pickler):  # type: ignore[misc]
    """The parts of its own module that a class uses. names: by global name. digest: of all of them.

    The class is pickled without what differs between sessions: places of code, the order of sets.
    """

    def __init__(self, cls: type) -> None:
        stream = io.BytesIO()
        super().__init__(stream, 5)
        # Whether two equal values are one object says nothing.
        self.fast = True
        self.names: dict[str, Any] = {}
        self._beside: set[str] = set()
        self._module = cls.__module__
        # By identity; values stay alive, as ids of others are reused.
        self._seen: dict[int, Any] = {}
        self.dump(cls)
        self.digest = hashlib.sha256(stream.getvalue()).hexdigest()

    def list_files(self) -> dict[str, bytes]:
        """The modules of other projects that the class uses, by path from where they are found."""
        files: dict[str, bytes] = {}
        for name in sorted(self._beside):
            files |= {inner: Path(path).read_bytes() for inner, path in _files_of(name).items()}
        return files

    def _describe_module(self, name: str) -> tuple[str, ...]:
        """A module: installed ones by name, those of other projects by their files, too."""
        file = getattr(sys.modules.get(name), "__file__", None)
        if not file or _is_installed(file):
            return (name,)
        self._beside.add(name)
        return name, str(code_closure.digest_of_module(name))

    def persistent_id(self, value: Any) -> Any:
        """The object to pickle in place of a value; None for the value as it is."""
        if isinstance(value, types.ModuleType):
            return self._describe_module(value.__name__)
        if isinstance(value, types.CodeType):
            names = value.co_names, value.co_varnames, value.co_freevars
            return value.co_code, *names, value.co_flags, value.co_consts
        if isinstance(value, set | frozenset):
            return sorted(map(repr, value))
        if not isinstance(value, type | types.FunctionType):
            return None if isinstance(value, _PLAIN) else self._describe_object(value)
        if id(value) in self._seen:
            return value.__qualname__
        self._seen[id(value)] = value
        if value.__module__ != self._module:
            return value.__qualname__, self._describe_module(str(value.__module__))
        parts = self._describe_class if isinstance(value, type) else self._describe_function
        return value.__qualname__, *parts(value)

    def _describe_object(self, value: Any) -> Any:
        """The function that an object wraps, the bytes of a tensor, what is known of another."""
        if callable(wrapped := getattr(value, "__wrapped__", None)):
            return wrapped
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            # Its pickle differs between sessions.
            plain = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            return str(value.dtype), tuple(value.shape), plain.numpy().tobytes()
        try:
            cloudpickle.dumps(value, 5)
        except Exception:
            # That of `cached_property` is in `func`.
            return type(value), getattr(value, "func", None)
        return None

    def _describe_class(self, cls: Any) -> Iterator[Any]:
        yield cls.__bases__
        yield type(cls)
        members: Mapping[str, Any] = getattr(cls, "__members__", {})
        yield {name: member.value for name, member in members.items()}
        for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
            yield field.name, field.default_factory, dict(field.metadata)
        for name, value in vars(cls).items():
            if name == "__annotations__":
                yield from self._describe_annotations(value)
            elif name in _MADE or name in members or (members and name.startswith("_")):
                continue
            elif name == "name" and value == derive_name(cls.__name__):
                # `load` gives this one to a class without a name.
                continue
            elif not _is_generated(value):
                yield name, value

    def _describe_annotations(self, annotations: Mapping[str, Any]) -> Iterator[Any]:
        namespace = vars(sys.modules.get(self._module, types))
        for name, kind in annotations.items():
            text = kind if isinstance(kind, str) else getattr(kind, "__qualname__", repr(kind))
            yield name, text
            for used in re.findall(r"[^\W\d]\w*", text):
                if used in namespace:
                    self.names.setdefault(used, namespace[used])

    def _describe_function(self, function: Any) -> Iterator[Any]:
        yield function.__code__
        yield function.__defaults__, function.__kwdefaults__, vars(function)
        for cell in function.__closure__ or ():
            with suppress(ValueError):
                # A variable without a value.
                yield cell.cell_contents
        names = [*_list_names(function.__code__, "LOAD_GLOBAL", "LOAD_NAME")]
        if "globals" in names:
            # As a text: `globals()["name"]`.
            names += [n for n in _list_names(function.__code__, "LOAD_CONST") if isinstance(n, str)]
        for name in names:
            if name in function.__globals__:
                self.names[name] = function.__globals__[name]
                yield name, function.__globals__[name]
        for name in _list_names(function.__code__, "IMPORT_NAME"):
            if _is_own(name):
                yield self._describe_module(importlib.import_module(name).__name__)


def _is_generated(value: Any) -> bool:
    """True for a function that `dataclass` made: it follows from the fields."""
    code = getattr(value, "__code__", None)
    return getattr(code, "co_filename", "") == "<string>" and value.__name__.startswith("__")


def _list_names(code: types.CodeType, *operations: str) -> Iterator[str]:
    """The names that a function and those inside of it load, or import."""
    for operation in dis.get_instructions(code):
        if operation.opname in operations:
            yield operation.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _list_names(constant, *operations)


def _files_of(module: str) -> Mapping[str, str]:
    """The files of a module or of its package, by path from the folder where it is found."""
    file = Path(str(sys.modules[module].__file__))
    depth = module.count(".") + (file.stem == "__init__")
    if not depth:
        return {**with_beside(file), **list_data(file)}
    found = file.parents[depth]
    inside = sorted((found / module.partition(".")[0]).rglob("*"))
    return {path.relative_to(found).as_posix(): str(path) for path in inside if _is_code(path)}


def _is_own(module: str) -> bool:
    """True for a module of another project than Python and installed libraries."""
    try:
        found = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return False
    return found is not None and bool(found.origin) and not _is_installed(str(found.origin))


def _is_code(path: Path) -> bool:
    return path.name.endswith(SUFFIXES) and "__pycache__" not in path.parts and path.is_file()


@functools.cache
def _is_installed(file: str) -> bool:
    """True for a file of Python or of an installed library."""
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {str(Path(__file__).parents[1]), *(p for p in sys.path if "site-packages" in p)}
    return any(Path(file).is_relative_to(folder) for folder in folders if folder)
