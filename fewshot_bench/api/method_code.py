"""Methods in files (`path/to/file.py:ClassName`): references to them, and their import.

A reference is how a user names a class; what specifications hold is in `own_methods.py`. Files of a
store that hold an author's code are imported under the names of the author's own files, as long as
these have the same content: tracebacks, debuggers and coverage name them.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.util
import linecache
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.code_closure import forget, is_edited, modules_beside, note_import
from fewshot_bench.utils.errors import PluginError, UsageError, suggestion
from fewshot_bench.utils.plugin_code import plugin_code

_REFERENCE = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)", re.DOTALL)


def parts(name: str) -> tuple[str, str] | None:
    """Path and class of a reference to a file; None for any other name."""
    match = _REFERENCE.fullmatch(name)
    return (match["file"], match["name"]) if match else None


def is_meant(name: str) -> bool:
    """True if a name has the form `file.py:Class`, even incomplete."""
    return parts(name) is not None or name.endswith(".py") or ".py:" in name


def canonical(name: str) -> str:
    """A reference with its absolute path, links resolved; any other name unchanged."""
    pieces = parts(name)
    if pieces is None:
        return name
    file, cls = pieces
    return f"{os.path.realpath(os.path.expanduser(file))}:{cls}"


EXAMPLE = "path/to/file.py:ClassName"
# Modules of imported files have this name, and a digest of the path.
FILE_MODULE = "fsbench_file_"
# Most classes that an error message lists.
MOST_NAMED = 8
_MODULES: dict[Path, ModuleType] = {}
# The file that a thread imports at the moment.
_importing: ContextVar[Path | None] = ContextVar("importing", default=None)


def load(name: str) -> type:
    """The class that a reference names.

    UsageError if the file or class does not exist, PluginError if the file cannot be imported or
    the class is no method.
    """
    reference = parts(canonical(name))
    if reference is None:
        raise UsageError(_incomplete(name))
    path, cls = Path(reference[0]), reference[1]
    if not path.is_file():
        raise UsageError(_absent(path))
    if path not in _MODULES:
        _MODULES[path] = _execute(path)
    value = getattr(_MODULES[path], cls, None)
    if value is None:
        classes = _classes(path)
        raise UsageError(
            f"'{path}' has no class '{cls}'{suggestion(cls, classes)}{_list_classes(classes)}"
        )
    if not isinstance(value, type) or not callable(getattr(value, "fit", None)):
        kind = "class without fit(task, backbone, ctx)" if isinstance(value, type) else "no class"
        raise PluginError(
            f"'{cls}' in '{path}' is no method ({kind}): expected a frozen dataclass with fit; "
            "docs/reference/method-contract.md shows a whole one"
        )
    if getattr(value, "name", None) is None:
        with suppress(Exception):
            value.name = name_of(value)  # type: ignore[attr-defined]
    return value


def name_of(kind: type) -> str:
    """The `name` of a method's class, or the one that follows from the name of the class."""
    name = getattr(kind, "name", None)
    return derive_name(kind.__name__) if name is None else str(name)


def derive_name(kind: str) -> str:
    """The name of a method whose class states none.

    >>> derive_name("CLIPAdapter2")
    'clip-adapter2'
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", kind)
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "method"


def _incomplete(name: str) -> str:
    file, _, cls = name.partition(".py")
    path = Path(os.path.expanduser(f"{file}.py"))
    if cls.strip(":"):
        return f"method '{name}': '{cls.strip(':')}' names no class; expected {EXAMPLE}"
    if not path.is_file():
        return _absent(path)
    classes = _classes(path)
    example = f"{file}.py:{classes[0]}" if classes else EXAMPLE
    wrong = f"method '{name}' names a file and no class in it"
    return f"{wrong}: expected {example}{_list_classes(classes)}"


def _absent(path: Path) -> str:
    if path.is_dir():
        return f"'{path}' is a folder: expected a method as {EXAMPLE}"
    where = f" ('{path.parent}' is no folder)"
    if path.parent.is_dir():
        where = suggestion(path.name, [file.name for file in path.parent.glob("*.py")])
    return f"there is no file '{path}'{where}; expected {EXAMPLE}"


def _classes(path: Path) -> list[str]:
    """The names of a file's classes; only those with `fit` if there are any."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, ValueError, SyntaxError):
        return []
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    fitting = [
        node
        for node in classes
        if any(isinstance(part, ast.FunctionDef) and part.name == "fit" for part in node.body)
    ]
    return [node.name for node in fitting or classes]


