"""The digest of a method's code changes with edits of what its class uses, and nothing else."""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsbench_methods
import pytest

from fewshot_bench.api.code_closure import (
    CHANGED,
    ROOT_OF_DESCRIBED,
    Root,
    describe_parts,
    list_changes,
    note_import,
    running_digest,
    source_digest,
)
from fewshot_bench.api.code_facts import read_facts
from fewshot_bench.api.own_methods import OwnMethod, of_file, read_files
from fewshot_bench.api.registry import registry

Files = dict[str, str]


def write(folder: Path, files: Files) -> None:
    """Write files below a folder."""
    for file, text in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def described(folder: Path, module: str = "pkg.method", name: str = "Method") -> type:
    """A class of a package in a folder, as another process describes it: nothing is imported."""
    top = module.partition(".")[0]
    root = Root(top, str(folder / top / "__init__.py"), (str(folder / top),))
    if not (folder / top).is_dir():
        root = Root(top, str(folder / f"{top}.py"))
    return type(name, (), {"__module__": module, ROOT_OF_DESCRIBED: root})


METHOD = """\
import math

from pkg.helper import scale
from pkg import tables


class Method:
    \"\"\"A method.\"\"\"

    rate: float = 0.5

    def fit(self, task, backbone, ctx):
        # Scaled by the rate.
        return scale(self.rate) + tables.FIRST + math.pi
"""
PACKAGE = {
    "pkg/__init__.py": "",
    "pkg/method.py": METHOD,
    "pkg/helper.py": "FACTOR = 2\n\n\ndef scale(x):\n    return x * FACTOR\n\n\n"
    "def other():\n    return 1\n",
    "pkg/tables.py": "FIRST = 1\nSECOND = 2\n",
    "pkg/second.py": "class Second:\n    def fit(self, task, backbone, ctx):\n        return 1\n",
}


@pytest.mark.parametrize(
    ("file", "before", "after", "counts"),
    [
        ("method", "# Scaled", "# Divided", False),
        ("method", "A method.", "The method.", False),
        ("method", "import math\n", "import math\n\n\n", False),
        (
            "method",
            "scale(self.rate) + tables",
            "(scale( self.rate )\n            ) + tables",
            False,
        ),
        ("method", "import math", "from typing import TYPE_CHECKING\nimport math", False),
        (
            "method",
            "class Method",
            "if __name__ == '__main__':\n    print(1)\n\n\nclass Method",
            False,
        ),
        ("method", "0.5", "0.50", False),
        ("method", "0.5", "0.25", True),
        ("method", "float", "int", True),
        ("method", "+ tables", "- tables", True),
        ("method", "FIRST", "SECOND", True),
        ("method", "math.pi", "math.e", True),
        ("method", "import math", "import cmath as math", True),
        ("method", "import math", "import math\nimport patches_of_torch", True),
        ("method", "pkg.helper import scale", "pkg.helper import other as scale", True),
        ("method", "class Method:", "class Method(dict):", True),
        ("helper", "FACTOR = 2", "FACTOR = 3", True),
        ("helper", "FACTOR = 2", "FACTOR = len('a\\udcff')", True),
        ("helper", "x * FACTOR", "FACTOR", True),
        ("helper", "return 1", "return 2", False),
        ("helper", "def other", "print(FACTOR)\n\n\ndef other", True),
        ("tables", "FIRST = 1", "FIRST = 2", True),
        # A module that is used as a module counts whole.
        ("tables", "SECOND = 2", "SECOND = 3", True),
        ("helper", "def scale", "from pkg import tables\n\n\ndef scale", False),
        ("tables", "SECOND = 2", "FIRST += 1", True),
        ("second", "return 1", "return 2", False),
        ("second", "class", "import pkg.tables\npkg.tables.FIRST = 7\n\n\nclass", True),
        ("second", "class", "from pkg import tables\nsetattr(tables, 'FIRST', 7)\n\n\nclass", True),
        ("__init__", "", "SETTING = 1\n", False),
        ("__init__", "", "import os\nos.environ['X'] = '1'\n", True),
    ],
)
def test_an_edit_counts_if_the_class_uses_it(
    tmp_path: Path, file: str, before: str, after: str, counts: bool
) -> None:
    write(tmp_path, PACKAGE)
    method = described(tmp_path)
    old = source_digest(method)
    assert len(old) == 64
    path = tmp_path / "pkg" / f"{file}.py"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    assert (source_digest(method) != old) is counts


