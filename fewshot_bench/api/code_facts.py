"""What the statements of a Python module define, name and do, by syntax alone.

`read_facts` is the entry point; `api/code_closure.py` follows names through these facts. A name is
a word: whether a variable of a function or a name of the module is meant is not looked at. Texts
that are compared leave out comments, docstrings, formatting, positions and `pass`; they are equal
in all supported versions of Python. Annotations count: fields are typed by them, and libraries
dispatch on them. What is below `if TYPE_CHECKING` or `if __name__ == "__main__"` does not: no
import runs it.
"""

from __future__ import annotations

import ast
import builtins
import copy
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

# Raise it when facts or texts change.
VERSION = 5

# Kinds of statements. An effect counts for all who import its module, others where they are used. A
# derived class becomes an effect if a class of its package has a hook for subclasses.
IMPORT, PURE, DERIVED, EFFECT = "import", "pure", "derived", "effect"
# Words with which code reaches more than its names say: all of its module, all of its package, the
# text of it with comments and docstrings, or files beside it.
OF_MODULE = frozenset({"globals", "__globals__"})
OF_PACKAGE = frozenset(
    {
        *("__import__", "import_module", "find_spec", "spec_from_file_location", "exec_module"),
        *("load_module", "SourceFileLoader", "reload", "pkgutil", "runpy", "sys.modules", "eval"),
        *("exec", "__subclasses__", "gc", "pickle", "dill", "cloudpickle", "joblib", "getmembers"),
        *("sys.path", "compile"),
    }
)
OF_TEXT = frozenset(
    {
        *("getsource", "getsourcelines", "findsource", "linecache", "_getframe", "currentframe"),
        *("co_firstlineno", "f_lineno", "tb_lineno", "torch.jit", "jit", "co_code"),
        *("__doc__", "getdoc", "cleandoc"),
    }
)
OF_FILES = frozenset(
    {
        *("__file__", "__path__", "__spec__", "resources", "importlib_resources", "get_data"),
        *("getfile", "getsourcefile", "pkg_resources", "__cached__", "__loader__", "co_filename"),
    }
)
WORDS = OF_MODULE | OF_PACKAGE | OF_TEXT | OF_FILES
_AMBIGUOUS = frozenset({"eval", "exec", "gc", "globals", "reload", "resources", "compile"})
# Functions that take a name as a text.
_BY_TEXT = frozenset({"getattr", "attrgetter", "methodcaller", "vars", "__dict__"})
# Classes with these decide what happens when others are derived from or named in them.
_HOOKS = frozenset({"__init_subclass__", "__set_name__", "__prepare__", "__mro_entries__"})
# Calls that only make a value, decorators that only wrap one, and bases without hooks.
_PURE = frozenset(
    {
        *("bool", "bytes", "complex", "dict", "enumerate", "float", "frozenset", "int", "len"),
        *("list", "max", "min", "object", "pow", "range", "reversed", "round", "set", "slice"),
        *("str", "sum", "tuple", "zip", "abs", "repr", "ord", "chr", "divmod", "sorted"),
        *("property", "staticmethod", "classmethod", "re.compile", "logging.getLogger"),
        *("pathlib.Path", "pathlib.PurePath", "fractions.Fraction", "decimal.Decimal"),
        *("os.path.join", "os.path.dirname", "os.path.abspath", "torch.Size", "torch.device"),
        *("torch.tensor", "numpy.array", "torch.no_grad", "torch.inference_mode"),
        *("torch.enable_grad", "torch.nn.Module", "torch.autograd.Function"),
        *("torch.optim.Optimizer", "torch.utils.data.Dataset", "contextlib.contextmanager"),
        *(n for n, v in vars(builtins).items() if isinstance(v, type) and n.endswith("Error")),
        *("Exception", "Warning", "functools.partial", "functools.wraps", "functools.cache"),
        *("functools.lru_cache", "functools.cached_property", "functools.total_ordering"),
        *("operator.attrgetter", "operator.itemgetter"),
    }
)
# All of these, too.
_PURE_MODULES = (
    *("fewshot_bench.", "math.", "typing.", "typing_extensions.", "collections.", "abc."),
    *("dataclasses.", "enum.", "types."),
)
# Imports without an effect on numbers that the name does not show.
QUIET = sys.stdlib_module_names | {"fewshot_bench", "numpy", "torch", "typing_extensions"}
# A text that may be an annotation, or name something of a module.
_NAMES = re.compile(r"[\w.]+(\s*[|,:\[\]'\"]+\s*[\w.]*)*")
# The longest text that may name a file.
_LONGEST = 200
# What no name of a file holds.
_IN_NO_PATH = re.compile("[\n\0\ud800-\udfff]")


