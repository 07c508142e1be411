"""Digests that detect edits of the code that a method's class uses.

`source_digest` covers the files on disk, `running_digest` the code that this process imported, and
`describe_parts` says of what: of the functions, classes and statements that the class reaches by
name inside its package, or in the modules beside its file; of statements with effects in all
modules that it imports; and of files that it may read there. Names are followed by syntax
(`api/code_facts.py`); where that is impossible, whole modules, all of the package, or their bytes
count. Other packages do not.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.machinery
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from fewshot_bench.api.code_facts import (
    DERIVED,
    EFFECT,
    IMPORT,
    OF_FILES,
    OF_MODULE,
    OF_PACKAGE,
    OF_TEXT,
    QUIET,
    VERSION,
    Facts,
    Import,
    Statement,
    read_facts,
)
from fewshot_bench.utils.small_cache import keep_list, kept_list

# Placeholder digest of code whose parts may stem from different states of the files.
CHANGED = "changed while it was imported"
SUFFIXES = (".py", *importlib.machinery.EXTENSION_SUFFIXES)
Stamp = tuple[int, ...]
Parts = Mapping[str, str]


class Root(NamedTuple):
    """The outermost package of a class with its folders, or its module with its file."""

    name: str
    file: str
    folders: tuple[str, ...] = ()


# Attribute of a class that describes one of another process: its root there.
ROOT_OF_DESCRIBED = "_root"


def source_digest(method: type) -> str:
    """SHA-256 over the code that `method` uses, as it is on disk now.

    Empty without files (a class typed into a prompt).
    """
    return digest_parts(describe_parts(method))


def describe_parts(method: type) -> Parts:
    """Digests of the functions, classes, statements and files that a class uses, by dotted name."""
    return describe_each({"": method})[""]


def describe_each(methods: Mapping[str, type]) -> Mapping[str, Parts]:
    """The same for classes by name; each package is looked at once."""
    read: dict[Root, Code] = {}
    parts: dict[str, Parts] = {}
    for name, method in methods.items():
        root = vars(method).get(ROOT_OF_DESCRIBED) or _find_root(method.__module__)
        parts[name] = {}
        if root is not None and root.file:
            code = read[root] = read.get(root) or _read(root)
            parts[name] = _close(code, method.__module__, method.__qualname__).parts
    return parts


def digest_parts(parts: Parts) -> str:
    """The digest of a class that uses these parts; empty for none."""
    text = "".join(f"{name}\0{parts[name]}\n" for name in sorted(parts))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text else ""


def join_digests(digests: Sequence[str]) -> str:
    """One digest for several classes: of a single one; empty or `CHANGED` if one is."""
    for digest in digests:
        if len(digests) == 1 or digest in ("", CHANGED):
            return digest
    return digest_parts({str(number): digest for number, digest in enumerate(digests)})


def digest_of_module(name: str) -> str:
    """The digest of all that an imported module uses; empty without files."""
    root = _find_root(name)
    return "" if root is None else digest_parts(_close(_read(root), name).parts)


def describe_root(method: type) -> Root:
    """The facts that another process needs for the digest of a class."""
    return _find_root(method.__module__) or Root("", "")


def running_digest(method: type) -> str:
    """The digest of the code that this process runs, even if files were edited since.

    `CHANGED` if a module or file that the class uses was edited between two looks at it, and it is
    unknown which state was imported.
    """
    if ROOT_OF_DESCRIBED in vars(method):
        return source_digest(method)
    return _digest_running(method.__module__, method.__qualname__)


def running_digest_of_module(name: str) -> str:
    """The same for all that an imported module uses; empty without files."""
    return _digest_running(name)


def note_import(module: str) -> None:
    """Remember the code of a module's package; call it right after the module was imported."""
    root = _find_root(module)
    if root is not None:
        _note(root)


def note_imports(modules: Iterable[str]) -> None:
    """`note_import` for many modules, of which most are in a few packages."""
    for root in {_find_root(module) for module in modules}:
        if root is not None:
            _note(root)


def is_edited(module: str) -> bool:
    """True if code that an imported module uses was edited since its import."""
    return _digest_running(module) != digest_of_module(module)


def forget(module: str) -> None:
    """Drop the remembered code of an unloaded module."""
    _SEEN.pop(module, None)


