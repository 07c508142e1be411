"""`fsbench paper`: recipes, what is written when, what is missing, and wrong keys."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.cli.paper import EXAMPLES
from fewshot_bench.utils.locks import exclusive
from tests.support.compare_records import make, matrix, read_csv, save
from tests.support.helpers import PATIENCE, fsbench
from tests.support.latex import needs

RECIPE = """
[defaults]
rename = {coop = "CoOp", average = "Average"}
shots = [1, 4]

[[table]]
name = "main"
layout = "paper"
format = ["latex", "markdown"]
caption = "50% & more"
label = "tab:main"

[[figure]]
name = "curves"
kind = "shots"
format = ["svg", "pdf"]
ours = "coop"
"""
FILES = ("main.tex", "main.md", "curves.svg", "curves.pdf", "paper.tex")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return save(tmp_path / "store", matrix())


def paper(store: Path, text: str, *words: object) -> Any:
    """Run a recipe into the folder `out` beside the store."""
    recipe = store.parent / "recipe.toml"
    recipe.write_text(text, encoding="utf-8")
    return fsbench("paper", store, "--recipe", recipe, "-O", store.parent / "out", *words)


def states(said: str) -> dict[str, str]:
    """The state of each file by its name."""
    pairs = (line.partition(": ") for line in said.splitlines() if "/out/" in line)
    return {Path(path).name: state for path, _, state in pairs}


def test_files_are_written_once_and_again_when_numbers_change(store: Path) -> None:
    first = paper(store, RECIPE)
    assert first.code == 0, first
    assert states(first.out) == dict.fromkeys(FILES, "written")
    out = store.parent / "out"
    for name in ("main.tex", "curves.svg"):
        assert "fsbench:1" in (out / name).read_text(encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.is_file()}
    assert states(paper(store, RECIPE).out) == dict.fromkeys(FILES, "unchanged")
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.*") if p.is_file()} == before

    record = make("coop", "pets", 4, 3, 90.0)
    save(store, [record])
    changed = states(paper(store, RECIPE).out)
    for name in FILES[:-1]:
        assert changed[name].startswith("changed: 2 numbers: ")
        assert "CoOp on pets, 4-shot 55." in changed[name] or "CoOp on pets" in changed[name]
    assert changed["paper.tex"] == "unchanged"
    (line,) = (
        line
        for line in read_csv((out / "data" / "curves.csv").read_text())
        if (line["dataset"], line["method"], line["shots"]) == ("pets", "CoOp", "4")
    )
    assert f"-> {line['mean']}" in changed["curves.svg"]


def test_another_caption_is_no_number(store: Path) -> None:
    paper(store, RECIPE)
    changed = states(paper(store, RECIPE.replace("50%", "60%")).out)
    assert changed["main.tex"] == "changed: no number, other text or style"
    assert changed["curves.pdf"] == "unchanged"
    larger = states(paper(store, RECIPE + 'size = "cvpr-column"\n').out)
    assert larger["curves.pdf"] == "changed: no number, other text or style"


@needs("pdflatex")
def test_the_document_of_all_compiles(store: Path) -> None:
    assert paper(store, RECIPE).code == 0
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(
        words, cwd=store.parent / "out", capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_missing_cells_are_listed_with_their_commands(store: Path) -> None:
    holes = [
        r for r in matrix() if (r.spec.dataset, r.spec.shots, r.spec.train_seed) != ("pets", 4, 2)
    ]
    other = save(store.parent / "other", holes)
    done = paper(other, RECIPE)
    (line,) = (line for line in done.out.splitlines() if line.startswith("fsbench run "))
    assert "--dataset pets --shots 4 --seeds 2" in line
    assert (done.code, paper(other, RECIPE, "--strict").code) == (0, 1)
    assert paper(store, RECIPE, "--strict").code == 0


NAMED = """
[defaults]
backbone = "tiny"
dataset = "digits"
seeds = [1, 2]
shots = 4

[[table]]
name = "t"
method = ["zero-shot", "coop@1"]

