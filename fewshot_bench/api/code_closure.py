"""Digests that detect edits of a method's code.

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
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

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
    return with_beside(Path(root.file))


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
    names = {name.partition("/")[0].removesuffix(".py") for name in with_beside(file)}
    return sorted(names - {file.stem})


def with_beside(file: Path) -> Mapping[str, str]:
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