def list_changes(before: Parts, after: Parts) -> list[str]:
    """The names of parts that were changed, added or removed, in this order.

    `pkg.module.function changed`, `... added`, `... removed`.
    """
    changed = [name for name in after if before.get(name, after[name]) != after[name]]
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    kinds = ((changed, "changed"), (added, "added"), (removed, "removed"))
    return [f"{name} {what}" for names, what in kinds for name in sorted(names)]


# Reading the code of a package.


class Code(NamedTuple):
    """The modules of a root by name, as facts, with the paths of their files.

    bound: by module and name, the statements that give it a value. known: modules and packages,
    with and without a file. has_hooks: a class of it has a hook for subclasses. edges: what its
    statements lead to, where that is known. stamps: of files.
    """

    root: Root
    paths: Mapping[str, str]
    facts: Mapping[str, Facts]
    bound: Mapping[str, Mapping[str, list[int]]]
    known: frozenset[str]
    has_hooks: bool
    edges: dict[Place, frozenset[Place]]
    stamps: tuple[tuple[str, Stamp], ...] = ()

    @classmethod
    def of(
        cls, root: Root, paths: Mapping[str, str], facts: Mapping[str, Facts], *stamps: Any
    ) -> Code:
        """The code of a root."""
        bound = {name: _index(one) for name, one in facts.items()}
        known = frozenset(name for full in facts for name in _prefixes(full))
        has_hooks = any(one.has_hooks for one in facts.values())
        return cls(root, paths, facts, bound, known, has_hooks, {}, *stamps)

    def rename(self, module: str) -> str:
        """The name here of a module: that of a single file is the file's."""
        is_single = not self.root.folders and module == self.root.name and "." not in module
        return Path(self.root.file).stem if is_single else module


# By root: its code when it was last read.
_READ: dict[Root, Code] = {}
# By path: the stamp of a file, and its facts.
_FACTS: dict[str, tuple[Stamp, Facts]] = {}


def _read(root: Root) -> Code:
    """The code of a root as it is on disk now."""
    files = sorted(_list_files(root).items()) if root.file else []
    stamps = tuple((name, _stamp(path)) for name, path in files)
    kept = _READ.get(root)
    if kept is not None and kept.stamps == stamps:
        return kept
    _read_facts(root, [path for _, path in files])
    # A package precedes a module of its name, which precedes one in another of its folders.
    names: dict[str, str] = {}
    for file, path in sorted(files, key=lambda one: not one[0].endswith("/__init__.py")):
        names.setdefault(_module_of(root, file), path)
    code = Code.of(root, names, {name: _FACTS[path][1] for name, path in names.items()}, stamps)
    _READ[root] = code
    return code


def _read_facts(root: Root, paths: Iterable[str]) -> None:
    """Know the facts of files: those of the machine's cache, or of the files."""
    new = [path for path in paths if _FACTS.get(path, ((), None))[0] != _stamp(path)]
    if new:
        version = ".".join(map(str, sys.version_info[:2]))
        key = f"code of {root.file} {VERSION} {version}"
        kept = _decode(kept_list(key))
        current = {facts.digest: facts for facts in (_facts_of(path, kept) for path in new)}
        if current.keys() - kept.keys():
            current |= {facts.digest: facts for _, facts in map(_FACTS.__getitem__, paths)}
            keep_list(key, msgspec.msgpack.encode(current))


def _facts_of(path: str, kept: Mapping[str, Facts] = MappingProxyType({})) -> Facts:
    """The facts of a file, which is read again only if it changed. kept: some by digest."""
    stamp, known = _stamp(path), _FACTS.get(path)
    if known is not None and known[0] == stamp:
        return known[1]
    try:
        source = Path(path).read_bytes()
    except OSError:
        source = b"unreadable\0"
    digest = hashlib.sha256(source).hexdigest()
    facts = kept.get(digest)
    if facts is None:
        facts = read_facts(source, digest) if path.endswith(".py") else Facts(digest, parsed=False)
    _FACTS[path] = stamp, facts
    return facts


def _decode(content: bytes | None) -> dict[str, Facts]:
    if content is None:
        return {}
    try:
        return msgspec.msgpack.decode(content, type=dict[str, Facts])
    except msgspec.MsgspecError:
        return {}