[[figure]]
name = "f"
kind = "ablation"
method = "coop"
option = {epochs = [1, 2], context_tokens = [2, 4]}
"""


def test_a_dry_run_says_which_cells_are_needed(store: Path) -> None:
    none = store.parent / "none"
    done = paper(none, NAMED, "--dry-run")
    assert done.code == 0, done
    assert done.out.splitlines()[:3] == [
        "table 't': 4 cells",
        "figure 'f': 8 cells",
        "12 cells missing, which these commands run:",
    ]
    cells = "--dataset digits --shots 4 --seeds 1,2"
    swept = "-o epochs=1,2 -o context_tokens=2,4"
    assert done.out.splitlines()[3:] == [
        f"fsbench run --store {none} --method coop {cells} {swept} --backbone tiny",
        f"fsbench run --store {none} --method zero-shot,coop {cells} --backbone tiny",
    ]
    assert not (store.parent / "out").exists()
    assert paper(none, NAMED, "--dry-run", "--strict").code == 1


def test_methods_are_named_as_their_rows_are(store: Path) -> None:
    text = NAMED.replace('"coop@1"', '"coop[epochs=2,position=front]", "clip-lora[]"')
    done = paper(store.parent / "none", text, "--dry-run")
    assert done.code == 0, done
    assert "table 't': 6 cells" in done.out
    assert "14 cells missing" in done.out
    cells = "--dataset digits --shots 4 --seeds 1,2"
    assert f"--method zero-shot,clip-lora {cells} --backbone tiny" in done.out
    assert f"--method coop {cells} -o epochs=2 -o position=front --backbone" in done.out
    done = paper(store.parent / "none", text.replace("epochs=2,", "epoch=2,"), "--dry-run")
    assert (done.code, "error: table 't': " in done.err) == (1, True), done


def test_a_method_of_no_package_is_named_as_its_rows_are(store: Path) -> None:
    made = [
        make("own", "digits", 4, seed, backbone="tiny", overrides={"rank": rank})
        for seed in (1, 2)
        for rank in ([2, 4] if seed == 1 else [2])
    ]
    other = save(store.parent / "own", [*made, make("own", "digits", 4, 1, backbone="tiny")])
    text = NAMED.partition("[[figure]]")[0]
    done = paper(other, text.replace('"zero-shot", "coop@1"', '"own", "own[rank=4]"'), "--dry-run")
    assert "2 cells missing" in done.out, done
    cells = "--dataset digits --shots 4 --seeds 1,2"
    assert f"--method own {cells} --device" in done.out
    assert f"--method own {cells} -o rank=4 --device" in done.out


def test_cells_of_another_device_are_there(store: Path) -> None:
    made = [
        make(method, "digits", shots, seed, backbone="tiny", device="cuda", precision="bf16")
        for method, shots in (("zero-shot", 4), ("coop", 4))
        for seed in (1, 2)
    ]
    other = save(store.parent / "cards", made)
    done = paper(other, NAMED, "--dry-run")
    (line,) = (line for line in done.out.splitlines() if line.startswith("fsbench run "))
    assert "8 cells missing" in done.out
    assert "--device cuda" in line
    assert "--precision bf16" in line


def test_an_item_that_cannot_be_made_leaves_the_others(store: Path) -> None:
    text = RECIPE + '[[figure]]\nname = "halves"\nkind = "base-new"\n'
    done = paper(store, text)
    assert done.code == 1
    assert "halves: not made: no record here is of base or new classes" in done.out
    assert states(done.out)["curves.pdf"] == "written"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("layout =", "layuot =", "table 'main': unknown key 'layuot': did you mean 'layout'?"),
        ('"paper"', '"papers"', "table 'main': invalid value for '--layout'"),
        ("ours =", "colour =", "figure 'curves': unknown key 'colour'"),
        ('"shots"', '"bars"', "figure 'curves': kind 'bars': expected one of shots, base-new"),
        ('"svg"', '"eps"', "figure 'curves': format 'eps'"),
        ("shots =", "shot =", "[defaults]: unknown key 'shot': did you mean 'shots'?"),
        ("[[table]]", "[[tabel]]", "unknown part 'tabel': did you mean 'table'?"),
        ("[[table]]", "[table]", "write every table as [[table]]"),
        ('"curves"', '"main"', "figure 'main': two have this name"),
        ('"curves"', '"../x"', "expected a name of letters"),
        ('"curves"', '"paper"', "that is the file of all"),
        ('ours = "coop"', 'label = "a}b"', "figure 'curves': label 'a}b': expected letters"),
        ("ours =", "output =", "'output' follows from the command line"),
        ('ours = "coop"', "bars = 1", "figure 'curves': bars = 1: expected true or false"),
        ("[defaults]", "[defaults", "is not valid TOML"),
        ('{coop = "CoOp"', '{cop = "CoOp"', "unknown name to replace 'cop'"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said(store: Path, old: str, new: str, said: str) -> None:
    done = paper(store, RECIPE.replace(old, new, 1))
    assert (done.code != 0, said.lower() in (done.err + done.out).lower()) == (True, True), done


def test_defaults_that_one_item_lacks_are_for_the_others(store: Path) -> None:
    text = RECIPE.replace('name = "main"', 'name = "main"\nmethod = "zero-shot"')
    assert paper(store, text).code == 0
    # A method of a package counts as known, whether anything has results of it.
    groups = 'group = {Prompts = ["coop", "cocoop"], Others = "zero-shot"}\n'
    text = text.replace("rename = {", f'{groups}rename = {{kgcoop = "KgCoOp", ')
    done = paper(store, text)
    assert done.code == 0, done
    table = (store.parent / "out" / "main.tex").read_text(encoding="utf-8")
    assert (r"\textit{Others}" in table, r"\textit{Prompts}" in table) == (True, False)


def test_a_run_waits_for_another_in_the_folder(store: Path) -> None:
    out = store.parent / "out"
    out.mkdir()
    recipe = store.parent / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    words = ["paper", str(store), "--recipe", str(recipe), "-O", str(out)]
    command = [sys.executable, "-m", "fewshot_bench", *words]
    with exclusive(out, "paper"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == f"waiting for another run in {out}\n"
        assert not (out / "main.tex").exists()
    text, _ = process.communicate(timeout=PATIENCE)
    assert states(text) == dict.fromkeys(FILES, "written")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_recipes(tmp_path: Path, name: str) -> None:
    text = fsbench("paper", "--example", name).out
    assert {"defaults", "table", "figure"} == set(tomllib.loads(text))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text, encoding="utf-8")
    done = fsbench("paper", tmp_path / "none", "--recipe", recipe, "--dry-run")
    assert done.code == 0, done
    assert done.err == ""
    assert done.out.count("fsbench run ") == 3