class Import(msgspec.Struct, frozen=True, array_like=True):
    """`from module import name as bound`; without `name`, `import module as bound`.

    level: dots of a relative import.
    """

    bound: str
    module: str
    name: str = ""
    level: int = 0


class Statement(msgspec.Struct, frozen=True, array_like=True):
    """A statement of a module, or one name of an import. binds: the names that it gives a value.

    parts: name and digest of its text, or of each method and of the rest of a class. names: all
    that it mentions. words: those of `WORDS`. strings: constants that may name files, with `*` for
    what is computed. imports: also in its functions. bases: of a derived class.
    """

    kind: str
    binds: tuple[str, ...]
    parts: tuple[tuple[str, str], ...] = ()
    names: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    strings: tuple[str, ...] = ()
    imports: tuple[Import, ...] = ()
    bases: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """The statements of a module, in order. digest: of its bytes.

    parsed: False for bytes that are no Python code. runs: always, since it implements hooks of
    plug-ins or changes what it imports. has_hooks: it defines hooks for subclasses.
    """

    digest: str
    statements: tuple[Statement, ...] = ()
    parsed: bool = True
    runs: bool = False
    has_hooks: bool = False


def read_facts(source: bytes, digest: str) -> Facts:
    """The facts of a module's source. digest: SHA-256 of it."""
    try:
        return _Reader(ast.parse(source)).read(digest)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return Facts(digest, parsed=False)