def _list_classes(classes: Sequence[str]) -> str:
    return f" (classes there: {', '.join(classes[:MOST_NAMED])})" if classes else ""


def refuse_run_during_import() -> None:
    """UsageError in a file that is imported for a class of it: workers would run cells too."""
    path = _importing.get()
    if path is not None:
        raise UsageError(
            f"{path.name} runs cells whenever it is imported, as workers do for a class of it: put "
            "the call below if __name__ == '__main__':, or the class into a file of its own"
        )


def is_imported(path: Path) -> bool:
    """True if this process has imported a file for a class of it."""
    return path in _MODULES


def refresh() -> None:
    """Unload files that were edited since their import, so that the next use reloads them.

    For a process that plans several runs; never call it during a run, whose code must not change.
    """
    for path, module in list(_MODULES.items()):
        if is_edited(module.__name__):
            for name in modules_beside(path):
                if _lies_in(getattr(sys.modules.get(name), "__file__", None), path.parent):
                    del sys.modules[name]
            del _MODULES[path], sys.modules[module.__name__]
            forget(module.__name__)


def _execute(path: Path) -> ModuleType:
    """Import a file as a new module, without bytecode files and from exactly the recorded bytes."""
    name = f"{FILE_MODULE}{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}") from None
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # At the end, so that files beside the method do not shadow installed packages.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    _refuse_shadowed(path)
    # Dataclasses look up their module in sys.modules.
    sys.modules[name] = module
    token = _importing.set(path)
    try:
        with plugin_code():
            code = compile(source, _shown(str(path), source), "exec", dont_inherit=True)
            exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        reason = error_text(error, path.stem)
        raise PluginError(f"'{path}' cannot be imported: {reason}") from error
    finally:
        _importing.reset(token)
    if path.read_bytes() != source:
        del sys.modules[name]
        raise PluginError(f"'{path}' was changed while it was imported; run again")
    note_import(name)
    return module


def _refuse_shadowed(path: Path) -> None:
    """PluginError if an import of a module beside the file would find another module."""
    for name in modules_beside(path):
        loaded = getattr(sys.modules.get(name), "__file__", None)
        spec = importlib.machinery.PathFinder.find_spec(name)
        # A namespace package has no origin; the first of its search locations wins.
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        got = loaded or (spec.origin if spec is not None else None) or next(iter(places), None)
        if name in sys.builtin_module_names or not _lies_in(got, path.parent):
            raise PluginError(
                f"'{path.name}' imports '{name}', which lies beside it, but would get another one"
                f" ({got or 'built into Python'}): give the module in '{path.parent}' another name"
            )


def _lies_in(file: str | None, folder: Path) -> bool:
    return file is not None and Path(os.path.realpath(file)).is_relative_to(folder)


# By folder of a store with an author's code: the author's folder, if it is on this machine.
_AUTHORS: dict[str, str] = {}


def name_files_after(folder: Path, author: str) -> None:
    """Import files of a folder under the names of those in the author's folder, where equal."""
    if not _AUTHORS:
        sys.path_hooks.insert(0, _find_in)
    _AUTHORS[os.path.realpath(folder)] = author


def _find_in(path: str) -> Any:
    """A finder of modules for a folder that `name_files_after` was given, or one inside of it."""
    if not any(Path(os.path.realpath(path)).is_relative_to(folder) for folder in _AUTHORS):
        raise ImportError(f"'{path}' holds no code of a method")
    extensions = importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES
    return importlib.machinery.FileFinder(path, extensions, (_Loader, [".py"]))


class _Loader(importlib.machinery.SourceFileLoader):
    """Imports a file of a store, without reading or writing a bytecode file."""

    def path_stats(self, path: Any) -> Any:
        raise OSError(f"no bytecode of '{path}'")

    def source_to_code(  # type: ignore[override]
        self, data: Any, path: Any, *, _optimize: int = -1
    ) -> CodeType:
        code: CodeType = compile(
            data, _shown(str(path), bytes(data)), "exec", dont_inherit=True, optimize=_optimize
        )
        return code


def _shown(path: str, source: bytes) -> str:
    """The name that code of a file gets: of the author's file with this content, or its own."""
    for folder, author in _AUTHORS.items():
        if author and Path(path).is_relative_to(folder):
            own = Path(author, os.path.relpath(path, folder))
            with suppress(OSError, SyntaxError, UnicodeDecodeError):
                if own.read_bytes() == source:
                    # As it is now, should it be edited while this code runs.
                    lines = importlib.util.decode_source(source).splitlines(keepends=True)
                    linecache.cache[str(own)] = len(source), None, lines, str(own)
                    return str(own)
    return path
