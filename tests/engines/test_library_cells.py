"""Classes of notebook cells: their written source defines what the session has, or is refused."""

from __future__ import annotations

import ast
import dataclasses
import linecache
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from fewshot_bench.api.method import hyperparameters
from fewshot_bench.api.registry import registry
from fewshot_bench.engines.session_methods import digest_class, reference
from fewshot_bench.training import Learned
from tests.support.helpers import PATIENCE

Cell = Callable[[str], dict[str, Any]]


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cell]:
    """Run notebook cells: one namespace, and a file name for each in `linecache`.

    As in Jupyter, each statement is compiled alone.
    """
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    files: list[str] = []

    def run(source: str) -> dict[str, Any]:
        text, file = textwrap.dedent(source), f"<ipython-input-{len(files)}>"
        files.append(file)
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        for node in ast.parse(text).body:
            unit = ast.Module([node], type_ignores=[])
            exec(compile(unit, file, "exec", dont_inherit=True), module.__dict__)
        return module.__dict__

    yield run
    for file in files:
        linecache.cache.pop(file, None)


METHOD = """
    import dataclasses
    from typing import ClassVar

    @dataclasses.dataclass(frozen=True)
    class Own:
        name: ClassVar[str] = "own"
        size: int = 3

        def fit(self, task, backbone, ctx):
            return {body}
"""


def own(cell: Cell, body: str) -> type:
    """A class whose `fit` returns this expression."""
    cls: type = cell(METHOD.format(body=body))["Own"]
    return cls


def given(name: str) -> Any:
    """Result of the method named by a reference, imported as in a worker."""
    return registry().method_class(name)().fit(None, None, None)


def test_what_a_class_needs_comes_from_other_cells(cell: Cell, tmp_path: Path) -> None:
    cell("LIMIT = {'low': [1, 2.5, None], 'high': {3}}")
    cell("import os.path\nfrom collections import Counter as Tally")
    cell("def helper(values):\n    return Tally(values)[other(1)]\ndef other(x): return x\n")
    cls = own(cell, "helper([1, 1, 2]), LIMIT, os.path.sep, len(LIMIT)")
    expected = cls().fit(None, None, None)  # type: ignore[attr-defined]
    assert given(reference(cls, tmp_path)) == expected


def test_functions_of_modules_are_called_in_a_cell(cell: Cell, tmp_path: Path) -> None:
    imports = "import math\ndef helper(x): return math.sqrt(x * x)\n"
    method = textwrap.dedent(METHOD.format(body="math.floor(helper(2.5))"))
    assert given(reference(cell(imports + method)["Own"], tmp_path)) == 2
    assert given(reference(own(cell, "math.ceil(helper(2.5))"), tmp_path)) == 3


def test_a_class_that_changes_is_another_method(cell: Cell, tmp_path: Path) -> None:
    first = reference(own(cell, "1"), tmp_path)
    assert reference(own(cell, "1"), tmp_path) == first
    second = reference(own(cell, "2"), tmp_path)
    assert second != first
    assert given(first) == 1
    cell("VALUE = 1")
    third = own(cell, "VALUE")
    before = reference(third, tmp_path)
    cell("VALUE = 2")
    assert reference(third, tmp_path) != before


@pytest.mark.parametrize(
    ("setup", "body", "result"),
    [
        ("import threading\nlock = threading.Lock()", "(lambda lock: [lock])(5)", [5]),
        ("import numpy as np\ntable = np.arange(3)", "int(table.sum())", 3),
        ("import functools\n@functools.lru_cache\ndef used(x): return x * 2", "used(4)", 8),
        (
            "class base:\n    def of(self): return 1\n"
            "class used(base):\n    def of(self): return super().of() + 1",
            "used().of()",
            2,
        ),
        ("class used:\n    @property\n    def of(self): return 7", "used().of", 7),
        # What no source holds: the session has it, and so do workers.
        (
            "def make(k):\n    def inner(x): return x * k\n    return inner\nused = make(3)",
            "used(1)",
            3,
        ),
        (
            "def tenfold(f):\n    def wrap(*a): return f(*a) * 10\n    return wrap\n"
            "@tenfold\ndef used(x): return x",
            "used(1)",
            10,
        ),
        ("def used(x, n=(5,)): return x + n[0]\nused.__defaults__ = ((7,),)", "used(1)", 8),
        ("def used(x): return used.calls\nused.calls = 4", "used(1)", 4),
        ("class used:\n    total: int = 0\nused.total = 3", "used.total", 3),
        ("class used:\n    def of(self): return 1\nused.of = lambda self: 2", "used().of()", 2),
        ("def a(): return 1\ndef used(f=a): return f()\ndef a(): return 2", "used()", 1),
        (
            "class A:\n    def of(self): return 1\nclass B(A): pass\n"
            "class A:\n    def of(self): return 2",
            "B().of()",
            1,
        ),
        (
            "import enum, typing\nclass Mode(enum.Enum):\n    FAST = enum.auto()\n"
            "class Pair(typing.NamedTuple):\n    left: int = max(1, 2)\n"
            "class Known(typing.TypedDict):\n    left: int\n",
            "Mode.FAST.value, Pair().left, Known(left=4)['left']",
            (1, 2, 4),
        ),
        (
            "from fewshot_bench.training import Learned as Kept",
            "str(Kept)",
            str(Learned),
        ),
    ],
)
def test_what_a_class_uses_is_what_the_session_has(
    cell: Cell, tmp_path: Path, setup: str, body: str, result: Any
) -> None:
    cell(setup)
    assert given(reference(own(cell, body), tmp_path)) == result


