"""Digests that detect edits of the code that a method's class uses.

`source_digest` covers the files on disk, `running_digest` the code that this process imported, and
`describe_parts` says of what: of the functions, classes and statements that the class reaches by
name inside its package, or in the modules beside its file; of statements with effects in all
modules that it imports; and of files that it may read there. Names are followed by syntax
(`api/code_facts.py`); where that is impossible, whole modules, all of the package, or their bytes
count. Other packages do not.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
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
    WORDS,
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
    edges: dict[tuple[str, str, int], _Edges]
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
# By path: facts by digest of its bytes.
_FACTS: dict[str, Facts] = {}


def _read(root: Root) -> Code:
    """The code of a root as it is on disk now."""
    files = sorted(_list_files(root).items()) if root.file else []
    stamps = tuple((name, _stamp(path)) for name, path in files)
    kept = _READ.get(root)
    if kept is not None and kept.stamps == stamps:
        return kept
    known = {}
    if kept is not None:
        old = dict(kept.stamps)
        known = {
            path: kept.facts[name]
            for (file, path), (_, stamp) in zip(files, stamps, strict=True)
            if old.get(file) == stamp and (name := _module_of(root, file)) in kept.facts
        }
    facts = _read_facts(root, {path: known.get(path) for _, path in files})
    # A package precedes a module of its name, which precedes one in another of its folders.
    names: dict[str, str] = {}
    for file, path in sorted(files, key=lambda one: not one[0].endswith("/__init__.py")):
        names.setdefault(_module_of(root, file), path)
    code = Code.of(root, names, {name: facts[path] for name, path in names.items()}, stamps)
    _READ[root] = code
    return code


def _read_facts(root: Root, known: Mapping[str, Facts | None]) -> Mapping[str, Facts]:
    """Facts of files by path: those that are known, from the machine's cache, or read."""
    sources = {}
    for path, facts in known.items():
        if facts is None:
            try:
                sources[path] = Path(path).read_bytes()
            except OSError:
                sources[path] = b"unreadable\0"
    result = {path: facts for path, facts in known.items() if facts is not None}
    if not sources:
        return result
    version = ".".join(map(str, sys.version_info[:2]))
    key = f"code of {root.file} {VERSION} {version}"
    kept = _decode(kept_list(key))
    digests = {path: hashlib.sha256(source).hexdigest() for path, source in sources.items()}
    new = False
    for path, source in sources.items():
        digest = digests[path]
        if digest not in kept:
            new = True
            is_code = path.endswith(".py")
            kept[digest] = read_facts(source, digest) if is_code else Facts(digest, parsed=False)
        result[path] = kept[digest]
    if new:
        current = {facts.digest: facts for facts in result.values()}
        keep_list(key, msgspec.msgpack.encode(current))
    return result


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


class Closure(NamedTuple):
    """What a class uses: parts with their digests, the modules that it imports, files it may read.

    absent: names of files that it would read if they existed.
    """

    parts: Parts
    modules: frozenset[str]
    files: tuple[str, ...]


# By root, module and class: its code, the stamps of files that it names, and what it uses.
_CLOSED: dict[tuple[Root, str, str], tuple[Code, Mapping[str, Stamp], Closure]] = {}
_FILE_NAME = re.compile(r"[^*?<>|:]*\.[A-Za-z]\w{0,11}")
# Folders in a package that hold no files of its own.
_NOT_OWN = re.compile(r"__pycache__|\..*|.*\.(egg|dist)-info|node_modules|fsbench-results")


def _close(code: Code, module: str, name: str = "") -> Closure:
    """What a class uses, or a whole module."""
    key = code.root, module, name
    kept = _CLOSED.get(key)
    if kept is not None and kept[0] is code:
        stamps = kept[1]
        if stamps == {path: _stamp(path) for path in stamps} and None not in stamps:
            return kept[2]
    closing = _Closing(code)
    closing.start(code.rename(module), name)
    parts = closing.finish()
    named = closing.list_named()
    files = tuple(sorted({path for path in named if os.path.isfile(path)}))
    folder = str(Path(code.root.file).parent)
    own = {os.path.relpath(path, folder): _digest_file(path) for path in files}
    closure = Closure({**parts, **own}, frozenset(closing.executed), files)
    _CLOSED[key] = code, {path: _stamp(path) for path in named}, closure
    return closure


