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
from fewshot_bench.api.registry import registry
from fewshot_bench.engines.method_sources import reference
from tests.helpers import PATIENCE

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
    found: type = cell(METHOD.format(body=body))["Own"]
    return found


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
    ("cells", "body", "message"),
    [
        (["import numpy as np", "table = np.zeros(3)"], "table", "uses 'table', a ndarray of this"),
        (["opened = open('/dev/null')"], "opened", "uses 'opened', a TextIOWrapper"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(
    cell: Cell, tmp_path: Path, cells: list[str], body: str, message: str
) -> None:
    for source in cells:
        cell(source)
    with pytest.raises(fb.UsageError, match=f"{message}.*file.py:Own"):
        reference(own(cell, body), tmp_path)


def test_local_names_are_not_taken_for_those_of_the_notebook(cell: Cell, tmp_path: Path) -> None:
    cell("import threading\nlock = threading.Lock()")
    cls = own(cell, "(lambda lock: [lock for lock in (lock,)])(5)")
    assert given(reference(cls, tmp_path)) == [5]


def test_a_module_beside_a_script_cannot_be_had(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_it.py").write_text("value = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    cell("import beside_it")
    with pytest.raises(fb.UsageError, match="module 'beside_it', which worker processes cannot"):
        reference(own(cell, "beside_it.value"), tmp_path)


def test_a_class_without_a_source_is_refused(cell: Cell, tmp_path: Path) -> None:
    cls = own(cell, "1")
    linecache.cache.clear()
    with pytest.raises(fb.UsageError, match="source of Own cannot be had"):
        reference(cls, tmp_path)


def test_what_was_set_later_is_refused(cell: Cell, tmp_path: Path) -> None:
    cls = own(cell, "1")
    cell("def fit(self, task, backbone, ctx): return 2\nOwn.fit = fit")
    with pytest.raises(fb.UsageError, match="'fit' of Own was set after"):
        reference(cls, tmp_path)


@pytest.mark.parametrize(
    ("setup", "body"),
    [
        (
            "def make(k):\n    def inner(x): return x * k\n    return inner\nused = make(3)",
            "used(1)",
        ),
        ("k = 100\ndef make(k):\n    return lambda x: x * k\nused = make(3)", "used(1)"),
        ("pair = [lambda x: x + 1, lambda x: x + 2]\nused = pair[1]", "used(1)"),
        (
            "def tenfold(f):\n    def wrap(*a): return f(*a) * 10\n    return wrap\n"
            "@tenfold\ndef used(x): return x",
            "used(1)",
        ),
        ("def used(x, n=(5,)): return x + n[0]\nused.__defaults__ = ((7,),)", "used(1)"),
        ("def used(x): return used.calls\nused.calls = 4", "used(1)"),
        ("class used:\n    total: int = 0\nused.total = 3", "used.total"),
        (
            "class used:\n    def of(self): return 1\nused.more = property(lambda s: 2)",
            "used().of()",
        ),
    ],
)
def test_what_the_source_alone_does_not_give_is_refused(
    cell: Cell, tmp_path: Path, setup: str, body: str
) -> None:
    cell(setup)
    with pytest.raises(fb.UsageError, match=r"source alone|set after|cannot be had"):
        reference(own(cell, body), tmp_path)


@pytest.mark.parametrize(
    ("setup", "body", "result"),
    [
        ("def used(x, n=(5,)): return x + n[0]", "used(1)", 6),
        ("one, used = (lambda x: x + 1), (lambda x: x + 2)", "used(1)", 3),
        ("import functools\n@functools.lru_cache\ndef used(x): return x * 2", "used(4)", 8),
        ("class used:\n    total: int = 3\n    rate: float = 0.5", "used.total * used.rate", 1.5),
        (
            "class base:\n    def of(self): return 1\n"
            "class used(base):\n    def of(self): return super().of() + 1",
            "used().of()",
            2,
        ),
        ("class used:\n    @property\n    def of(self): return 7", "used().of", 7),
        ("class used:\n    @staticmethod\n    def of(x=float('nan')): return 7", "used.of()", 7),
    ],
)
def test_what_the_source_gives_is_the_same(
    cell: Cell, tmp_path: Path, setup: str, body: str, result: float
) -> None:
    cell(setup)
    assert given(reference(own(cell, body), tmp_path)) == result


def test_a_class_variable_that_was_set_later_is_refused(cell: Cell, tmp_path: Path) -> None:
    cls = own(cell, "self.name")
    cls.name = "other"  # type: ignore[attr-defined]
    with pytest.raises(fb.UsageError, match="'name' of Own was set after"):
        reference(cls, tmp_path)


def test_a_constant_that_was_edited_in_the_source_is_refused(cell: Cell, tmp_path: Path) -> None:
    cls = own(cell, "2.5")
    (file,) = {cls.fit.__code__.co_filename}  # type: ignore[attr-defined]
    size, _, lines, _ = linecache.cache[file]  # type: ignore[misc]
    linecache.cache[file] = (size, None, [line.replace("2.5", "3.5") for line in lines], file)
    with pytest.raises(fb.UsageError, match="changed after it was defined"):
        reference(cls, tmp_path)


def test_a_class_that_a_function_made_is_refused_at_once(tmp_path: Path) -> None:
    namespace = {"name": "made", "fit": lambda self, task, backbone, ctx: None}
    made = dataclasses.make_dataclass("Made", [("a", float, 1.0)], namespace=namespace)
    made.__module__ = "types"
    with pytest.raises(fb.UsageError, match=r"source of Made cannot be had|what its source"):
        reference(made, tmp_path)


def test_a_source_that_was_edited_is_refused(cell: Cell, tmp_path: Path) -> None:
    cls = own(cell, "1")
    (file,) = {cls.fit.__code__.co_filename}  # type: ignore[attr-defined]
    size, _, lines, _ = linecache.cache[file]  # type: ignore[misc]
    changed = [line.replace("return 1", "return size") for line in lines]
    linecache.cache[file] = (size, None, changed, file)
    with pytest.raises(fb.UsageError, match="changed after it was defined"):
        reference(cls, tmp_path)


def test_helpers_without_functions_come_along(cell: Cell, tmp_path: Path) -> None:
    helpers = """
        import dataclasses, enum, typing
        class Mode(enum.Enum):
            FAST = 1
        class Pair(typing.NamedTuple):
            left: int = max(1, 2)
        class Known(typing.TypedDict):
            left: int
    """
    last = METHOD.format(body="Mode.FAST.value, Pair().left, Known(left=4)['left']")
    cls = cell(f"{textwrap.dedent(helpers)}{textwrap.dedent(last)}")["Own"]
    assert given(reference(cls, tmp_path)) == (1, 2, 4)


KID = """
@dataclasses.dataclass(frozen=True)
class Kid(Own):
    name: ClassVar[str] = "kid"
    more: int = {value}
"""


def test_a_class_of_fields_alone_is_found_in_its_cell(cell: Cell, tmp_path: Path) -> None:
    own(cell, "1")
    cell(KID.format(value=3))
    cls = cell(KID.format(value=4))["Kid"]
    path = Path(reference(cls, tmp_path).rpartition(":")[0])
    assert "more: int = 4" in path.read_text(encoding="utf-8")
    assert given(reference(cls, tmp_path)) == 1


def test_a_class_of_fields_alone_is_not_taken_from_another_text(cell: Cell, tmp_path: Path) -> None:
    own(cell, "1")
    cls = cell(KID.format(value=3))["Kid"]
    # Notebook cells that raised an error define nothing.
    for text in (KID.format(value=4), KID.format(value=3).replace("Own", "object")):
        with pytest.raises(ZeroDivisionError):
            cell(f"1/0\n{text}")
    path = Path(reference(cls, tmp_path).rpartition(":")[0])
    assert "more: int = 3" in path.read_text(encoding="utf-8")
    odd = cell(KID.format(value="max(1, 2)"))["Kid"]
    with pytest.raises(fb.UsageError, match="source of Kid cannot be had"):
        reference(odd, tmp_path)


@pytest.mark.parametrize("first", [1, 2])
def test_assignments_without_a_type_are_found_in_their_cell(
    cell: Cell, tmp_path: Path, first: int
) -> None:
    """Members of an enumeration, and names that a class without functions sets."""
    mode = "import enum\nclass Mode(enum.Enum):\n    FAST = SLOW = {}\n    BOTH = (3, 'x')\n"
    cell(mode.format(3 - first))
    cell(mode.format(first))
    # Notebook cells that raised an error define nothing.
    with pytest.raises(ZeroDivisionError):
        cell(f"1/0\n{mode.format(3)}")
    own(cell, "Mode.SLOW.value, Mode.BOTH.value[0], self.name")
    kid = KID.format(value=3).replace("name: ClassVar[str]", "name")
    cls = cell(f"{kid}\n    label = kind = None\n")["Kid"]
    assert given(reference(cls, tmp_path)) == (first, 3, "kid")


def test_what_only_one_cell_defines_is_found(cell: Cell, tmp_path: Path) -> None:
    names = cell("""
        import enum, typing
        class Mode(enum.Enum):
            FAST = enum.auto()
        class Pair(typing.NamedTuple):
            left: int = max(1, 2)
    """)
    cls = own(cell, "Mode.FAST.value, Pair().left")
    assert given(reference(cls, tmp_path)) == (1, 2)
    names["Mode"].FAST._value_ = 2
    with pytest.raises(fb.UsageError, match="'FAST' of Mode was set after the class was defined"):
        reference(cls, tmp_path)


HEIR = """
@dataclasses.dataclass(frozen=True)
class Kid(Own):
    name: ClassVar[str] = "kid"

    def fit(self, task, backbone, ctx):
        return 10 + super().fit(task, backbone, ctx)
"""


@pytest.mark.parametrize(("kid", "result"), [(HEIR, 11), (KID.format(value=3), 1)])
def test_a_base_that_was_defined_anew(cell: Cell, tmp_path: Path, kid: str, result: int) -> None:
    own(cell, "1")
    cls = cell(kid)["Kid"]
    own(cell, "1")
    assert given(reference(cls, tmp_path)) == result
    own(cell, "2")
    with pytest.raises(fb.UsageError, match="Kid inherits from an earlier definition of Own: run"):
        reference(cls, tmp_path)
    assert given(reference(cell(kid)["Kid"], tmp_path)) == result + 1


def test_helpers_that_inherit_from_an_earlier_class_are_refused(cell: Cell, tmp_path: Path) -> None:
    cell("class A:\n    def of(self): return 1\nclass B(A):\n    def more(self): return self.of()")
    cell("class A:\n    def of(self): return 2")
    with pytest.raises(fb.UsageError, match="B inherits from an earlier definition of A"):
        reference(own(cell, "B().more()"), tmp_path)


def test_a_default_that_was_another_function_is_refused(cell: Cell, tmp_path: Path) -> None:
    cell("def a(): return 1\ndef used(f=a): return f()")
    cell("def a(): return 2")
    with pytest.raises(fb.UsageError, match="uses 'used', which is not what its source alone"):
        reference(own(cell, "used()"), tmp_path)


def test_a_type_without_a_name(cell: Cell, tmp_path: Path) -> None:
    kinds = "from typing import Literal\nKind = Literal['a', 'b']\n"
    method = textwrap.dedent(METHOD.format(body="self.kind"))
    method = method.replace("size: int = 3", "kind: Kind = 'b'")
    assert given(reference(cell(kinds + method)["Own"], tmp_path)) == "b"
    with pytest.raises(fb.UsageError, match="uses 'Kind', which its own cell or file does not"):
        reference(cell(method)["Own"], tmp_path)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from fewshot_bench.training import Learned, Loss", "Learned"),
        ("from fewshot_bench.training import Learned as Kept", "Kept"),
        ("from fewshot_bench.training import *", "Loss"),
        ("from enum import CONTINUOUS as kind", "kind"),
    ],
)
def test_aliases_of_types_come_from_their_module(
    cell: Cell, tmp_path: Path, line: str, name: str
) -> None:
    method = METHOD.format(body=f"str({name})")
    for source in (f"{line}\n{textwrap.dedent(method)}", method):
        cls = cell(source)["Own"]
        assert given(reference(cls, tmp_path)) == cls().fit(None, None, None)
    path = Path(reference(cls, tmp_path).rpartition(":")[0])
    assert f"{line.split()[1]} import" in path.read_text(encoding="utf-8")


def test_a_class_of_fields_alone_in_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    last = "from fewshot_bench.engines.method_sources import reference\nfrom pathlib import Path"
    parts = (textwrap.dedent(METHOD.format(body="1")), KID.format(value=3), last)
    script.write_text("\n".join([*parts, "print(reference(Kid, Path('s')))"]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout.endswith("Kid.py:Kid\n"), done.stderr
    assert given(done.stdout.strip()) == 1
