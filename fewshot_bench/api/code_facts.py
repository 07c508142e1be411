"""What the statements of a Python module define, use and do, by syntax alone.

`read_facts` is the entry point; `api/code_closure.py` follows names through these facts. Texts that
are compared leave out comments, docstrings, formatting, positions and `pass`; they are equal in all
supported versions of Python. Annotations count: fields are typed by them, and libraries dispatch on
them. What is below `if TYPE_CHECKING` or `if __name__ == "__main__"` does not: no import runs it.
"""

from __future__ import annotations

import ast
import builtins
import copy
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

# Raise it when facts or texts change.
VERSION = 2

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
        *("getfile", "getsourcefile", "pkg_resources", "__cached__", "__loader__"),
    }
)
WORDS = OF_MODULE | OF_PACKAGE | OF_TEXT | OF_FILES
_AMBIGUOUS = frozenset({"eval", "exec", "gc", "globals", "reload", "resources"})
# Classes with these decide what happens when others are derived from or named in them.
_HOOKS = frozenset({"__init_subclass__", "__set_name__", "__prepare__", "__mro_entries__"})

# Imports without an effect on numbers that the name does not show.
QUIET = frozenset(
    {
        *("__future__", "abc", "argparse", "ast", "base64", "bisect", "collections", "contextlib"),
        *("copy", "csv", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools"),
        *("gc", "glob", "hashlib", "heapq", "importlib", "inspect", "io", "itertools", "json"),
        *("logging", "math", "numbers", "operator", "os", "pathlib", "pickle", "pprint", "random"),
        *("re", "shutil", "statistics", "string", "struct", "subprocess", "sys", "tempfile"),
        *("textwrap", "threading", "time", "types", "typing", "typing_extensions", "unicodedata"),
        *("urllib", "uuid", "warnings", "weakref", "zipfile", "fewshot_bench", "numpy", "torch"),
    }
)
# Calls that only make a value, and decorators that only wrap one.
_PURE_CALLS = frozenset(
    {
        *("bool", "bytes", "complex", "dict", "enumerate", "float", "frozenset", "int", "len"),
        *("list", "max", "min", "object", "pow", "range", "reversed", "round", "set", "slice"),
        *("str", "sum", "tuple", "zip", "abs", "repr", "ord", "chr", "divmod", "sorted"),
        *("typing.TypeVar", "typing.ParamSpec", "typing.NewType", "typing.cast"),
        *("typing_extensions.TypeVar", "typing_extensions.ParamSpec"),
        *("collections.OrderedDict", "collections.defaultdict", "collections.Counter"),
        *("collections.deque", "collections.namedtuple", "types.MappingProxyType"),
        *("types.SimpleNamespace", "functools.partial", "operator.attrgetter"),
        *("operator.itemgetter", "pathlib.Path", "pathlib.PurePath", "re.compile"),
        *("fractions.Fraction", "decimal.Decimal", "dataclasses.field", "logging.getLogger"),
        *("os.path.join", "os.path.dirname", "os.path.abspath", "math.*"),
        *("torch.Size", "torch.device", "torch.tensor", "numpy.array"),
    }
)
_PURE_DECORATORS = frozenset(
    {
        *("property", "staticmethod", "classmethod", "abc.abstractmethod", "typing.overload"),
        *("dataclasses.dataclass", "functools.cached_property", "functools.cache"),
        *("functools.lru_cache", "functools.wraps", "functools.total_ordering"),
        *("typing.runtime_checkable", "typing.final", "typing.override", "typing.no_type_check"),
        *("typing_extensions.override", "typing_extensions.final", "contextlib.contextmanager"),
        *("torch.no_grad", "torch.inference_mode", "torch.enable_grad", "enum.unique"),
    }
)
_PURE_BASES = frozenset(
    {
        *("object", "dict", "list", "set", "frozenset", "tuple", "int", "float", "str"),
        *(n for n, v in vars(builtins).items() if isinstance(v, type) and n.endswith("Error")),
        *("Exception", "Warning", "typing.Protocol", "typing.Generic", "typing.NamedTuple"),
        *("typing.TypedDict", "abc.ABC", "enum.Enum", "enum.IntEnum", "enum.StrEnum", "enum.Flag"),
        *("torch.nn.Module", "torch.autograd.Function", "torch.optim.Optimizer"),
        *("torch.utils.data.Dataset", "collections.abc.*"),
    }
)
# The longest text that may name a file.
_LONGEST = 200
# Keywords of calls of this package that no number depends on.
_BIBLIOGRAPHY = frozenset({"paper"})


class Import(msgspec.Struct, frozen=True, array_like=True):
    """`from module import name as bound`; without `name`, `import module as bound`.

    level: dots of a relative import. whole: bound is the first part of `module`.
    """

    bound: str
    module: str
    name: str = ""
    level: int = 0


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A function, a method, or the rest of a class or statement.

    name: within the module. digest: of its text. uses: dotted names from outside of it. imports:
    in its functions.
    """

    name: str
    digest: str
    uses: tuple[str, ...] = ()
    imports: tuple[Import, ...] = ()


class Statement(msgspec.Struct, frozen=True, array_like=True):
    """A statement of a module. binds: the names that it gives a value.

    strings: constants that may name files or modules. bases: of a derived class. hooks: names that
    an implementation of a hook calls; `*` for all that it uses.
    """

    kind: str
    binds: tuple[str, ...]
    parts: tuple[Part, ...]
    words: tuple[str, ...] = ()
    strings: tuple[str, ...] = ()
    imports: tuple[Import, ...] = ()
    bases: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """The statements of a module, in order. digest: of its bytes.

    parsed: False for bytes that are no Python code. registers: it implements hooks of plug-ins.
    patches: it changes attributes of what it imports. has_hooks: it defines hooks for subclasses.
    """

    digest: str
    statements: tuple[Statement, ...] = ()
    parsed: bool = True
    registers: bool = False
    patches: bool = False
    has_hooks: bool = False


def read_facts(source: bytes, digest: str) -> Facts:
    """The facts of a module's source. digest: SHA-256 of it."""
    try:
        tree = ast.parse(source)
        return _Reader(tree).read(digest)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return Facts(digest, parsed=False)


class _Reader:
    """Reads the statements of one module."""

    def __init__(self, tree: ast.Module) -> None:
        self._body = list(_strip(tree.body))
        self._names: dict[str, str] = {}
        # Names that are bound more than once: what they mean depends on the order.
        bound: list[str] = []
        self._imported: dict[str, str] = {}
        for node in self._body:
            names = list(_bound_by(node))
            bound += names
            for one in _imports_of(node):
                dots = "." * one.level
                full = f"{dots}{one.module}" + (f".{one.name}" if one.name else "")
                plain = not one.name and one.bound == one.module.partition(".")[0]
                self._imported[one.bound] = one.bound if plain else full
        self._bound = set(bound)
        twice = {name for name in self._bound if bound.count(name) > 1}
        self._twice = twice | {name for name in self._bound if hasattr(builtins, name)}
        self._drop_bibliography(tree)

    def read(self, digest: str) -> Facts:
        """The facts of the module."""
        statements = tuple(self._read(node) for node in self._body)
        return Facts(
            digest,
            statements,
            registers=any("hookimpl" in part for node in self._body for part in _decorators(node)),
            patches=any(self._is_patch(node) for node in self._body),
            has_hooks=any(
                isinstance(node, ast.ClassDef)
                and (any(k.arg == "metaclass" for k in node.keywords) or _names_in(node) & _HOOKS)
                for top in self._body
                for node in ast.walk(top)
            ),
        )

    def _read(self, node: ast.stmt) -> Statement:
        binds = tuple(dict.fromkeys(_bound_by(node)))
        imports = tuple(_imports_of(node))
        words, strings = _mentions(node)
        kind = self._kind(node, binds)
        parts = () if kind == IMPORT else tuple(self._parts(node, binds))
        hooks: tuple[str, ...] = ()
        if any("hookimpl" in one for one in _decorators(node)):
            hooks = tuple(self._called(node)) if _is_registration(node) else ("*",)
        bases = tuple(map(_base, node.bases)) if isinstance(node, ast.ClassDef) else ()
        return Statement(kind, binds, parts, words, strings, imports, bases, hooks)

    # What a statement does.

    def _kind(self, node: ast.stmt, binds: Iterable[str]) -> str:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            return EFFECT if "*" in names or self._twice & set(binds) else IMPORT
        if self._twice & set(binds):
            return EFFECT
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return PURE if self._is_plain_function(node) else EFFECT
        if isinstance(node, ast.ClassDef):
            return self._kind_of_class(node)
        if isinstance(node, ast.Assign):
            is_plain = all(isinstance(target, ast.Name | ast.Tuple) for target in node.targets)
            return PURE if is_plain and self._is_pure(node.value) else EFFECT
        if isinstance(node, ast.AnnAssign):
            is_plain = isinstance(node.target, ast.Name)
            pure = is_plain and (node.value is None or self._is_pure(node.value))
            return PURE if pure and self._is_pure(node.annotation) else EFFECT
        return PURE if type(node).__name__ == "TypeAlias" else EFFECT

    def _is_plain_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
        return all(map(self._is_pure_decorator, node.decorator_list)) and all(
            map(self._is_pure, defaults)
        )

    def _is_pure_decorator(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Call):
            return self._is_pure_decorator(node.func) and self._are_pure(node)
        name = self._resolve(node)
        is_setter = name.endswith((".setter", ".getter", ".deleter"))
        return is_setter or name in _PURE_DECORATORS or name.startswith("fewshot_bench.")

    def _kind_of_class(self, node: ast.ClassDef) -> str:
        kind = PURE
        if not all(map(self._is_pure_decorator, node.decorator_list)):
            return EFFECT
        for base in map(_base, node.bases):
            name = self._resolve_name(base)
            if _is_listed(name, _PURE_BASES) or name.startswith("fewshot_bench."):
                continue
            if not self._may_be_own(base):
                # The base of another package may do anything with what derives from it.
                return EFFECT
            kind = DERIVED
        if not all(self._is_pure(keyword.value) for keyword in node.keywords):
            return EFFECT
        return kind if all(map(self._is_quiet_member, node.body)) else EFFECT

    def _may_be_own(self, chain: str) -> bool:
        """True for a dotted name of this module, or of an import that may be of its package."""
        first = chain.partition(".")[0]
        return first in self._bound and self._imported.get(first, "").split(".")[0] not in QUIET

    def _is_quiet_member(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return self._is_plain_function(node)
        if isinstance(node, ast.ClassDef):
            return self._kind_of_class(node) == PURE
        if isinstance(node, ast.Assign):
            is_plain = all(isinstance(target, ast.Name | ast.Tuple) for target in node.targets)
            return is_plain and self._is_pure(node.value)
        if isinstance(node, ast.AnnAssign):
            return node.value is None or self._is_pure(node.value)
        return isinstance(node, ast.Pass) or _is_constant(node)

    def _is_pure(self, node: ast.expr) -> bool:
        """True if computing a value changes nothing else, as far as can be seen."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call):
                function = inner.func
                if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Constant):
                    # A method of a text.
                    continue
                name = self._resolve(function)
                if name in self._bound or (name == "sorted" and inner.keywords):
                    return False
                if not _is_listed(name, _PURE_CALLS) and not name.startswith("fewshot_bench."):
                    return False
            elif isinstance(inner, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
                return False
        return True

    def _are_pure(self, node: ast.Call) -> bool:
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        return all(map(self._is_pure, values))

    def _resolve(self, node: ast.expr) -> str:
        """The dotted name of an expression with imports resolved; empty if it is none."""
        return self._resolve_name(_chain(node))

    def _resolve_name(self, chain: str) -> str:
        first, dot, rest = chain.partition(".")
        return f"{self._imported.get(first, first)}{dot}{rest}"

    def _is_patch(self, node: ast.stmt) -> bool:
        """True for a statement outside of functions that may change what the module imports."""
        for inner in _outside_functions(node):
            changed: list[ast.expr] = []
            if isinstance(inner, ast.Assign | ast.Delete):
                changed = [_inside(target) for target in inner.targets]
            elif isinstance(inner, ast.AugAssign | ast.AnnAssign):
                changed = [_inside(inner.target)]
            elif isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Call):
                call = inner.value
                is_set = _chain(call.func) in ("setattr", "delattr")
                changed = call.args[:1] if is_set else [call.func]
            elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                changed = [_called(one) for one in inner.decorator_list]
            names = (_chain(one).partition(".")[0] for one in changed)
            if any(name in self._imported and self._may_be_own(name) for name in names):
                return True
        return False

    # The parts of a statement.

    def _parts(self, node: ast.stmt, binds: tuple[str, ...]) -> Iterator[Part]:
        name = ",".join(binds)
        if isinstance(node, ast.ClassDef) and name:
            methods = [
                member
                for member in node.body
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            if len({method.name for method in methods}) == len(methods):
                rest = copy.copy(node)
                rest.body = _without(node.body, methods)
                yield self._part(name, rest)
                for method in methods:
                    yield self._part(f"{name}.{method.name}", method)
                return
        yield self._part(name, node)

    def _part(self, name: str, node: ast.stmt) -> Part:
        scope = _Scope()
        scope.visit(node)
        uses = tuple(sorted(scope.uses))
        imports = tuple(
            one
            for child in ast.walk(node)
            if isinstance(child, ast.Import | ast.ImportFrom)
            for one in _imports_of(child)
        )
        return Part(name, _digest("".join(self._write(node))), uses, imports)

    def _write(self, node: Any) -> Iterator[str]:
        """The text of a node: names of fields and values, without empty ones and positions."""
        if isinstance(node, ast.JoinedStr):
            node = _merge(node)
        yield f"{type(node).__name__}("
        for field in node._fields:
            value = getattr(node, field, None)
            if field in _UNREAD or value is None or value == []:
                continue
            yield f"{field}="
            if isinstance(value, list):
                is_body = field in _BODIES and bool(value) and isinstance(value[0], ast.stmt)
                for item in _strip(value) if is_body else value:
                    if isinstance(item, ast.AST):
                        yield from self._write(item)
                    else:
                        yield f"{_constant(item)};"
                yield "."
            elif isinstance(value, ast.AST):
                yield from self._write(value)
            else:
                yield f"{_constant(value)};"
        yield ")"

    def _drop_bibliography(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.keywords:
                name = self._resolve(node.func)
                if name.startswith("fewshot_bench.") and name.endswith("MethodCard"):
                    node.keywords = [one for one in node.keywords if one.arg not in _BIBLIOGRAPHY]

    def _called(self, node: ast.AST) -> Iterator[str]:
        """Names that a function that registers calls; what it hands over is another matter."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call) and (chain := _chain(inner.func)):
                yield chain


_UNREAD = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_BODIES = frozenset({"body", "orelse", "finalbody"})


_NAMED = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler),
    *(ast.MatchAs, ast.MatchStar),
)