class _Edges(NamedTuple):
    """What a statement leads to, whichever class uses it.

    parts: name and digest of each. reached: statements, by module and place. executed: modules that
    it imports. whole: modules of which all may be used. words: those of `code_facts.WORDS`.
    """

    parts: tuple[tuple[str, str], ...]
    reached: frozenset[tuple[str, int]]
    executed: frozenset[str]
    whole: frozenset[str]
    words: frozenset[str]


class _Resolver:
    """Finds what the names of a statement stand for."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self._reached: set[tuple[str, int]] = set()
        self._executed: set[str] = set()
        self._whole: set[str] = set()
        self._words: set[str] = set()

    def resolve(self, module: str, index: int) -> _Edges:
        """What a statement leads to."""
        statement = self._code.facts[module].statements[index]
        self._words |= set(statement.words)
        if OF_MODULE & self._words:
            self._whole.add(module)
        self._follow_texts(statement.strings)
        parts = []
        for part in statement.parts:
            for one in part.imports:
                self.run_import(module, one)
            targets = sorted(self.follow(module, chain, part.imports) for chain in part.uses)
            parts.append((part.name, _hash([part.digest, *filter(None, targets)])))
        return self.edges(parts)

    def resolve_hook(self, module: str, statement: Statement) -> _Edges:
        """What a hook leads to that registers: what it calls."""
        for part in statement.parts:
            for one in part.imports:
                self.run_import(module, one)
            for chain in statement.hooks:
                self.follow(module, chain, part.imports)
        return self.edges()

    def resolve_name(self, module: str, name: str) -> _Edges:
        """What a name of a module leads to."""
        self.follow(module, name, ())
        return self.edges()

    def edges(self, parts: Iterable[tuple[str, str]] = ()) -> _Edges:
        """What was found."""
        return _Edges(
            tuple(parts),
            frozenset(self._reached),
            frozenset(self._executed),
            frozenset(self._whole),
            frozenset(self._words),
        )

    def run_import(self, module: str, one: Import) -> None:
        """Import what an import imports."""
        target = _find(self._code, module, one)
        if target is None:
            return
        self._executed.add(target)
        if one.name == "*":
            self._whole.add(target)
        elif one.name and one.name not in self._code.bound.get(target, ()):
            self._executed.add(f"{target}.{one.name}")

    def follow(self, module: str, chain: str, imports: Iterable[Import]) -> str:
        """Reach what a dotted name stands for in a module. Returns what its import stands for."""
        first, _, rest = chain.partition(".")
        targets = [self._follow_import(module, one, rest) for one in imports if one.bound == first]
        targets.append(self._follow_name(module, first, rest))
        return ",".join(filter(None, targets))

    def _follow_texts(self, texts: Iterable[str]) -> None:
        """Reach modules of the package that a text names, as `package.module:name` does."""
        start = f"{self._code.root.name}."
        for text in texts if self._code.root.folders else ():
            if text.startswith(start):
                names = [n for n in _prefixes(text.partition(":")[0]) if n in self._code.facts]
                self._executed |= set(names[1:])
                self._whole |= set(names[1:])

    def _follow_name(self, module: str, name: str, rest: str, way: tuple[str, ...] = ()) -> str:
        """Reach a name of a module, or what it is imported from. way: of imports until here."""
        here = f"{module}:{name}"
        if here in way:
            return here
        facts, targets = self._code.facts[module], []
        for index in self._code.bound[module].get(name, ()):
            if facts.statements[index].kind != IMPORT:
                self._reached.add((module, index))
            for one in facts.statements[index].imports:
                if one.bound == name:
                    targets.append(self._follow_import(module, one, rest, (*way, here)))
        return ",".join(targets) if targets or not way else here

    def _follow_import(self, module: str, one: Import, rest: str, way: tuple[str, ...] = ()) -> str:
        target = _find(self._code, module, one)
        if target is None:
            full = f"{'.' * one.level}{one.module}" + (f".{one.name}" if one.name else "")
            names = f"{full}.{rest}".split(".")
            self._words |= WORDS & {*names, ".".join(names[:2])}
            return full
        if one.name == "*":
            return target
        if one.name:
            return self._follow_in(target, f"{one.name}.{rest}", way)
        if one.bound == one.module.partition(".")[0]:
            return self._follow_in(one.bound, rest, way)
        return self._follow_in(target, rest, way)

    def _follow_in(self, module: str, chain: str, way: tuple[str, ...]) -> str:
        """Reach a dotted name in a module of the package; all of the module where that fails."""
        first, _, rest = chain.rstrip(".").partition(".")
        inner = f"{module}.{first}"
        if first and first in self._code.bound.get(module, ()):
            return self._follow_name(module, first, rest, (*way, f"{module}:"))
        if first and inner in self._code.known:
            self._executed.add(inner)
            return self._follow_in(inner, rest, way)
        if first != "__name__":
            self._whole.add(module)
        return f"{module}:{first}"


def _find(code: Code, module: str, one: Import) -> str | None:
    """The module of a package that an import names there; None for another package."""
    full = one.module
    if one.level:
        is_package = code.paths.get(module, "").endswith("__init__.py")
        base = module.split(".")
        base = base[: len(base) - one.level + is_package]
        full = ".".join([*base, *([one.module] if one.module else [])])
    return full if full in code.known else None


class _Closing:
    """Walks from a class to all that it uses."""

    def __init__(self, code: Code) -> None:
        self.executed: set[str] = set()
        self._code = code
        self._visited: dict[tuple[str, int], tuple[tuple[str, str], ...]] = {}
        self._todo: list[tuple[str, int]] = []
        self._whole: set[str] = set()
        self._words: set[str] = set()

    def start(self, module: str, name: str) -> None:
        """Reach a class, or all of a module."""
        code, top = self._code, name.partition(".")[0]
        for entry, facts in code.facts.items():
            # Whatever uses the package imports what registers it; a module that changes others
            # counts for all.
            if facts.registers or facts.patches:
                self._execute(entry)
            for index, statement in enumerate(facts.statements) if facts.registers else ():
                if statement.hooks == ("*",):
                    self._visit(entry, index)
                elif statement.hooks:
                    self._go(self._find_edges("calls", entry, index))
        if module not in code.facts:
            self._reach_all()
        else:
            self._execute(module)
            if top in code.bound[module]:
                self._go(_Resolver(code).resolve_name(module, top))
            else:
                self._reach_whole(module)
        while self._todo:
            place = self._todo.pop()
            edges = self._find_edges("uses", *place)
            self._visited[place] = edges.parts
            self._go(edges)

    def _find_edges(self, what: str, module: str, index: int) -> _Edges:
        """What a statement uses, what a hook calls, or what a module imports."""
        key = what, module, index
        if key not in self._code.edges:
            resolver, statements = _Resolver(self._code), self._code.facts[module].statements
            if what == "uses":
                self._code.edges[key] = resolver.resolve(module, index)
            elif what == "calls":
                self._code.edges[key] = resolver.resolve_hook(module, statements[index])
            else:
                for one in (one for statement in statements for one in statement.imports):
                    resolver.run_import(module, one)
                self._code.edges[key] = resolver.edges()
        return self._code.edges[key]

    def finish(self) -> Parts:
        """The digests of all that was reached."""
        facts = self._code.facts
        if self._words & OF_TEXT:
            return {name: one.digest for name, one in facts.items()}
        gathered: dict[str, list[str]] = {}
        for (module, _), parts in sorted(self._visited.items()):
            for name, digest in parts:
                if name:
                    gathered.setdefault(f"{module}.{name}", []).append(digest)
        for module in self.executed:
            lines = [facts[module].digest]
            if facts[module].parsed:
                lines = list(self._describe_effects(module))
            if lines:
                gathered.setdefault(module, []).extend(lines)
        return {name: _hash(digests) for name, digests in gathered.items()}

    def list_named(self) -> set[str]:
        """The paths of files that the code may read: those that it names, or all of its package."""
        root = self._code.root
        named: set[str] = set()
        folders = list(root.folders)
        if "." in root.name and not folders:
            folders = [str(Path(root.file).parent)]
        if not folders:
            # Files that a single file names are a part of its version (`own_methods.py`).
            return named
        for module, index in self._visited:
            place = os.path.dirname(self._code.paths[module])
            for text in self._code.facts[module].statements[index].strings:
                if _FILE_NAME.fullmatch(text) and not text.endswith(SUFFIXES):
                    named |= {os.path.join(folder, text) for folder in (place, *folders)}
        if self._words & OF_FILES:
            named |= {path for folder in folders for path in _list_data(folder)}
        return named

    def _describe_effects(self, module: str) -> Iterator[str]:
        """The order of what a module does when it is imported, if it does anything."""
        statements = self._code.facts[module].statements
        has_effects = any(self._is_effect(module, statement) for statement in statements)
        for index, statement in enumerate(statements):
            for one in statement.imports if statement.kind == IMPORT else ():
                if has_effects or (is_loud(one) and _find(self._code, module, one) is None):
                    yield f"import {one.level} {one.module} {one.name}"
            if has_effects:
                for name, digest in self._visited.get((module, index), ()):
                    yield name or digest

    def _is_effect(self, module: str, statement: Statement) -> bool:
        if statement.kind == DERIVED:
            is_own = all(self._is_own(module, base) for base in statement.bases)
            return self._code.has_hooks or not is_own
        return statement.kind == EFFECT

    def _is_own(self, module: str, chain: str) -> bool:
        """True for a name that this package defines, or that is no class of an unknown package."""
        first, statements = chain.partition(".")[0], self._code.facts[module].statements
        places = self._code.bound[module].get(first, ())
        imports = [one for i in places for one in statements[i].imports if one.bound == first]
        return all(_find(self._code, module, one) or not is_loud(one) for one in imports)

    def _go(self, edges: _Edges) -> None:
        for module, index in edges.reached:
            self._visit(module, index)
        for module in edges.executed:
            self._execute(module)
        for module in edges.whole:
            self._reach_whole(module)
        self._words |= edges.words
        if edges.words & OF_PACKAGE:
            self._reach_all()

    def _visit(self, module: str, index: int) -> None:
        if (module, index) not in self._visited:
            self._visited[module, index] = ()
            self._todo.append((module, index))

    def _execute(self, module: str) -> None:
        """Import a module: what has effects in it counts, and all that it imports is imported."""
        for name in _prefixes(module):
            if name in self.executed or name not in self._code.facts:
                continue
            self.executed.add(name)
            for index, statement in enumerate(self._code.facts[name].statements):
                if self._is_effect(name, statement):
                    self._visit(name, index)
            self._go(self._find_edges("imports", name, 0))

    def _reach_whole(self, module: str) -> None:
        """Everything in a module; of a package without a file, in all of its modules."""
        if module in self._whole:
            return
        self._whole.add(module)
        self._execute(module)
        if module not in self._code.facts:
            for name in self._code.facts:
                if name.startswith(f"{module}."):
                    self._reach_whole(name)
            return
        for index, statement in enumerate(self._code.facts[module].statements):
            if statement.kind != IMPORT:
                self._visit(module, index)

    def _reach_all(self) -> None:
        for name in self._code.facts:
            self._reach_whole(name)


def is_loud(one: Import) -> bool:
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


def _list_data(folder: str) -> Iterator[str]:
    """The files of a package that are no code."""
    for where, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if not _NOT_OWN.fullmatch(name)]
        for name in names:
            if not name.endswith((*SUFFIXES, ".pyc", ".typed")) and name[0] != ".":
                yield os.path.join(where, name)