class _Reader:
    """Reads the statements of one module."""

    def __init__(self, tree: ast.Module) -> None:
        self._find_imported(tree)
        self._drop_idle(tree)
        self._find_imported(tree)
        self._tree = tree
        # Names that are bound more than once: what they mean depends on the order.
        bound = [name for node in tree.body for name in _bound_by(node)]
        self._bound = set(bound)
        self._twice = {n for n in self._bound if bound.count(n) > 1 or hasattr(builtins, n)}

    def read(self, digest: str) -> Facts:
        """The facts of the module."""
        every = list(ast.walk(self._tree))
        classes = [node for node in every if isinstance(node, ast.ClassDef)]
        members = {getattr(member, "name", "") for node in classes for member in node.body}
        is_meta = any(keyword.arg == "metaclass" for node in classes for keyword in node.keywords)
        return Facts(
            digest,
            tuple(one for node in self._tree.body for one in self._read(node)),
            runs=any(map(_is_hook, every)) or any(map(self._is_patch, self._tree.body)),
            has_hooks=is_meta or bool(members & _HOOKS),
        )

    def _read(self, node: ast.stmt) -> Iterator[Statement]:
        binds = tuple(dict.fromkeys(_bound_by(node)))
        imports = tuple(_imports_of([node]))
        kind = self._kind(node)
        if kind == IMPORT:
            for one in imports:
                words = {*one.module.split("."), one.name, f"{one.module}.{one.name}"} & WORDS
                yield Statement(kind, (one.bound,), words=tuple(sorted(words)), imports=(one,))
            return
        if _is_hook(node) and getattr(node, "name", "").startswith("register_"):
            # What it registers is another matter than what it calls.
            calls = (_chain(call.func) for call in ast.walk(node) if isinstance(call, ast.Call))
            names = tuple(sorted({chain.partition(".")[0] for chain in calls} - {""}))
            yield Statement(kind, binds, names=names, imports=imports)
            return
        bases = tuple(filter(self._is_unknown, map(_base, getattr(node, "bases", ()))))
        yield Statement(kind, binds, tuple(_parts(node, binds)), *_mentions(node), imports, bases)

    def _kind(self, node: ast.stmt) -> str:
        if self._twice & {*_bound_by(node)} or _is_hook(node):
            return EFFECT
        if isinstance(node, ast.Import | ast.ImportFrom):
            return EFFECT if any(alias.name == "*" for alias in node.names) else IMPORT
        if not self._is_quiet(node):
            return EFFECT
        bases = map(_base, getattr(node, "bases", ()))
        return DERIVED if any(map(self._is_unknown, bases)) else PURE

    def _is_quiet(self, node: ast.stmt) -> bool:
        """True for a statement that only gives names a value, as far as can be seen."""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defaults = (*node.args.defaults, *filter(None, node.args.kw_defaults))
            return all(map(self._wraps, node.decorator_list)) and all(map(self._is_pure, defaults))
        if isinstance(node, ast.ClassDef):
            values = (keyword.value for keyword in node.keywords)
            outside = all(map(self._wraps, node.decorator_list)) and all(map(self._is_pure, values))
            return outside and all(map(_base, node.bases)) and all(map(self._is_quiet, node.body))
        if isinstance(node, ast.Assign):
            targets = [inner for target in node.targets for inner in ast.walk(target)]
            return not any(map(_is_place, targets)) and self._is_pure(node.value)
        if isinstance(node, ast.AnnAssign):
            values = (value for value in (node.value, node.annotation) if value is not None)
            return isinstance(node.target, ast.Name) and all(map(self._is_pure, values))
        return type(node).__name__ == "TypeAlias"

    def _wraps(self, node: ast.expr) -> bool:
        """True for a decorator that does nothing else."""
        if isinstance(node, ast.Call):
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            return self._wraps(node.func) and all(map(self._is_pure, values))
        chain = _chain(node)
        return chain.endswith((".setter", ".getter", ".deleter")) or self._is_listed(chain)

    def _is_pure(self, node: ast.expr) -> bool:
        """True if computing a value changes nothing else, as far as can be seen."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call):
                function = inner.func
                is_text = isinstance(function, ast.Attribute) and isinstance(
                    function.value, ast.Constant
                )
                calls_back = any(keyword.arg == "key" for keyword in inner.keywords)
                if calls_back or not (is_text or self._is_listed(_chain(function))):
                    return False
            elif isinstance(inner, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
                return False
        return True

    def _is_listed(self, chain: str) -> bool:
        """True for a dotted name that is known to change nothing."""
        name = self._resolve(chain)
        own = name.partition(".")[0] in self._bound - self._imported.keys()
        listed = name in _PURE or name.startswith(_PURE_MODULES)
        return listed and not own and not name.endswith(".register")

    def _is_unknown(self, base: str) -> bool:
        return not self._is_listed(base)

    def _resolve(self, chain: str) -> str:
        """A dotted name with its import resolved."""
        first, dot, rest = chain.partition(".")
        return f"{self._imported.get(first, first)}{dot}{rest}"

    def _is_patch(self, node: ast.stmt) -> bool:
        """True for a statement outside of functions that may change what the module imports."""
        for inner in _outside_functions([node]):
            changed = [one.value for one in _targets(inner) if _is_place(one)]
            if isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Call):
                call = inner.value
                changed = [call.func, *call.args[:1]]
            elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                changed = [getattr(one, "func", one) for one in inner.decorator_list]
            for one in changed:
                while isinstance(one, ast.Subscript):
                    one = one.value
                name = _chain(one).partition(".")[0]
                top = self._imported.get(name, "sys").partition(".")[0]
                if top not in QUIET:
                    return True
        return False

    # What does not count.

    def _find_imported(self, tree: ast.Module) -> None:
        """Take down what the imports of a module stand for."""
        self._imported = {}
        for one in _imports_of(tree.body, functions=False):
            full = f"{'.' * one.level}{one.module}" + (f".{one.name}" if one.name else "")
            is_plain = not one.name and one.bound == one.module.partition(".")[0]
            self._imported[one.bound] = one.bound if is_plain else full

    def _drop_idle(self, tree: ast.Module) -> None:
        """Remove what does nothing when a module is imported, and the papers of cards."""
        every = list(ast.walk(tree))
        is_set = any(_is_stored(node, "TYPE_CHECKING") for node in every)
        never = {"__name__"} if is_set else {"__name__", "typing.TYPE_CHECKING"}
        for node in every:
            for field in ("body", "orelse", "finalbody"):
                if isinstance(body := getattr(node, field, None), list):
                    setattr(node, field, list(self._strip(body, never)))
            if isinstance(node, ast.Call) and node.keywords:
                name = self._resolve(_chain(node.func))
                if name.startswith("fewshot_bench.") and name.endswith("MethodCard"):
                    node.keywords = [one for one in node.keywords if one.arg != "paper"]

    def _strip(self, body: Iterable[ast.stmt], never: set[str]) -> Iterator[ast.stmt]:
        for node in body:
            if isinstance(node, ast.Pass):
                continue
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            if isinstance(node, ast.If):
                is_main = ast.unparse(node.test) == "__name__ == '__main__'"
                if is_main or self._resolve(_chain(node.test)) in never:
                    yield from self._strip(node.orelse, never)
                    continue
            yield node


def _parts(node: ast.stmt, binds: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Name and digest of a statement; of a class, of its methods and of the rest."""
    name = ",".join(binds)
    if isinstance(node, ast.ClassDef):
        kinds = ast.FunctionDef | ast.AsyncFunctionDef
        methods = [member for member in node.body if isinstance(member, kinds)]
        if len({method.name for method in methods}) == len(methods):
            rest = copy.copy(node)
            rest.body = [member for member in node.body if member not in methods]
            yield name, _digest(rest)
            yield from ((f"{name}.{method.name}", _digest(method)) for method in methods)
            return
    yield name, _digest(node)