class _Scope(ast.NodeVisitor):
    """Collects in `uses` the dotted names that a statement takes from outside of its functions."""

    def __init__(self) -> None:
        self.uses: set[str] = set()
        self._locals: list[set[str]] = []

    def _use(self, chain: str) -> None:
        first = chain.partition(".")[0]
        if not any(first in names for names in self._locals):
            self.uses.add(chain)

    def visit_Name(self, node: ast.Name) -> None:
        """A name; one that is given a value here is none from outside."""
        if not isinstance(node.ctx, ast.Store):
            self._use(node.id)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """A field: its type may be written as a text."""
        self.generic_visit(node)
        if isinstance(node.annotation, ast.Constant) and isinstance(node.annotation.value, str):
            with suppress(SyntaxError, ValueError):
                self.visit(ast.parse(node.annotation.value, mode="eval"))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """A dotted name, or an attribute of another expression."""
        if chain := _chain(node):
            self._use(chain)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """A function: its parameters and what it binds are its own."""
        for outside in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            if outside is not None:
                self.visit(outside)
        self._enter(node.args, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """A function without a name."""
        for outside in (*node.args.defaults, *node.args.kw_defaults):
            if outside is not None:
                self.visit(outside)
        self._enter(node.args, [node.body])

    def _visit_comprehension(self, node: Any) -> None:
        """A comprehension: its variables are its own, but not where its first iterable is."""
        self.visit(node.generators[0].iter)
        targets = [inner for one in node.generators for inner in ast.walk(one.target)]
        self._locals.append({one.id for one in targets if isinstance(one, ast.Name)})
        for field, value in ast.iter_fields(node):
            for one in value if field == "generators" else [value]:
                parts = ast.iter_child_nodes(one) if field == "generators" else [one]
                for part in parts:
                    if part is not node.generators[0].iter:
                        self.visit(part)
        self._locals.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension

    def _enter(self, args: ast.arguments, body: Iterable[ast.AST]) -> None:
        body = list(body)
        every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
        names = {arg.arg for arg in every if arg is not None}
        outer: set[str] = set()
        for node in _in_function(body):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                names.add(node.id)
            elif isinstance(node, _NAMED) and node.name:
                names.add(node.name)
            elif isinstance(node, ast.Global | ast.Nonlocal):
                outer |= set(node.names)
        self._locals.append(names - outer)
        for name in outer:
            self._use(name)
        for node in body:
            self.visit(node)
        self._locals.pop()


def _in_function(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of a function's own scope: inner functions and classes, not what is in them."""
    todo = list(body)
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            # Their variables are their own; names bound by := are of the function.
            todo += [one for one in ast.walk(node) if isinstance(one, ast.NamedExpr)]
            continue
        todo += ast.iter_child_nodes(node)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    todo = [node]
    while todo:
        inner = todo.pop()
        yield inner
        if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(inner)


def _inside(target: ast.expr) -> ast.expr:
    """What `target[...]` or `target.name` is a part of; an empty tuple for a name."""
    if not isinstance(target, ast.Attribute | ast.Subscript):
        return ast.Tuple([])
    while isinstance(target.value, ast.Subscript):
        target = target.value
    return target.value


def _called(node: ast.expr) -> ast.expr:
    return node.func if isinstance(node, ast.Call) else node


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


def _strip(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body that do something, as a module is imported."""
    for node in body:
        if isinstance(node, ast.Pass) or _is_constant(node):
            continue
        if isinstance(node, ast.If) and _never_runs(node.test):
            yield from _strip(node.orelse)
            continue
        yield node


def _is_constant(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _never_runs(test: ast.expr) -> bool:
    if _chain(test).split(".")[-1] == "TYPE_CHECKING":
        return True
    return (
        isinstance(test, ast.Compare)
        and _chain(test.left) == "__name__"
        and isinstance(test.ops[0], ast.Eq)
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value == "__main__"
    )


def _bound_by(node: ast.AST) -> Iterator[str]:
    """The names that a statement of a module binds there."""
    for inner in _in_function([node]):
        if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
            yield inner.id
        elif isinstance(inner, ast.Import | ast.ImportFrom):
            yield from (one.bound for one in _imports_of(inner))
        elif isinstance(inner, _NAMED) and inner.name:
            yield inner.name
        elif isinstance(inner, ast.MatchMapping) and inner.rest:
            yield inner.rest


def _imports_of(node: ast.AST) -> Iterator[Import]:
    """The imports of a statement outside of functions."""
    for inner in _outside_functions(node):
        if isinstance(inner, ast.Import):
            for alias in inner.names:
                bound = alias.asname or alias.name.partition(".")[0]
                yield Import(bound, alias.name)
        elif isinstance(inner, ast.ImportFrom):
            for alias in inner.names:
                bound = alias.asname or alias.name
                yield Import(bound, inner.module or "", alias.name, inner.level)


def _decorators(node: ast.AST) -> list[list[str]]:
    """The dotted names of all decorators in a statement, split."""
    return [
        _chain(one.func if isinstance(one, ast.Call) else one).split(".")
        for inner in ast.walk(node)
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
        for one in inner.decorator_list
    ]


def _is_registration(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("register_")


def _names_in(node: ast.ClassDef) -> set[str]:
    return {getattr(member, "name", "") for member in node.body}


def _is_listed(name: str, names: frozenset[str]) -> bool:
    return name in names or f"{name.rpartition('.')[0]}.*" in names


def _is_path(annotation: ast.expr) -> bool:
    """True for the type of a hyper-parameter that is a file."""
    return any(_chain(inner).split(".")[-1] == "Path" for inner in ast.walk(annotation))


def _mentions(node: ast.AST) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of a statement that reach further than names, and its short strings."""
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
            words.add(inner.id)
        elif isinstance(inner, ast.Attribute):
            # `model.eval()` is another one.
            words |= {_chain(inner)} if inner.attr in _AMBIGUOUS else {_chain(inner), inner.attr}
        elif isinstance(inner, ast.Import):
            words |= {part for alias in inner.names for part in alias.name.split(".")}
        elif isinstance(inner, ast.ImportFrom):
            words |= {*(inner.module or "").split("."), *(alias.name for alias in inner.names)}
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            if inner in defaults:
                continue
            strings.add(inner.value)
    names = (text for text in strings if 0 < len(text) <= _LONGEST and not {"\n", "\0"} & {*text})
    return tuple(sorted(words & WORDS)), tuple(sorted(names))


def _without(body: list[ast.stmt], removed: Iterable[ast.stmt]) -> list[ast.stmt]:
    gone = set(map(id, removed))
    return [node for node in body if id(node) not in gone]


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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
