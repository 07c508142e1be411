"""A method in a file of its own: its name, its record, and errors in it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench.api import method_code
from fewshot_bench.api.code_closure import source_digest
from fewshot_bench.api.method_code import load
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError, PluginError, UsageError
from fewshot_bench.utils.text import split_names
from tests.support.helpers import fsbench
from tests.support.plugin_edited import method_source


def write(path: Path, text: str | None = None) -> Path:
    """Write a file with a method, or with this text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(method_source("SCALE = 100.0") if text is None else text, encoding="utf-8")
    return path


def planned(*methods: str, options: tuple[str, ...] = ()) -> list[str]:
    """The labels of the cells of a request."""
    request = Request(methods, ("digits",), shots=(1,), seeds=(1,), options=options)
    return [cell.label for cell in expand(request).cells]


def test_every_spelling_of_a_file_is_one_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "mine" / "lora.py")
    (tmp_path / "link.py").symlink_to(file)
    write(tmp_path / "other" / "lora.py")
    monkeypatch.chdir(file.parent)
    spellings = ("lora.py", "./lora.py", "../mine/lora.py", str(file), "../link.py")
    # A copy in another folder, too: the content is the method.
    names = [f"{path}:Edited" for path in (*spellings, "../other/lora.py")]
    assert planned(*names) == ["edited"]
    options = (f"{names[0]}.strength=2", f"{names[-1]}.strength=3")
    assert planned(*names, options=options) == ["edited[strength=3.0]"]


def test_two_states_of_one_method_are_no_row(tmp_path: Path) -> None:
    one = write(tmp_path / "a" / "lora.py")
    two = write(tmp_path / "b" / "lora.py", method_source("SCALE = 3.0"))
    with pytest.raises(UsageError, match=r"two states of one method, 'edited'.*compare -m edited@"):
        planned(f"{one}:Edited", f"{two}:Edited")
    assert planned(f"{two}:Edited") == planned(f"{one}:Edited")


def test_the_name_of_a_plug_in_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "lora.py", method_source("SCALE = 1.0").replace('"edited"', '"coop"'))
    with pytest.raises(UsageError, match=r"'coop', which is taken.*ClassVar\[str\] = 'my-coop'"):
        planned(f"{file}:Edited")


def test_a_class_without_a_name_has_that_of_the_class(tmp_path: Path) -> None:
    text = method_source("SCALE = 1.0").replace('name: ClassVar[str] = "edited"', "")
    file = write(tmp_path / "lora.py", text.replace("class Edited", "class MyCLIPLoRA2"))
    assert planned(f"{file}:MyCLIPLoRA2") == ["my-clip-lo-ra2"]