def _mentions(node: ast.AST) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The names of a statement, its words that reach further, and its short strings."""
    names: set[str] = set()
    words: set[str] = set()
    strings: set[str] = set()
    # The file of a hyper-parameter counts in the cell, not in the code.
    defaults = {
        constant
        for inner in ast.walk(node)
        if isinstance(inner, ast.AnnAssign) and inner.value and _is_path(inner.annotation)
        for constant in ast.walk(inner.value)
    }
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            names.add(inner.id)
        elif isinstance(inner, ast.Attribute):
            # `model.eval()` is another one.
            words |= {_chain(inner)} if inner.attr in _AMBIGUOUS else {_chain(inner), inner.attr}
        elif isinstance(inner, ast.Import):
            words |= {part for alias in inner.names for part in alias.name.split(".")}
        elif isinstance(inner, ast.ImportFrom):
            words |= {*(inner.module or "").split("."), *(alias.name for alias in inner.names)}
        elif isinstance(inner, ast.JoinedStr):
            values = (getattr(value, "value", "") for value in inner.values)
            strings.add("".join(value if isinstance(value, str) else "*" for value in values))
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            strings |= {inner.value} - {""} if inner not in defaults else set()
    texts = {text for text in strings if len(text) <= _LONGEST and not _IN_NO_PATH.search(text)}
    words |= names | (texts if (names | words) & _BY_TEXT else set())
    for text in filter(_NAMES.fullmatch, texts):
        names.update(re.findall(r"[^\W\d]\w*", text))
    return tuple(sorted(names)), tuple(sorted(words & WORDS)), tuple(sorted(texts))


def _write(node: Any) -> Iterator[str]:
    """The text of a node: names of fields and values, without empty ones and positions."""
    if isinstance(node, ast.JoinedStr):
        node = _merge(node)
    yield f"{type(node).__name__}("
    for field in node._fields:
        value = getattr(node, field, None)
        if field in ("ctx", "kind", "type_comment", "type_ignores") or value is None or value == []:
            continue
        yield f"{field}="
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield from _write(item)
            else:
                yield f"{_constant(item)};"
        if isinstance(value, list):
            yield "."
    yield ")"


def _merge(node: ast.JoinedStr) -> ast.JoinedStr:
    """An f-string with neighboring texts as one, as no version of Python differs then."""
    values: list[ast.expr] = []
    for value in node.values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            if not value.value:
                continue
            if values and isinstance(values[-1], ast.Constant):
                values[-1] = ast.Constant(f"{values[-1].value!s}{value.value}")
                continue
        if isinstance(value, ast.FormattedValue) and isinstance(value.format_spec, ast.JoinedStr):
            spec = _merge(value.format_spec)
            value = ast.FormattedValue(value.value, value.conversion, spec if spec.values else None)
        values.append(value)
    return ast.JoinedStr(values)


def _constant(value: Any) -> str:
    """The text of a constant, with its type."""
    if isinstance(value, bool) or value is None or value is ...:
        return repr(value)
    if isinstance(value, int):
        # No limit on digits, unlike `repr`.
        return f"i{value:x}"
    if isinstance(value, float):
        return f"f{value.hex()}"
    if isinstance(value, complex):
        return f"c{value.real.hex()},{value.imag.hex()}"
    text = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return f"{type(value).__name__}{text.hex()}"


def _digest(node: ast.AST) -> str:
    return hashlib.sha256("".join(_write(node)).encode()).hexdigest()[:32]


# Looking at nodes.


def _outside_functions(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    todo = list(body)
    while todo:
        inner = todo.pop(0)
        yield inner
        if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(inner)


def _imports_of(body: Iterable[ast.AST], functions: bool = True) -> Iterator[Import]:
    """The imports of statements, with or without those in functions."""
    nodes = (inner for node in body for inner in ast.walk(node))
    for inner in nodes if functions else _outside_functions(body):
        if isinstance(inner, ast.Import):
            for alias in inner.names:
                yield Import(alias.asname or alias.name.partition(".")[0], alias.name)
        elif isinstance(inner, ast.ImportFrom):
            for alias in inner.names:
                bound = alias.asname or alias.name
                yield Import(bound, inner.module or "", alias.name, inner.level)


def _bound_by(node: ast.AST) -> Iterator[str]:
    """The names that a statement of a module binds there."""
    todo = [node]
    while todo:
        inner = todo.pop()
        if isinstance(inner, ast.Import | ast.ImportFrom):
            yield from (one.bound for one in _imports_of([inner]))
            continue
        if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
            yield inner.id
        elif isinstance(name := getattr(inner, "name", None), str):
            # A function, a class, `except E as name`, or a pattern.
            yield name
        elif isinstance(inner, ast.MatchMapping) and inner.rest:
            yield inner.rest
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(inner, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            # Their variables are their own; names bound by := are of the module.
            todo += [one for one in ast.walk(inner) if isinstance(one, ast.NamedExpr)]
            continue
        todo += ast.iter_child_nodes(inner)


def _targets(node: ast.AST) -> list[Any]:
    """What a statement assigns to, changes or deletes, with what is inside."""
    given = getattr(node, "targets", [getattr(node, "target", None)])
    return [inner for one in given if isinstance(one, ast.AST) for inner in ast.walk(one)]


def _is_place(node: ast.AST) -> bool:
    """True for a part of another object, such as `module.name` or `table[key]`."""
    return isinstance(node, ast.Attribute | ast.Subscript)


def _is_stored(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)


def _is_hook(node: ast.AST) -> bool:
    """True for a function that implements a hook of plug-ins."""
    chains = (_chain(getattr(one, "func", one)) for one in getattr(node, "decorator_list", ()))
    return any("hookimpl" in chain.split(".") for chain in chains)


def _is_path(annotation: ast.expr) -> bool:
    """True for the type of a hyper-parameter that is a file."""
    return any(_chain(inner).split(".")[-1] == "Path" for inner in ast.walk(annotation))


def _base(node: ast.expr) -> str:
    """The dotted name of a base class, without its parameters."""
    return _chain(node.value if isinstance(node, ast.Subscript) else node)


def _chain(node: ast.AST) -> str:
    """`a.b.c` of an expression that is only names; else empty."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""