def _module_of(root: Root, file: str) -> str:
    """The dotted name of a module from its file's path in the folder of the root."""
    parts = file.split("/")
    name = parts[-1].partition(".")[0]
    parts = parts[:-1] if name == "__init__" else [*parts[:-1], name]
    if root.folders:
        parts.insert(0, root.name)
    elif "." in root.name:
        parts.insert(0, root.name.rpartition(".")[0])
    return ".".join(parts)


def _find_root(module: str) -> Root | None:
    """The outermost imported package of a module that is no namespace package, or the module."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        imported = sys.modules.get(name)
        if file := getattr(imported, "__file__", None):
            return Root(name, file, tuple(map(str, getattr(imported, "__path__", ()))))
    return None


def _list_files(root: Root) -> Mapping[str, str]:
    """The code files of a root, by path relative to the folder of the package or module."""
    if root.folders:
        return {name: path for folder in root.folders for name, path in _below(folder, SUFFIXES)}
    if "." in root.name:
        # In a namespace package, only the folder delimits the code.
        return dict(_below(Path(root.file).parent, SUFFIXES))
    return with_beside(Path(root.file))


def _below(folder: str | Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    # Without a Path per file: each method that a command looks up is compared with its files.
    for where, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name != "__pycache__" and name[0] != "."]
        start = Path(where).relative_to(folder).as_posix()
        for name in names:
            if name.endswith(suffixes):
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
                new = {f"{name}/{inner}": path for inner, path in _below(package, SUFFIXES)}
            else:
                continue
            todo += [path for inner, path in new.items() if inner not in files]
            files |= new
    return files


def _is_bare_package(name: str, folder: Path) -> bool:
    """True if `import name` finds this folder without `__init__.py` and nothing before it."""
    if not folder.is_dir() or name in sys.builtin_module_names:
        return False
    # The folder of a file becomes the last place to look in when the file is imported.
    places = [*sys.path, str(folder.parent)]
    spec = importlib.machinery.PathFinder.find_spec(name, places)
    found = spec.submodule_search_locations if spec is not None and not spec.has_location else ()
    return any(os.path.realpath(place) == os.path.realpath(folder) for place in found or ())


def _imports(file: str) -> set[str]:
    """Top-level names of all imports in a file, also those in functions or by a text."""
    names: set[str] = set()
    for statement in _facts_of(file).statements:
        names |= {one.module for one in statement.imports if not one.level}
        if OF_PACKAGE & {*statement.words}:
            names.update(statement.strings)
    return {name.partition(".")[0] for name in names} - {""}


def list_data(file: Path) -> Mapping[str, str]:
    """The other files in the folder of a module that it, or a module beside it, names."""
    code = {*with_beside(file).values()}
    paths = sorted(path for path in _name_beside(file) if os.path.isfile(path) and path not in code)
    return {Path(path).relative_to(file.parent).as_posix(): path for path in paths}


def _name_beside(file: Path) -> set[str]:
    """Paths that a file and the modules beside it name, or may find by `__file__` and the like."""
    files, home, named = with_beside(file), str(file.parent), set[str]()
    every = [(path, one) for path in files.values() for one in _facts_of(path).statements]
    searching = any(OF_FILES & {*statement.words} for _, statement in every)
    # In site-packages, folders belong to others.
    searching = searching and not any(file.parent.glob("*.dist-info"))
    for path, statement in every:
        suffixes = (f"{Path(path).stem}{text}" for text in statement.strings if text[:1] == ".")
        for text in (*statement.strings, *suffixes):
            is_name = may_name_file(text) or text.endswith(".py")
            for folder in {os.path.dirname(path), home} if is_name or searching else ():
                place = os.path.normpath(os.path.join(folder, text))
                if place.startswith(os.path.join(home, "")):
                    named |= set(glob.glob(place)) if "*" in text else {place}
    if searching:
        # Packages beside the file may hold data of their own.
        named |= {os.path.join(home, name.partition("/")[0]) for name in files if "/" in name}
    inside = (path for folder in named if os.path.isdir(folder) for path in _list_all(folder))
    return {*named, *inside}


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


# By path: the stamp of a file that is no code, and its digest.
_DATA: dict[str, tuple[Stamp, str]] = {}


def _digest_file(path: str) -> str:
    stamp = _stamp(path)
    kept = _DATA.get(path)
    if kept is not None and kept[0] == stamp:
        return kept[1]
    try:
        with open(path, "rb") as file:
            made = hashlib.sha256()
            while block := file.read(1 << 20):
                made.update(block)
            digest = made.hexdigest()
    except OSError:
        return "unreadable"
    _DATA[path] = stamp, digest
    return digest


# What runs.


class _Seen(NamedTuple):
    """A package as it was last looked at in this process.

    code: of imported modules as they were imported, of others as they were. imported: their names.
    mixed: modules of which the imported state is unknown. state: number and last of all imported
    modules, of any package, then.
    """

    code: Code
    imported: frozenset[str]
    mixed: frozenset[str]
    state: tuple[int, str]


# By name of a root.
_SEEN: dict[str, _Seen] = {}
# By path: the digest of a file that is no code when a class that may read it was first used.
_FIRST: dict[str, str] = {}


def _note(root: Root) -> _Seen:
    """What was imported of a root until now."""
    # The last name is that of the latest import; nothing was imported or unloaded since.
    state, seen = (len(sys.modules), next(reversed(sys.modules))), _SEEN.get(root.name)
    if seen is None or seen.state != state:
        seen = _SEEN[root.name] = _look(_read(root), seen, state)
    return seen


def _look(now: Code, seen: _Seen | None, state: tuple[int, str]) -> _Seen:
    """What a process runs, from the code on disk and what it ran when it was last looked at."""
    names = _list_imported(now)
    if seen is None:
        return _Seen(now, names, frozenset(), state)
    before = seen.code.facts
    new = names - seen.imported
    mixed = {name for name in new if name in before and not _is_same(before, now.facts, name)}
    kept = {name: before[name] for name in seen.imported & names if name in before}
    code = now
    if any(now.facts.get(name) != facts for name, facts in kept.items()):
        code = Code.of(now.root, {**seen.code.paths, **now.paths}, {**now.facts, **kept})
    return _Seen(code, names, seen.mixed | mixed, state)


def _is_same(before: Mapping[str, Facts], now: Mapping[str, Facts], name: str) -> bool:
    one, other = before[name], now.get(name)
    if other is None or not one.parsed or not other.parsed:
        return other is not None and one.digest == other.digest
    return one.statements == other.statements


def _list_imported(code: Code) -> frozenset[str]:
    """The imported modules of a root, by their names there."""
    found = {code.rename(code.root.name)}
    for name in code.paths:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and (file == code.paths[name] or _is_one_file(file, code.paths[name])):
            found.add(name)
    return frozenset(found)


def _is_one_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        # One was removed since it was imported.
        return False


def _digest_running(module: str, name: str = "") -> str:
    root = _find_root(module)
    if root is None:
        return ""
    seen = _look(_read(root), _note(root), _note(root).state)
    closure = _close(seen.code, module, name)
    is_mixed = bool(seen.mixed & closure.modules)
    for path in closure.files:
        is_mixed = is_mixed or _FIRST.setdefault(path, _digest_file(path)) != _digest_file(path)
    return CHANGED if is_mixed else digest_parts(closure.parts)


# Following names.

# A statement of a module by its place, or in place of that: the module is imported, or may be used
# as a whole.
Place = tuple[str, int]
RUN, WHOLE = -1, -2


class Closure(NamedTuple):
    """What a class uses: parts with their digests, the modules that it imports, files it may read.

    stamps: of the files, of folders that may get some, and of files that would be read.
    """

    parts: Parts
    modules: frozenset[str]
    files: tuple[str, ...]
    stamps: Mapping[str, Stamp]


# By root, module and class: its code, and what it uses.
_CLOSED: dict[tuple[Root, str, str], tuple[Code, Closure]] = {}
_FILE_NAME = re.compile(r"[^<>|:]*\.[A-Za-z]\w{0,11}")
# Folders in a package that hold no files of its own.
_NOT_OWN = re.compile(r"__pycache__|\..*|.*\.(egg|dist)-info|node_modules|fsbench-results")


def _close(code: Code, module: str, name: str = "") -> Closure:
    """What a class uses, or a whole module."""
    key = code.root, module, name
    kept = _CLOSED.get(key)
    if kept is not None and kept[0] is code:
        stamps = kept[1].stamps
        if stamps == {path: _stamp(path) for path in stamps}:
            return kept[1]
    reached = _walk(code, code.rename(module), name)
    statements = [code.facts[one].statements[index] for one, index in reached if index >= 0]
    words = {word for statement in statements for word in statement.words}
    named = _list_named(code, reached, bool(words & OF_FILES))
    files = tuple(sorted({path for path in named if os.path.isfile(path)}))
    folder = str(Path(code.root.file).parent)
    parts = _describe(code, reached, bool(words & OF_TEXT))
    parts |= {os.path.relpath(path, folder): _digest_file(path) for path in files}
    modules = frozenset(one for one, index in reached if index == RUN)
    closure = Closure(parts, modules, files, {path: _stamp(path) for path in named})
    _CLOSED[key] = code, closure
    return closure


def _walk(code: Code, module: str, name: str) -> set[Place]:
    """All that a class leads to, or all of a module."""
    top = code.bound.get(module, {}).get(name.partition(".")[0], ())
    todo = [(module, index) for index in top] or [(module, WHOLE)]
    if module not in code.facts:
        todo += [(each, WHOLE) for each in code.facts]
    todo += [(module, RUN), *((each, RUN) for each, facts in code.facts.items() if facts.runs)]
    reached: set[Place] = set()
    while todo:
        place = todo.pop()
        if place not in reached and (place[1] == WHOLE or place[0] in code.facts):
            reached.add(place)
            if place not in code.edges:
                code.edges[place] = frozenset(_lead(code, *place))
            todo += code.edges[place] - reached
    return reached


def _lead(code: Code, module: str, index: int) -> Iterator[Place]:
    """What a statement, an import of a module, or the use of all of a module leads to."""
    if index == WHOLE:
        yield module, RUN
        inside = (each for each in code.facts if each.startswith(f"{module}."))
        yield from ((each, WHOLE) for each in inside)
        every = code.facts[module].statements if module in code.facts else ()
        yield from ((module, at) for at in range(len(every)))
        return
    facts = code.facts[module]
    if index == RUN:
        yield from ((outer, RUN) for outer in _prefixes(module))
        for at, statement in enumerate(facts.statements):
            if _is_effect(code, module, statement):
                yield module, at
            for one in statement.imports:
                yield from (place for place in _import(code, module, one) if place[1] == RUN)
        return
    statement = facts.statements[index]
    yield module, RUN
    for one in statement.imports:
        yield from _import(code, module, one)
    for name in statement.names:
        yield from ((module, at) for at in code.bound[module].get(name, ()))
    for text in statement.strings:
        # `package.module:name`, or a script.
        target = text.partition(":")[0].removesuffix(".py").replace("/", ".")
        beside = f"{module.rpartition('.')[0]}.{target}".strip(".")
        is_script = text.endswith(".py") and beside in code.facts
        if target in code.facts and target != code.root.name:
            yield target, WHOLE
        elif is_script:
            yield beside, WHOLE
    if OF_MODULE & {*statement.words}:
        yield module, WHOLE
    if OF_PACKAGE & {*statement.words}:
        yield from ((each, WHOLE) for each in code.facts)


def _import(code: Code, module: str, one: Import) -> Iterator[Place]:
    """What an import leads to if its name is used; `RUN` if not."""
    target = _find(code, module, one)
    if target is None:
        return
    yield target, RUN
    if not one.name and one.bound == one.module.partition(".")[0]:
        # Any module of the package may be reached by its dotted name.
        yield one.bound, WHOLE
        return
    inner = f"{target}.{one.name}"
    places = code.bound.get(target, {}).get(one.name, ())
    yield from ((target, at) for at in places)
    if inner in code.known:
        yield inner, RUN
        yield inner, WHOLE
    elif not places:
        yield target, WHOLE


def _describe(code: Code, reached: Iterable[Place], as_text: bool) -> dict[str, str]:
    """The digests of all that was reached."""
    if as_text:
        return {name: one.digest for name, one in code.facts.items()}
    gathered: dict[str, list[str]] = {}
    for module, index in sorted(reached):
        if index >= 0:
            for name, digest in _parts_of(code, module, index):
                gathered.setdefault(f"{module}.{name}" if name else module, []).append(digest)
        elif index == RUN:
            facts = code.facts[module]
            lines = _describe_order(code, module) if facts.parsed else [facts.digest]
            if lines:
                gathered.setdefault(module, []).extend(lines)
    return {name: _hash(digests) for name, digests in gathered.items()}


def _parts_of(code: Code, module: str, index: int) -> Iterator[tuple[str, str]]:
    statement = code.facts[module].statements[index]
    yield from statement.parts
    for one in statement.imports if statement.kind == IMPORT else ():
        yield one.bound, _text_of(code, module, one)


def _text_of(code: Code, module: str, one: Import) -> str:
    """What an import stands for, however it is written."""
    target = _find(code, module, one) or f"{'.' * one.level}{one.module}"
    return f"import {target} {one.name}"


def _describe_order(code: Code, module: str) -> list[str]:
    """The order of what a module does when it is imported, if it does anything."""
    lines, statements = [], code.facts[module].statements
    acts = any(_is_effect(code, module, one) and one.parts for one in statements)
    for statement in statements:
        for one in statement.imports if statement.kind == IMPORT else ():
            if acts or (_is_loud(one) and _find(code, module, one) is None):
                lines.append(_text_of(code, module, one))
        if acts and _is_effect(code, module, statement):
            lines += [name or digest for name, digest in statement.parts]
    return lines


def _is_effect(code: Code, module: str, statement: Statement) -> bool:
    """True for what counts for all who import a module."""
    if statement.kind != DERIVED or code.has_hooks:
        return statement.kind in (EFFECT, DERIVED)
    # A base of another package may do anything with what derives from it.
    statements, bound = code.facts[module].statements, code.bound[module]
    for first in (base.partition(".")[0] for base in statement.bases):
        places = bound.get(first, ())
        imports = [one for at in places for one in statements[at].imports if one.bound == first]
        if not places or any(_is_loud(one) and not _find(code, module, one) for one in imports):
            return True
    return False


def _list_named(code: Code, reached: Iterable[Place], all_files: bool) -> set[str]:
    """The paths of files that code may read: those that it names, or all of its package.

    Also those of folders that may get more of them.
    """
    folders = list(code.root.folders)
    if "." in code.root.name and not folders:
        folders = [str(Path(code.root.file).parent)]
    if not folders:
        return _name_beside(Path(code.root.file)) - {*code.paths.values()}
    named: set[str] = set()
    for module, index in reached:
        place = os.path.dirname(code.paths.get(module, ""))
        for text in code.facts[module].statements[index].strings if index >= 0 else ():
            if may_name_file(text):
                for folder in {place, *folders}:
                    path = os.path.join(folder, text)
                    named |= {os.path.dirname(path), *glob.glob(path)} if "*" in text else {path}
    every = (path for folder in folders if all_files for path in _list_all(folder))
    return named | {path for path in every if not path.endswith((*SUFFIXES, ".typed"))}


def _list_all(folder: str) -> Iterator[str]:
    """All folders and files in a folder, without those of tools."""
    for where, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if not _NOT_OWN.fullmatch(name)]
        yield where
        yield from (os.path.join(where, n) for n in names if n[0] != "." and n[-4:] != ".pyc")


def may_name_file(text: str) -> bool:
    """True for a text that may name a file that is no code; `*` in it stands for anything."""
    return bool(_FILE_NAME.fullmatch(text)) and not text.endswith(SUFFIXES)


def _find(code: Code, module: str, one: Import) -> str | None:
    """The module of a package that an import names there; None for another package."""
    full = one.module
    if one.level:
        is_package = code.paths.get(module, "").endswith("__init__.py")
        base = module.split(".")
        base = base[: len(base) - one.level + is_package]
        full = ".".join([*base, *([one.module] if one.module else [])])
    return full if full in code.known else None


def _is_loud(one: Import) -> bool:
    """True for an import of another package that may change what others compute."""
    return bool(one.level) or one.module.partition(".")[0] not in QUIET


def _prefixes(name: str) -> list[str]:
    """`a`, `a.b`, `a.b.c` of `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _index(facts: Facts) -> Mapping[str, list[int]]:
    """By name: the statements that give it a value."""
    bound: dict[str, list[int]] = {}
    for index, statement in enumerate(facts.statements):
        for name in statement.binds:
            bound.setdefault(name, []).append(index)
    return bound


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
