"""Code of methods: methods in files (`path/to/file.py:ClassName`), and digests that detect edits.

Specifications hold the absolute path, so that all spellings of a path are one method, equal class
names in two files are two methods, and every worker finds the file.

`source_digest` covers the files on disk, `running_digest` the code that this process imported. Both
cover every Python file of the outermost regular package that contains the class; without a package,
its module and the imported modules in the same folder.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import NamedTuple

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.utils.errors import PluginError, UsageError, suggestion
from fewshot_bench.utils.plugin_code import plugin_code

# Placeholder digest of code whose parts may stem from different states of the files.
CHANGED = "changed while it was imported"
SUFFIXES = (".py", *importlib.machinery.EXTENSION_SUFFIXES)
Stamp = tuple[int, ...]
Stamps = tuple[tuple[str, Stamp], ...]


class Root(NamedTuple):
    """The outermost package of a class with its folders, or its module with its file."""

    name: str
    file: str
    folders: tuple[str, ...] = ()


# Attribute of a class that describes one of another process: its root there.
ROOT_OF_DESCRIBED = "_root"
# By root: the stamps of its files, and their digest.
_DIGESTS: dict[Root, tuple[Stamps, str]] = {}
# By name of a root: a digest, and the modules that were imported while it was valid.
_SEEN: dict[str, tuple[str, frozenset[str]]] = {}
# By name of a root: the number and the last name of all imported modules, and its own.
_LISTED: dict[str, tuple[tuple[int, str], frozenset[str]]] = {}


def source_digest(method: type) -> str:
    """SHA-256 over names and bytes of the Python files of `method`, as they are on disk now.

    Empty without files (a class typed into a prompt).
    """
    root = vars(method).get(ROOT_OF_DESCRIBED) or _find_root(method.__module__)
    return "" if root is None else _digest(root)


def digest_of_module(name: str) -> str:
    """The same over the files of an imported module or of its package; empty without files."""
    root = _find_root(name)
    return "" if root is None else _digest(root)


def describe_root(method: type) -> Root:
    """The facts that another process needs for the digest of a class."""
    return _find_root(method.__module__) or Root("", "")


def running_digest(method: type) -> str:
    """The digest of the code that this process runs, even if files were edited since.

    `CHANGED` if modules were imported both before and after an edit.
    """
    if ROOT_OF_DESCRIBED in vars(method):
        return source_digest(method)
    return note_import(method.__module__)


def note_import(module: str) -> str:
    """Remember the digest of a module's package; call it right after the module was imported.

    Returns the running digest, as `running_digest`; empty if the module is not imported.
    """
    root = _find_root(module)
    if root is None:
        return ""
    now, modules = _digest(root), _list_imported(root.name)
    digest, before = _SEEN.get(root.name, (now, modules))
    if digest == now:
        _SEEN[root.name] = now, modules
        return now
    # An edit does not affect code that was completely imported before it.
    return digest if modules <= before else CHANGED


def note_imports(modules: Iterable[str]) -> None:
    """`note_import` for many modules, of which most are in a few packages."""
    roots = {root.name: name for name in modules if (root := _find_root(name)) is not None}
    for module in roots.values():
        note_import(module)


def is_edited(module: str) -> bool:
    """True if files of an imported module or package changed since its import."""
    root = _find_root(module)
    return root is not None and note_import(module) != _digest(root)


def forget(module: str) -> None:
    """Drop the remembered digest of an unloaded module."""
    _SEEN.pop(module, None)


def _list_imported(root: str) -> frozenset[str]:
    # The last name is that of the latest import; nothing was imported or unloaded since.
    state, listed = (len(sys.modules), next(reversed(sys.modules))), _LISTED.get(root)
    if listed is None or listed[0] != state:
        inner = f"{root}."
        names = [name for name in list(sys.modules) if name.startswith(inner)]
        listed = _LISTED[root] = state, frozenset((root, *names))
    return listed[1]


def _find_root(module: str) -> Root | None:
    """The outermost imported package of a module that is no namespace package, or the module."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        imported = sys.modules.get(name)
        if file := getattr(imported, "__file__", None):
            return Root(name, file, tuple(map(str, getattr(imported, "__path__", ()))))
    return None