@pytest.mark.parametrize("folder", ["with, comma", "with: colon", "a=b", "x.py:Y", "é [1]@2"])
def test_paths_that_need_care(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{write(tmp_path / folder / 'my lora.py').resolve()}:Edited"
    other = f"{write(tmp_path / 'lora.py').resolve()}:Edited"
    assert split_names(f"{other},{name} , coop") == (other, name, "coop")
    options = (f"{name}.strength=2,3",)
    labels = ["edited[strength=2.0]", "edited[strength=3.0]"]
    assert planned(name, options=options) == labels


# Paths of real systems contain no lone surrogates.
PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(PATHS, st.sampled_from(["A", "Bé_1"]))
def test_any_path_is_read_back(path: str, cls: str) -> None:
    name = method_code.canonical(f"/{path}.py:{cls}")
    assert method_code.canonical(name) == name
    assert method_code.parts(name) is not None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lore.py:Edited", None, "no file.*did you mean 'lora.py'"),
        ("lora.py:Edit", None, "no class 'Edit': did you mean 'Edited'"),
        ("lora.py", None, "names a file and no class in it: expected .*lora.py:Edited"),
        ("lora.py:", None, "expected .*lora.py:Edited"),
        ("lora.py:Mapping", None, "no method"),
        ("lora.py:SCALE", None, "'SCALE' in .*no method .no class.: expected"),
        ("lora.py:Edited", "x = 1\nprint(y)\n", r"NameError.*lora.py:2 in <module>"),
        ("lora.py:Edited", "def f(:\n", r"SyntaxError.*line 1"),
        ("lora.py:Edited", "import no_such_module\n", r"No module named.*lora.py:1"),
        ("lora.py:Edited", "raise SystemExit(3)\n", r"SystemExit: 3.*lora.py:1"),
        ("nowhere/lora.py:Edited", None, "is no folder"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    write(tmp_path / "lora.py", text)
    with pytest.raises((UsageError, PluginError), match=message):
        registry().method_class(f"{tmp_path}/{name}")
    result = fsbench("check", f"{tmp_path}/{name}")
    assert result.code == 2
    assert "Traceback" not in result.err


def test_modules_beside_the_file_are_its_own(tmp_path: Path) -> None:
    text = method_source("from beside_of_it import SCALE")
    file = write(tmp_path / "a" / "lora.py", text)
    write(tmp_path / "a" / "beside_of_it.py", "SCALE = 100.0\n")
    assert registry().method_class(f"{file}:Edited").__name__ == "Edited"
    before = registry().code(f"{file}:Edited")["digest"]
    # A module of that name is already loaded: the choice must not depend on the order.
    other = write(tmp_path / "b" / "lora.py", text)
    write(tmp_path / "b" / "beside_of_it.py", "SCALE = 1.0\n")
    with pytest.raises(FsbenchError, match=r"beside_of_it.*another name"):
        load(f"{other}:Edited")
    installed = write(tmp_path / "c" / "lora.py", method_source("import json\nSCALE = 1.0"))
    write(tmp_path / "c" / "json.py", "")
    with pytest.raises(FsbenchError, match=r"'json'.*another name"):
        load(f"{installed}:Edited")
    assert before


def test_a_folder_without_init_beside_the_file_is_its_own(tmp_path: Path) -> None:
    text = method_source("from bare_beside_it.core import SCALE")
    file = write(tmp_path / "a" / "lora.py", text)
    write(tmp_path / "a" / "bare_beside_it" / "core.py", "SCALE = 100.0\n")
    before = source_digest(registry().method_class(f"{file}:Edited"))
    write(tmp_path / "a" / "bare_beside_it" / "core.py", "SCALE = 10.0\n")
    assert source_digest(registry().method_class(f"{file}:Edited")) != before
    other = write(tmp_path / "b" / "lora.py", text)
    write(tmp_path / "b" / "bare_beside_it" / "core.py", "SCALE = 1.0\n")
    with pytest.raises(FsbenchError, match=r"bare_beside_it.*another name"):
        load(f"{other}:Edited")


WORDS = ("-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "40", "--backbone", "tiny")


class States(NamedTuple):
    """A store, the file of its method, which was edited between two runs, and both records."""

    store: Path
    file: Path
    records: tuple[Record, ...]

    def name(self, which: int, digits: int = 8) -> str:
        """The name of a version."""
        return f"edited@{self.records[which].code_digest:.{digits}}"


def run(name: str, store: Path, *more: str) -> str:
    """What a run of a method prints."""
    done = fsbench("run", "-m", name, *WORDS, "--store", store, *more)
    assert done.code == 0, done.err
    return done.out


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> States:
    store = tmp_path_factory.mktemp("store")
    file = tmp_path_factory.mktemp("my methods") / "lora.py"
    records: dict[str, Record] = {}
    for helper in ("SCALE = 100.0", "SCALE = 3.0"):
        write(file, method_source(helper))
        assert "1 cell: 0 done already, 1 to run" in run(f"{file}:Edited", store)
        records |= {r.spec.key(): records.get(r.spec.key(), r) for r in Store(store).records()}
    assert not list(file.parent.rglob("__pycache__"))
    return States(store, file, tuple(records.values()))


def test_a_record_holds_a_name_and_no_path(states: States) -> None:
    for record in states.records:
        code, spec = record.environment["code"], record.spec
        assert (spec.method, spec.method_version) == ("edited", f"1+{code['digest'][:8]}")
        assert not code["registered"]
        assert record.environment["method_origin"] == "lora.py:Edited"
        assert str(states.file.parent) not in json.dumps(record.to_dict())
    assert states.records[0].code_digest != states.records[1].code_digest


def test_an_edit_is_another_version_and_the_one_run_last_is_shown(
    states: States, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [record.spec.method_version for record in states.records]
    store = shutil.copytree(states.store, tmp_path / "store")

    def shown(*words: str) -> str:
        result = fsbench("compare", "--store", store, *words)
        return result.out + result.err

    assert f"edited is shown in version {versions[1]}" in shown()
    copy = write(tmp_path / "copy" / "lora.py")
    for name in (f"edited@{versions[0]}", states.name(0, 4), f"{copy}:Edited"):
        assert f"m:edited@{quote(versions[0])}|" in shown("-m", name)
    both = ",".join(f"edited@{quote(version)}" for version in sorted(versions))
    assert f"m:{both}|" in shown("-m", f"{states.name(0)},{states.name(1)}")
    # The author goes back to the first state: nothing to compute, and it is the newest again.
    assert "1 done already, 0 to run" in run(f"{copy}:Edited", store)
    assert f"edited is shown in version {versions[0]}" in shown()
    monkeypatch.chdir(write(copy, method_source("SCALE = 7.0")).parent)
    lacking = shown("-m", "lora.py:Edited")
    assert "has no results here: fsbench run -m lora.py:Edited computes them" in lacking


def test_another_machine_needs_the_store_alone(states: States, tmp_path: Path) -> None:
    merged, folder = tmp_path / "merged", str(states.file.parent)
    assert fsbench("store", "merge", states.store, "--store", merged).code == 0
    assert not [path for path in merged.rglob("method.json") if folder in path.read_text()]
    away = states.file.rename(tmp_path / "away.py")
    try:
        repeated = fsbench("rerun", states.records[0].spec.key()[:12], "--store", merged)
        assert repeated.out.endswith("same result, bit for bit\n"), repeated.err
        assert "1 done already, 0 to run" in run("edited", merged)
        assert "1 cell: 0 done already, 1 to run" in run(states.name(0), merged, "--seeds", "2")
    finally:
        away.rename(states.file)


SHIFTED = """
from dataclasses import dataclass

from fewshot_bench import hyper
from fewshot_bench.training import LinearClassifier


@dataclass(frozen=True)
class Shifted:
    shift: float = hyper(1.0, "how much to scale")
    steps: int = hyper(3, "not read")

    def fit(self, task, backbone, ctx) -> LinearClassifier:
        return LinearClassifier(self.shift * backbone.class_features(task))
"""


def test_tables_and_figures_take_options_of_a_method_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, store = write(tmp_path / "own.py", SHIFTED), tmp_path / "store"
    for option in ("shift=1,2.5", "steps=3,7"):
        run(f"{file}:Shifted", store, "-o", option)
    here, asked = ("--store", str(store)), ("-o", "shift=1,2.5,4")
    version = next(Store(store).records()).spec.method_version
    for name in ("shifted", "own.py:Shifted", f"shifted@{version}"):
        for layout in ("sweep", "ablation"):
            shown = fsbench("compare", *here, "-m", name, "--layout", layout, *asked)
            assert shown.code == 0, shown.err
            assert "2.5" in shown.out
    drawn = fsbench("figure", "ablation", *here, "-m", "shifted", *asked, "-O", "x.svg")
    assert drawn.code == 0, drawn.err
    recipe = (
        '[defaults]\nmethod = "shifted"\ndataset = "digits"\n'
        '[[figure]]\nname = "two"\nkind = "ablation"\nformat = ["svg"]\n'
        'option = ["shift=1,2.5,4"]\n'
        '[[table]]\nname = "one"\nlayout = "sweep"\noption = ["shift=1,2.5"]\n'
    )
    Path("recipe.toml").write_text(recipe)
    paper = ("paper", str(store), "--recipe", "recipe.toml")
    dry = fsbench(*paper, "--dry-run")
    assert dry.code == 0, dry.err
    assert "figure 'two': 3 cells" in " ".join(dry.out.split())
    assert "1 " in dry.err + dry.out
    made = fsbench(*paper, "-O", "out")
    assert made.code == 0, made.err
    assert {"one.tex", "two.svg"} <= {path.name for path in Path("out").iterdir()}
    for option, message in (
        ("shft=1", "did you mean 'shift'"),
        ("shift=much", "is not float"),
        ("other.shift=1", "unknown method 'other'"),
    ):
        refused = fsbench("compare", *here, "-m", "shifted", "--layout", "sweep", "-o", option)
        assert refused.code == 2
        assert message in refused.err


def test_reading_a_store_runs_no_code_of_it(states: States, tmp_path: Path) -> None:
    store, trace = shutil.copytree(states.store, tmp_path / "store"), tmp_path / "trace"
    for facts in (store / "methods").glob("*/method.json"):
        evil = f"open({str(trace)!r}, 'w').close()\n{method_source('SCALE = 1.0')}".encode()
        (facts.parent / "lora.py").write_bytes(evil)
        stated = json.loads(facts.read_text())
        stated["files"]["lora.py"] = hashlib.sha256(evil).hexdigest()
        facts.write_text(json.dumps(stated))
    here = ("--store", store)
    for command in (
        ("compare", *here),
        ("compare", "-m", states.name(0), *here),
        ("compare", "--layout", "sweep", *here),
        ("compare", "--layout", "sweep", "-m", "edited", "-o", "strength=1", *here),
        ("report", *here, "--output", tmp_path / "report.html"),
        *(("audit", *here), ("compare", *here, "--format", "bibtex"), ("show", "edited", *here)),
        *(("store", "verify", *here), ("store", "merge", store, "--store", tmp_path / "merged")),
    ):
        fsbench(*command)
        assert not trace.exists(), command
    # Only who runs a method runs its code.
    fsbench("rerun", states.records[0].spec.key()[:12], *here)
    assert trace.exists()
