"""Digests of the source of a method, so that an edit of it is noticed.

`source_digest` is of the files as they lie on the disk, `running_digest` of what this process has
imported of them. Both cover every Python file of the outermost regular package that defines the
class; where there is none, its module and those that lie beside it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

# Stands for the digest of code of which an older and a newer state may have run together.
CHANGED = "changed while it was imported"
SUFFIXES = (".py", *importlib.machinery.EXTENSION_SUFFIXES)
Stamp = tuple[int, ...]
Stamps = tuple[tuple[str, Stamp], ...]


@dataclass(frozen=True)
class _Seen:
    """A digest that was right when just these modules were imported."""

    digest: str
    modules: frozenset[str]


_DIGESTS: dict[str, tuple[Stamps, str]] = {}
_SEEN: dict[str, _Seen] = {}


def source_digest(method: type) -> str:
    """SHA-256 over the names and bytes of the Python files that `method` comes from, as they are.

    Empty where there are none (a class that was typed into a prompt).
    """
    root = _root(method.__module__)
    return "" if root is None else _digest(root)


def running_digest(method: type) -> str:
    """The digest of the code that runs in this process, also where files were edited since.

    `CHANGED` where a part was imported before an edit and a part after it.
    """
    return note_import(method.__module__)


def note_import(module: str) -> str:
    """Remember the digest of a module's package, if it is imported; to be called right after that.

    Returns what `running_digest` does.
    """
    root = _root(module)
    if root is None:
        return ""
    now, modules, seen = _digest(root), _imported(root.__name__), _SEEN.get(root.__name__)
    if seen is None or seen.digest == now:
        _SEEN[root.__name__] = _Seen(now, modules)
        return now
    # An edit is of no account for what was imported whole before it.
    return seen.digest if modules <= seen.modules else CHANGED


def is_edited(module: str) -> bool:
    """True when files of an imported module or package are other ones than when it was imported."""
    root = _root(module)
    return root is not None and note_import(module) != _digest(root)


def forget(module: str) -> None:
    """Let go of what is known of a module that was unloaded."""
    _SEEN.pop(module, None)


def _imported(root: str) -> frozenset[str]:
    inner = f"{root}."
    return frozenset(name for name in list(sys.modules) if name == root or name.startswith(inner))


def _root(module: str) -> ModuleType | None:
    """The outermost imported package around a module that is no namespace, or the module."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        found = sys.modules.get(".".join(parts[:count]))
        if getattr(found, "__file__", None):
            return found
    return None


def _digest(root: ModuleType) -> str:
    files = _files(root)
    stamps = tuple((name, _stamp(path)) for name, path in sorted(files.items()))
    kept = _DIGESTS.get(root.__name__)
    if kept is not None and kept[0] == stamps:
        return kept[1]
    lines = (f"{name}\0{_digest_of_file(path)}\n" for name, path in sorted(files.items()))
    text = "".join(lines)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text else ""
    _DIGESTS[root.__name__] = stamps, digest
    return digest


def _files(root: ModuleType) -> Mapping[str, Path]:
    """The files that count, by their names below the folder of the package or module."""
    folders = [Path(folder) for folder in getattr(root, "__path__", ())]
    if folders:
        return {name: path for folder in folders for name, path in _below(folder)}
    file = Path(str(root.__file__))
    if "." in root.__name__:
        # A package without `__init__.py`: nothing says where it ends but its folder.
        return dict(_below(file.parent))
    return _with_beside(file)


def _below(folder: Path) -> Iterator[tuple[str, Path]]:
    for where, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name != "__pycache__" and name[0] != "."]
        for name in names:
            if name.endswith(SUFFIXES):
                path = Path(where, name)
                yield path.relative_to(folder).as_posix(), path


def modules_beside(file: Path) -> list[str]:
    """The names of the modules and packages in the folder of a file that it, or these, import."""
    names = {name.partition("/")[0].removesuffix(".py") for name in _with_beside(file)}
    return sorted(names - {file.stem})


def _with_beside(file: Path) -> Mapping[str, Path]:
    """A module and the modules and packages in its folder that it imports, or these do."""
    found = {file.name: file}
    if any(file.parent.glob("*.dist-info")):
        # Where packages are installed, what lies beside it is not its own.
        return found
    todo = [file]
    while todo:
        for name in _imports(todo.pop()):
            module, package = file.parent / f"{name}.py", file.parent / name
            new = {}
            # As the import does: a folder without `__init__.py` comes after a module of its name.
            if (package / "__init__.py").is_file():
                new = {f"{name}/{inner}": path for inner, path in _below(package)}
            elif module.is_file():
                new = {module.name: module}
            elif _is_bare_package(name, package):
                new = {f"{name}/{inner}": path for inner, path in _below(package)}
            todo += [path for inner, path in new.items() if inner not in found]
            found |= new
    return found


def _is_bare_package(name: str, folder: Path) -> bool:
    """True when `import name` finds this folder without `__init__.py`, and no package elsewhere."""
    if not folder.is_dir():
        return False
    loaded = sys.modules.get(name)
    try:
        spec = importlib.util.find_spec(name) if loaded is None else loaded.__spec__
    except (ImportError, ValueError):
        return False
    places = spec.submodule_search_locations if spec is not None and not spec.has_location else ()
    return any(os.path.realpath(place) == os.path.realpath(folder) for place in places or ())


def _imports(file: Path) -> set[str]:
    """The top-level names that a file imports, wherever it does; none where it cannot be read."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return set()
    names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    names += [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
    ]
    return {name.partition(".")[0] for name in names}


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _digest_of_file(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "unreadable"