def _digest(root: Root) -> str:
    files = sorted(_list_files(root).items()) if root.file else []
    stamps = tuple((name, _stamp(path)) for name, path in files)
    kept = _DIGESTS.get(root)
    if kept is not None and kept[0] == stamps:
        return kept[1]
    text = "".join(f"{name}\0{_digest_file(path)}\n" for name, path in files)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text else ""
    _DIGESTS[root] = stamps, digest
    return digest


def _list_files(root: Root) -> Mapping[str, str]:
    """The files of the digest, by path relative to the folder of the package or module."""
    if root.folders:
        return {name: path for folder in root.folders for name, path in _below(folder)}
    if "." in root.name:
        # In a namespace package, only the folder delimits the code.
        return dict(_below(Path(root.file).parent))
    return _with_beside(Path(root.file))


def _below(folder: str | Path) -> Iterator[tuple[str, str]]:
    # Without a Path per file: each method that a command looks up is compared with its files.
    for where, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name != "__pycache__" and name[0] != "."]
        start = Path(where).relative_to(folder).as_posix()
        for name in names:
            if name.endswith(SUFFIXES):
                yield name if start == "." else f"{start}/{name}", os.path.join(where, name)


def modules_beside(file: Path) -> list[str]:
    """Names of modules and packages in a file's folder that it imports, directly or indirectly."""
    names = {name.partition("/")[0].removesuffix(".py") for name in _with_beside(file)}
    return sorted(names - {file.stem})


def _with_beside(file: Path) -> Mapping[str, str]:
    """A module, and the modules and packages in its folder that it imports, also indirectly."""
    files = {file.name: str(file)}
    if any(file.parent.glob("*.dist-info")):
        # In site-packages, neighboring modules belong to other distributions.
        return files
    todo = [str(file)]
    while todo:
        for name in _imports(todo.pop()):
            module, package = file.parent / f"{name}.py", file.parent / name
            # Same order as import: a module precedes a namespace package of its name.
            is_package = (package / "__init__.py").is_file()
            if module.is_file() and not is_package:
                new = {module.name: str(module)}
            elif is_package or _is_bare_package(name, package):
                new = {f"{name}/{inner}": path for inner, path in _below(package)}
            else:
                continue
            todo += [path for inner, path in new.items() if inner not in files]
            files |= new
    return files


def _is_bare_package(name: str, folder: Path) -> bool:
    """True if `import name` finds this folder without `__init__.py` and nothing before it."""
    if not folder.is_dir():
        return False
    loaded = sys.modules.get(name)
    try:
        spec = importlib.util.find_spec(name) if loaded is None else loaded.__spec__
    except (ImportError, ValueError):
        return False
    places = spec.submodule_search_locations if spec is not None and not spec.has_location else ()
    return any(os.path.realpath(location) == os.path.realpath(folder) for location in places or ())


def _imports(file: str) -> set[str]:
    """Top-level names of all imports in a file, nested ones included; empty if unreadable."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _digest_file(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return "unreadable"


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


def aliases(name: str) -> list[str]:
    """Shorter spellings of a reference, the shortest (`file.py:Class`) first.

    Empty for any other name.
    """
    reference = parts(name)
    if reference is None:
        return []
    pieces = PurePosixPath(reference[0]).parts
    return [f"{'/'.join(pieces[-n:])}:{reference[1]}" for n in range(1, len(pieces))]


def short(name: str) -> str:
    """The name for messages: `file.py:Class` for a reference, other names unchanged."""
    return next(iter(aliases(name)), name)


def short_names(names: Iterable[str]) -> Mapping[str, str]:
    """The shortest spelling of each name that is no spelling of another name."""
    every = sorted(set(names))
    shortest = {}
    for name in every:
        others = {alias for other in every if other != name for alias in (other, *aliases(other))}
        shortest[name] = next((a for a in aliases(name) if a not in others), name)
    return shortest


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
            "docs/plugins.md shows a whole one"
        )
    return value


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
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
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
