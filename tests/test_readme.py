"""README.md is short, its links are absolute, its blocks run, and its pictures are current."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
import webbrowser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fewshot_bench.cli import demo
from fewshot_bench.plugins.reproduce.numbers import numbers
from fewshot_bench.plugins.reproduce.printed import agreement, content, settings_of
from scripts.make_pictures import MADE_OF, PICTURES, digests
from scripts.method_pages import built_in_methods
from tests.support.dataset_trees import put, write_set
from tests.support.helpers import REPOSITORY, fsbench
from tests.support.own_sets import picture

TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
HOME = "https://github.com/fewshot-bench/fewshot_bench"
RAW = "https://raw.githubusercontent.com/fewshot-bench/fewshot_bench/main/"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a test adds to a command, so that it needs seconds and no weights.
ADDED = {
    "run": "--backbone tiny --seeds 1 --shots 1 --limit 20",
    "adapt": "--backbone tiny --method gda",
    "coop": "-o coop.epochs=1",
    "clip-lora": "-o clip-lora.iterations=1",
}


def commands() -> list[list[str]]:
    """The words of every `fsbench` line, in order."""
    lines = [
        line for kind, text in BLOCK.findall(TEXT) if kind == "bash" for line in text.split("\n")
    ]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("fsbench ")]


def added(words: list[str]) -> list[str]:
    """What ADDED has for the subcommand and the methods of a command."""
    named = [name for word in words[1:] for name in word.split(",")]
    return [word for name in named for word in ADDED.get(name, "").split()]


def test_it_is_one_screen_after_another() -> None:
    assert len(TEXT.splitlines()) <= 120
    assert len(TEXT.split()) <= 700
    assert len(re.findall(r"<img ", TEXT)) == 3


def test_links_and_pictures_work_elsewhere() -> None:
    targets = re.findall(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", TEXT)
    found = [markdown or html for markdown, html in targets]
    assert len(found) > 60
    assert [target for target in found if not target.startswith("https://")] == []
    for target in found:
        for start in (f"{HOME}/blob/main/", RAW):
            if target.startswith(start):
                assert (REPOSITORY / target.removeprefix(start).partition("#")[0]).exists(), target
    headings = {
        re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-")
        for h in re.findall("^#+ (.+)", TEXT, re.M)
    }
    assert set(re.findall(re.escape(HOME) + r"#([\w-]+)", TEXT)) <= headings


def test_it_links_every_method() -> None:
    linked = re.findall(r"\[([^\]]+)\]\([^)]*/docs/reference/methods/([^)]+)\.md\)", TEXT)
    assert linked == [(name, name) for name, _ in linked]
    assert {name for name, _ in linked} == set(built_in_methods())
    assert f"Runs {len(built_in_methods())} few-shot" in TEXT


def test_the_numbers_it_states_are_those_of_the_command() -> None:
    count, _, share = re.findall(r"\d+", agreement(numbers()))[:3]
    assert f"Of {count} settings" in TEXT
    assert f"{share} % differ by more than a point" in TEXT
    for method in ("clip-adapter", "maple", "coop"):
        ends = [number.value for number in means()[method].numbers]
        assert f"{ends[0]:.1f} and {ends[-1]:.1f} %" in TEXT


def test_pictures_are_current() -> None:
    """Else: python -m scripts.make_pictures."""
    assert json.loads(MADE_OF.read_text(encoding="utf-8")) == digests()
    for shade in ("light", "dark"):
        root = ElementTree.parse(PICTURES / f"printed-{shade}.svg").getroot()
        texts = {element.text for element in root.iter() if element.text}
        assert content(list(means().values())) in texts


def test_extras_that_it_names_exist() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {name for found in re.findall(r"\.\[([\w,]+)\]", TEXT) for name in found.split(",")}
    assert named <= set(project["optional-dependencies"])
    assert f"pip install {project['name']}\n" in TEXT


@pytest.mark.slow
def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("dtd", "eurosat"):
        write_set(tmp_path / "data", name)
    for folder, count in {"photos/cat": 5, "photos/dog": 5, "new": 2}.items():
        for number in range(count):
            put(tmp_path / folder / f"{number}.png", picture(number + len(folder)))
    (python,) = [
        text for kind, text in BLOCK.findall(TEXT) if kind == "python" and "class " in text
    ]
    (tmp_path / "prototype.py").write_text(python, encoding="utf-8")
    monkeypatch.setenv("FSBENCH_DATA", "data")
    assert "export FSBENCH_DATA=data\n" in TEXT
    monkeypatch.setattr(demo, "METHODS", ("zero-shot",))
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda uri: not opened.append(uri))
    for words in commands():
        done = fsbench(*words[1:], *added(words))
        assert done.code == 0, (words, done)
    assert opened == [(tmp_path / "fsbench-demo.html").as_uri()]
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_the_python_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (lines,) = [
        text for kind, text in BLOCK.findall(TEXT) if kind == "python" and "fb.run(" in text
    ]
    exec(lines, {})
    assert (tmp_path / "curves.pdf").stat().st_size
    assert (tmp_path / "records.csv").read_text(encoding="utf-8").count("\n") == 13


def means() -> dict:
    """What sources print at 16 shots, by method, as the picture shows it."""
    chosen = numbers(dataset="average", shots=16, backbone="ViT-B-16")
    found = settings_of([number for number in chosen if number.classes == "all"], 2)
    return {setting.method: setting for setting in found}