@pytest.mark.parametrize(
    ("setup", "body"),
    [
        ("def g(): return {}", "globals()['g']()"),
        (
            "class Kind(type):\n    def __call__(cls): return {}\nclass A(metaclass=Kind): pass",
            "A()",
        ),
        ("class A:\n    @functools.cached_property\n    def x(self): return {}", "A().x"),
        ("weights = torch.tensor([{}])", "weights"),
    ],
)
def test_an_edit_of_what_a_class_uses_is_another_digest(cell: Cell, setup: str, body: str) -> None:
    cell("import functools\nimport torch")
    digests = []
    for value in (1, 1, 2):
        cell(setup.format(value))
        digests.append(digest_class(own(cell, body)))
    assert digests[0] == digests[1] != digests[2]


def test_what_no_other_process_can_have_is_refused(cell: Cell, tmp_path: Path) -> None:
    cell("import threading\nlock = threading.Lock()")
    with pytest.raises(fb.UsageError, match=r"Own uses what the processes .*lock.*file\.py:Own"):
        reference(own(cell, "lock"), tmp_path)


def test_a_module_beside_a_script_comes_along(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "beside_it.py"
    module.write_text("value = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    cell("import beside_it")
    cls = own(cell, "beside_it.value")
    first = reference(cls, tmp_path)
    code = f"import json; from fewshot_bench.api.method_code import load; load({first!r})().fit"
    code = code.replace("().fit", "")
    code += f"\nprint(load({first!r})().fit(None, None, None))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
    module.write_text("value = 10\n", encoding="utf-8")
    assert reference(cls, tmp_path) != first


def test_a_class_without_a_source(cell: Cell, tmp_path: Path) -> None:
    cls = own(cell, "1")
    linecache.cache.clear()
    path = Path(reference(cls, tmp_path).rpartition(":")[0])
    assert "typed into a prompt" in path.read_text(encoding="utf-8")
    assert given(reference(cls, tmp_path)) == 1


def test_a_class_that_a_function_made(tmp_path: Path) -> None:
    namespace = {"name": "made", "fit": lambda self, task, backbone, ctx: self.a}
    made = dataclasses.make_dataclass("Made", [("a", float, 1.0)], namespace=namespace)
    made.__module__ = "__main__"
    assert given(reference(made, tmp_path)) == 1.0


KID = """
@dataclasses.dataclass(frozen=True)
class Kid(Own):
    name: ClassVar[str] = "kid"
    more: int = {value}
"""


def test_a_base_that_was_defined_anew(cell: Cell, tmp_path: Path) -> None:
    own(cell, "1")
    cls = cell(KID.format(value=3))["Kid"]
    first = reference(cls, tmp_path)
    own(cell, "2")
    assert given(first) == 1
    assert reference(cls, tmp_path) == first
    again = reference(cell(KID.format(value=3))["Kid"], tmp_path)
    assert (again == first, given(again)) == (False, 2)


def test_types_of_hyper_parameters(cell: Cell, tmp_path: Path) -> None:
    kinds = "from typing import Literal\nKind = Literal['a', 'b']\n"
    method = textwrap.dedent(METHOD.format(body="self.kind"))
    for kind in ("Kind", "'Kind'"):
        source = method.replace("size: int = 3", f"kind: {kind} = 'b'")
        name = reference(cell(kinds + source)["Own"], tmp_path)
        assert given(name) == "b"
        assert hyperparameters(registry().method_class(name))[0].name == "kind"


def test_a_class_of_fields_alone_in_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    last = "from fewshot_bench.engines.session_methods import reference\nfrom pathlib import Path"
    parts = (textwrap.dedent(METHOD.format(body="1")), KID.format(value=3), last)
    script.write_text("\n".join([*parts, "print(reference(Kid, Path('s')))"]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout.endswith("Kid.py:Kid\n"), done.stderr
    assert given(done.stdout.strip()) == 1