HEAD = "class Method:\n    def fit(self, task, backbone, ctx):\n        return "
# A method, and a line of the module `other` that it uses, edited from 1 to 2 where it says {}.
SHAPES = {
    "relative": ("from . import other\nFIT other.f()", "f = lambda: {}"),
    "re-exported": ("from .deep import f\nFIT f()", "def f(): return {}"),
    "dotted": ("import pkg.other\nFIT pkg.other.f()", "def f(): return {}"),
    "getattr": ("import pkg.other as o\nFIT getattr(o, 'f')()", "def f(): return {}"),
    "dictionary": ("from . import other\nFIT vars(other)['f']()", "def f(): return {}"),
    "star": ("from .other import *\nFIT f()", "def f(): return {}"),
    "computed": (
        "import importlib as i\nFIT i.import_module('pkg.' + 'other').f()",
        "def f(): return {}",
    ),
    "text": ("FIT load('pkg.other:f')", "def f(): return {}"),
    "globals": (
        "from .other import x\ndef f(): return globals()['g']()\ndef g(): return x\nFIT f()",
        "x = {}",
    ),
    "inherited": ("from .other import Base\nclass Method(Base):\n    y = 1", "class Base: x = {}"),
    "decorated": (
        "from .other import wrap\nclass Method:\n    @wrap\n    def fit(self): return 1",
        "def wrap(f): return {}",
    ),
    "partial": (
        "from functools import partial\nfrom .other import f\ng = partial(f, 1)\nFIT g()",
        "def f(x): return {}",
    ),
    "closure": (
        "from .other import make\ng = make()\nFIT g()",
        "def make():\n    def inner(): return {}\n    return inner",
    ),
    "default": (
        "from dataclasses import dataclass\nfrom .other import X\n"
        "@dataclass\nclass Method:\n    x: int = X",
        "X = {}",
    ),
    "factory": (
        "from dataclasses import dataclass, field\nfrom .other import f\n"
        "@dataclass\nclass Method:\n    x: int = field(default_factory=f)",
        "def f(): return {}",
    ),
    "changed list": ("from .other import LIST\nLIST.append(1)\nFIT LIST", "LIST = [{}]"),
    "tried": (
        "try:\n    from .other import f\nexcept ImportError:\n    f = None\nFIT f()",
        "def f(): return {}",
    ),
    "in a function": (
        "FIT inner()\ndef inner():\n    from .other import f\n    return f()",
        "def f(): return {}",
    ),
    "__getattr__": ("from .lazy import f\nFIT f()", "def f(): return {}"),
    "registered": ("from .registered import ALL\nFIT ALL[0]()", "def f(): return {}"),
    "subclass": ("from .hooked import Base\nFIT Base.found[0].x", "class Child: x = {}"),
    "comprehension": ("from .other import f\nFIT [f for f in f()]", "def f(): return {}"),
    "lambda": ("from .other import f\nFIT (lambda f: f)(f())", "def f(): return {}"),
    "parameter": (
        "from .other import f\nFIT g(1)\ndef g(f=f): return f",
        "f = {}",
    ),
    "annotation": ("from .other import Kind\nclass Method:\n    kind: 'Kind' = 1", "Kind = {}"),
    "annotation of a function": (
        "import typing as t\nfrom .other import Kind\ndef f(x: 'list[Kind]'): pass\n"
        "FIT t.get_type_hints(f)",
        "Kind = {}",
    ),
    "dispatch by an alias": (
        "from .other import Kind\nfrom .registered import add\n@add\ndef f(x: Kind): pass\nFIT add",
        "Kind = {}",
    ),
    "called back": (
        "from .registered import ALL\nfrom . import other\nFIT ALL",
        "from .registered import ALL\nx = max([1, {}], key=ALL.append)",
    ),
    "two targets": (
        "from .registered import ALL\nfrom . import other\nFIT ALL",
        "from .registered import ALL\nx, ALL[1:] = 1, [{}]",
    ),
    "own constant TYPE_CHECKING": (
        "from .other import f\nFIT f()",
        "TYPE_CHECKING = True\nif TYPE_CHECKING:\n    def f(): return {}",
    ),
    "own attribute TYPE_CHECKING": (
        "from .other import C\nFIT C().f()",
        "class C:\n    TYPE_CHECKING = True\n    def f(self):\n"
        "        if self.TYPE_CHECKING: return {}",
    ),
    "docstring by a text": (
        "from .other import f\nFIT getattr(f, '__doc__')",
        "def f():\n    'Text {}.'",
    ),
    "built-in by a text": (
        "import builtins\nFIT getattr(builtins, 'exec')('from pkg.' + 'other import x')",
        "x = {}",
    ),
    "script": (
        "import subprocess, sys\nfrom pathlib import Path\n"
        "FIT subprocess.run([sys.executable, Path(__file__).with_name('other.py')])",
        "print({})",
    ),
    "path of modules": (
        "import sys\nfrom pathlib import Path\nsys.path.append(Path(__file__).parent)\n"
        "from other import x\nFIT x",
        "x = {}",
    ),
    "re-exported, by a text": (
        "from . import deep\nFIT getattr(deep, 'f')()",
        "def f(): return {}",
    ),
    "global": (
        "from . import other\nFIT other.get()",
        "X = 0\ndef put():\n    global X\n    X = {}\ndef get():\n    put()\n    return X",
    ),
    "wrapped class": (
        "from .other import wrap\nclass _Method:\n    x = 1\nMethod = wrap(_Method)",
        "def wrap(c): return {}",
    ),
    "patched class": (
        "from .other import f\nclass Method:\n    x = 1\nMethod.fit = f",
        "def f(self): return {}",
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_code_are_followed(tmp_path: Path, shape: str) -> None:
    method, other = SHAPES[shape]
    files = {
        "pkg/__init__.py": "",
        "pkg/method.py": method.replace("FIT ", HEAD),
        "pkg/deep/__init__.py": "from .inner import f\n",
        "pkg/deep/inner.py": "from ..other import f\n",
        "pkg/lazy.py": "from . import other\n"
        "def __getattr__(name):\n    return getattr(other, name)\n",
        "pkg/registered.py": "ALL = []\ndef add(f):\n    ALL.append(f)\n    return f\n",
        "pkg/adding.py": "from .registered import add\nfrom . import other\nadd(other.f)\n",
        "pkg/hooked.py": "class Base:\n    found = []\n    def __init_subclass__(cls):\n"
        "        Base.found.append(cls)\nfrom . import children\n",
        "pkg/children.py": "from .hooked import Base\nfrom .other import Child\n"
        "class A(Base, Child): pass\n",
        "pkg/other.py": other.replace("{}", "1"),
    }
    write(tmp_path, files)
    method_class = described(tmp_path)
    before = source_digest(method_class)
    write(tmp_path, {"pkg/other.py": other.replace("{}", "2")})
    assert source_digest(method_class) != before


FILES = f"from importlib import resources\nfrom pathlib import Path\n{HEAD}"


@pytest.mark.parametrize(
    ("reading", "counts"),
    [
        ("open(Path(__file__).parent / ('te' + 'xts.json'))", True),
        ("resources.files('pkg').joinpath(name)", True),
        ("open('texts.json')", True),
        ("len(name)", False),
    ],
)
def test_files_that_code_may_read_count(tmp_path: Path, reading: str, counts: bool) -> None:
    write(
        tmp_path,
        {"pkg/__init__.py": "", "pkg/texts.json": "1", "pkg/method.py": f"{FILES}{reading}"},
    )
    method = described(tmp_path)
    before = source_digest(method)
    write(tmp_path, {"pkg/texts.json": "2"})
    assert (source_digest(method) != before) is counts


def test_code_that_reads_its_text_counts_in_bytes(tmp_path: Path) -> None:
    write(tmp_path, {"pkg/__init__.py": "", "pkg/method.py": f"{HEAD}self.__doc__"})
    before = source_digest(described(tmp_path))
    write(tmp_path, {"pkg/__init__.py": "# a comment"})
    assert source_digest(described(tmp_path)) != before


def test_an_extension_module_counts_in_bytes_where_it_is_imported(tmp_path: Path) -> None:
    write(
        tmp_path,
        PACKAGE | {"pkg/native.abi3.so": "1", "pkg/second.py": f"from . import native\n{HEAD}1"},
    )
    second, first = described(tmp_path, "pkg.second"), described(tmp_path)
    before = source_digest(second), source_digest(first)
    write(tmp_path, {"pkg/native.abi3.so": "2"})
    assert source_digest(second) != before[0]
    assert source_digest(first) == before[1]


def test_what_registers_a_package_counts_without_the_names_it_registers(tmp_path: Path) -> None:
    plugin = "from fewshot_bench import hookimpl\n\n@hookimpl\ndef register_methods(register):\n"
    one = f"{plugin}    register('a', 'pkg.method:Method')\n"
    write(tmp_path, PACKAGE | {"pkg/plugin.py": one})
    method = described(tmp_path)
    before = source_digest(method)
    write(tmp_path, {"pkg/plugin.py": f"{one}    register('b', 'x:Y')\n"})
    assert source_digest(method) == before
    write(tmp_path, {"pkg/plugin.py": f"{plugin}    from pkg.helper import other\n    other()\n"})
    assert source_digest(method) != before
    hook = f"{plugin}    pass\n\n@hookimpl\ndef worker_environment():\n    return {{'X': '1'}}\n"
    write(tmp_path, {"pkg/plugin.py": hook})
    before = source_digest(method)
    write(tmp_path, {"pkg/plugin.py": hook.replace("'1'", "'2'")})
    assert source_digest(method) != before


def test_a_class_without_a_file_has_no_digest() -> None:
    assert source_digest(type("Typed", (), {"__module__": "nowhere_at_all"})) == ""


@pytest.mark.parametrize(
    ("files", "counted", "ignored"),
    [
        (
            {
                "one.py": f"{HEAD}f()\ndef f():\n    import two",
                "two.py": "from three.part import X\nX()\n",
            },
            {"three/part.py": "X = 2\n"},
            {"four.py": "X = 2\n"},
        ),
        # In a folder of installed packages, neighboring modules do not belong to a module.
        (
            {"one.py": f"import two\n{HEAD}1", "two.py": "", "any-1.dist-info/METADATA": ""},
            {"one.py": f"import two\n{HEAD}2"},
            {"two.py": "print(1)\n"},
        ),
    ],
)
def test_modules_beside_a_file_count(
    tmp_path: Path, files: Files, counted: Files, ignored: Files
) -> None:
    write(tmp_path, {"three/__init__.py": "", "three/part.py": "X = 1\n", **files})
    method = described(tmp_path, "one")
    before = source_digest(method)
    write(tmp_path, ignored)
    assert source_digest(method) == before
    write(tmp_path, counted)
    assert source_digest(method) != before


# A method in a file, a file beside it, and its content, edited from 1 to 2 where it says {}.
BESIDE = {
    "current folder": (f"{HEAD}open('texts.json')", "texts.json", "{}"),
    "computed name": (f"{HEAD}open(f'texts_{{task.dataset}}.json')", "texts_digits.json", "{}"),
    "own name": (f"{HEAD}Path(__file__).with_suffix('.json')", "one.json", "{}"),
    "pattern": (f"{HEAD}Path(__file__).parent.glob('*.txt')", "texts.txt", "{}"),
    "folder": (f"{HEAD}Path(__file__).parent / 'texts'", "texts/a/digits.txt", "{}"),
    "place of a class": (f"{HEAD}Path(inspect.getfile(self)).parent / 't'", "t/x.txt", "{}"),
    "package": (f"import pkg\n{HEAD}resources.files(pkg) / name", "pkg/texts.json", "{}"),
    "script": (f"{HEAD}runpy.run_path('two.py')", "two.py", "x = {}"),
    "by a text": (f"{HEAD}importlib.import_module('two')", "two.py", "x = {}"),
    "folder of modules": (
        f"import sys\nsys.path.append(Path(__file__).parent / 'lib')\nimport two\n{HEAD}two.x",
        "lib/two.py",
        "x = {}",
    ),
    "bare package": (f"from bare import two\n{HEAD}two.x", "bare/two.py", "x = {}"),
}


@pytest.mark.parametrize("shape", BESIDE)
def test_what_lies_beside_a_file_is_a_part_of_its_version(tmp_path: Path, shape: str) -> None:
    text, name, content = BESIDE[shape]
    home = os.path.realpath(tmp_path)
    write(tmp_path, {"pkg/__init__.py": "", "other.json": "1", "one.py": text})

    def read() -> OwnMethod:
        root = Root("one", f"{home}/one.py")
        kind = type("Method", (), {"__module__": "one", "name": "m", ROOT_OF_DESCRIBED: root})
        files = read_files(Path(home, "one.py"))
        return of_file(kind, f"{home}/one.py:Method", files, source_digest(kind))

    write(tmp_path, {name: content.replace("{}", "1")})
    before = read()
    assert name in before.files
    assert "other.json" not in before.files
    write(tmp_path, {name: content.replace("{}", "2")})
    assert read().version != before.version


def test_the_file_of_a_hyper_parameter_is_no_part_of_the_version(tmp_path: Path) -> None:
    text = "class Method:\n    texts: Path = hyper(Path('texts.json'), 'texts')\n    x = __file__"
    write(tmp_path, {"one.py": text, "texts.json": "1"})
    assert [*read_files(tmp_path / "one.py")] == ["one.py"]


def test_the_place_and_the_name_of_a_module_do_not_count(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        write(tmp_path / folder, {"one.py": f"import two\n{HEAD}two.X", "two.py": "X = 1\n"})
    here, there = (described(tmp_path / folder, "one") for folder in ("here", "there"))
    assert source_digest(here) == source_digest(there)
    root = Root("file_of_a_digest", str(tmp_path / "here/one.py"))
    named = type("Method", (), {"__module__": root.name, ROOT_OF_DESCRIBED: root})
    assert describe_parts(named) == describe_parts(here)


def test_changes_name_functions(tmp_path: Path) -> None:
    write(tmp_path, PACKAGE)
    before = describe_parts(described(tmp_path))
    edited = METHOD.replace("math.pi", "math.e") + "\n    def quick(self):\n        return self\n"
    write(tmp_path, {"pkg/method.py": edited, "pkg/helper.py": "def scale(x):\n    return x\n"})
    assert list_changes(before, describe_parts(described(tmp_path))) == [
        *("pkg.helper.scale changed", "pkg.method.Method.fit changed"),
        *("pkg.method.Method.quick added", "pkg.helper.FACTOR removed"),
    ]


def imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """A class in a package that was imported, with a module that `fit` imports."""
    fit = f"{HEAD}f()\ndef f():\n    from digested.helper import SCALE\n    return SCALE\n"
    files = {
        "digested/__init__.py": "",
        "digested/helper.py": "SCALE = 1\n",
        "digested/method.py": fit,
    }
    write(folder, files)
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "digested"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    found: type = importlib.import_module("digested.method").Method
    note_import("digested.method")
    return found


def test_the_digest_of_what_runs_is_that_of_what_was_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = imported(tmp_path, monkeypatch)
    before = running_digest(method)
    assert before == source_digest(method)
    path = tmp_path / "digested/method.py"
    path.write_text(f"# A comment.\n{path.read_text()}")
    assert running_digest(method) == before == source_digest(method)
    path.write_text(path.read_text().replace("return SCALE", "return 2 * SCALE"))
    assert running_digest(method) == before != source_digest(method)
    (tmp_path / "digested/helper.py").write_text("SCALE = 3\n")
    # Imported only now: was it the module before or after the edit?
    importlib.import_module("digested.helper")
    assert running_digest(method) == CHANGED


def test_a_module_that_was_imported_before_an_edit_is_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = imported(tmp_path, monkeypatch)
    importlib.import_module("digested.helper")
    before = running_digest(method)
    (tmp_path / "digested/helper.py").write_text("SCALE = 3\n")
    assert running_digest(method) == before != source_digest(method)


def test_texts_are_those_of_every_version_of_python() -> None:
    """Digests of this text were equal under Python 3.11 and 3.13 when the test was written."""
    source = """
import os.path as p
@decorate(1, *args, key=-0.5)
def f(a, /, b: "int" = 1_000, *, c=1e400, **d) -> None:
    x = f"{a!r:>{b}} {c=}" "y" f"z{d}"
    async def g(): return [await i async for i in a if i if not i]
    match x:
        case {"a": 1, **rest} | [1, *_]: return (yield)
    return x[1:, ::2], {**d, 1j: ...}, b"\\x00", lambda *q: q, not a < b <= c
class A(B, metaclass=M):
    x: int
    def m(self): nonlocal_ = super().m; del nonlocal_
"""
    facts = read_facts(source.encode(), "")
    text = repr([statement.parts for statement in facts.statements])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "4306fa64285c88cc"


def test_every_edit_of_a_built_in_method_counts(tmp_path: Path) -> None:
    """Constants and operators in what a class uses, a sample of them per method."""
    home = Path(str(fsbench_methods.__file__)).parent
    copy = tmp_path / "fsbench_methods"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("__pycache__"))
    root = Root("fsbench_methods", str(copy / "__init__.py"), (str(copy),))
    chosen = random.Random(0)
    for name in ("clip-lora", "coop", "tip-adapter-f", "promptsrc", "lp++"):
        own = registry().method_class(name)
        cls = type(own.__name__, (), {"__module__": own.__module__, ROOT_OF_DESCRIBED: root})
        parts = describe_parts(cls)
        assert parts == describe_parts(own)
        before, used = source_digest(cls), {part.split(".")[1] for part in parts}
        for module in sorted(used):
            path = copy / f"{module}.py"
            text = path.read_text()
            places = list(find_places(ast.parse(text), module, set(parts)))
            for index in chosen.sample(range(len(places)), min(4, len(places))):
                tree = ast.parse(text)
                mutate(list(find_places(tree, module, set(parts)))[index])
                path.write_text(ast.unparse(tree))
                assert source_digest(cls) != before, (name, module, index)
            path.write_text(ast.unparse(ast.parse(text)))
            assert source_digest(cls) == before
            path.write_text(text)


def find_places(tree: ast.Module, module: str, parts: set[str]) -> Iterator[ast.AST]:
    """Constants and operators of the statements of a module that are parts of a class."""
    for node in tree.body:
        targets = [getattr(target, "id", "") for target in getattr(node, "targets", [])]
        names = filter(None, [getattr(node, "name", ""), *targets])
        if not any(f"fsbench_methods.{module}.{name}" in parts for name in names):
            continue
        # Docstrings, and papers that a card names.
        aside = [one for one in ast.walk(node) if isinstance(one, ast.Expr)]
        papers = [one for one in ast.walk(node) if getattr(one, "arg", "") == "paper"]
        left_out = {one.value for one in aside if isinstance(one.value, ast.Constant)}
        left_out |= {inner for paper in papers for inner in ast.walk(paper)}
        for inner in ast.walk(node):
            if isinstance(inner, ast.BinOp | ast.Compare | ast.Constant) and inner not in left_out:
                yield inner


def mutate(node: Any) -> None:
    """Change a constant or an operator."""
    if isinstance(node, ast.BinOp):
        node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
    elif isinstance(node, ast.Compare):
        node.ops[0] = ast.Gt() if isinstance(node.ops[0], ast.Lt) else ast.Lt()
    elif isinstance(node.value, bool):
        node.value = not node.value
    else:
        node.value = f"{node.value}x" if isinstance(node.value, str) else 12345
