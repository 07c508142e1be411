"""Texts that describe classes: `--texts` and `--pooling`, from the file to the record."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

import fewshot_bench as fb
from fewshot_bench.api.registry import registry
from fewshot_bench.api.waffle import PAIRS, read_words
from fewshot_bench.runner.need import find_lack, reads_texts
from fewshot_bench.runner.variants import expand_methods
from fewshot_bench.store.store import Store
from tests.reference.toy import context, random_backbone, random_task
from tests.support.helpers import Result, fsbench
from tests.support.merging import merge

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEXTS = {name: [f"a photo of the number {name}.", f"{name}, a digit"] for name in NAMES}
DEAF = """
from dataclasses import dataclass

from fewshot_bench import Vocabulary
from fewshot_bench.training import LinearClassifier


@dataclass(frozen=True)
class Deaf:
    name = "deaf"
    reads: bool = True

    def fit(self, task, backbone, ctx) -> LinearClassifier:
        if self.reads:
            backbone.class_features(task)
        own = Vocabulary(task.classnames, task.templates)
        return LinearClassifier(backbone.logit_scale * backbone.class_features(own))
"""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file of texts for digits."""
    return write(tmp_path / "own.json", TEXTS)


def write(path: Path, content: object) -> Path:
    """A JSON file."""
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def run(store: Path, texts: object, *more: object, method: str = "zero-shot") -> Result:
    """A run of one cell on digits in this process."""
    which = ("-d", "digits", "--shots", 1, "--seeds", 1, "--engine", "here", "--backbone", "tiny")
    return fsbench("run", "-m", method, *which, "--store", store, "--texts", texts, *more)


def record(store: Path, method: str = "zero-shot") -> fb.Record:
    """The record of a method."""
    (found,) = (one for one in Store(store).records() if one.spec.method == method)
    return found


def test_a_file_is_what_it_says_however_it_is_written(tmp_path: Path, texts: Path) -> None:
    spelled = {f" {name.upper()}_": [f"  {TEXTS[name][0]} "] for name in NAMES[::-1]}
    others = {name: texts[1:] for name, texts in TEXTS.items()}
    shuffled = write(tmp_path / "other.json", {"digits": {}, **spelled, **others})
    table = tmp_path / "table.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("text", "class"))
        rows.writerows((text, name) for name, each in TEXTS.items() for text in each)

    first = run(tmp_path / "store", texts)
    again = [run(tmp_path / "store", other) for other in (shuffled, table)]

    assert first.code == 0, first.err
    assert all("1 done already, 0 to run" in one.out for one in again), again
    spec = record(tmp_path / "store").spec
    assert spec.texts.startswith("own.json@")
    assert spec.pooling == "unit-mean"


def test_prompts_as_texts_give_the_answers_of_prompts(tmp_path: Path) -> None:
    same = {name: [f'a photo of the number: "{name}".'] for name in NAMES}
    plain = fb.cell("zero-shot", "digits", 1, 1, backbone="tiny")
    given = fb.cell(
        *("zero-shot", "digits", 1, 1), backbone="tiny", texts=str(write(tmp_path / "a.json", same))
    )

    logits = [each.method.fit(*each).logits(plain.queries) for each in (plain, given)]

    torch.testing.assert_close(*logits)
    assert plain.spec.texts == "templates"


def test_a_class_without_texts_is_refused_before_anything_runs(tmp_path: Path) -> None:
    short = write(tmp_path / "short.json", {**TEXTS, "seven": [" "], "sevn": ["a seven"]})
    told = run(tmp_path / "store", short)

    assert told.code == 2
    assert "none for 1 of 10 classes of digits, such as 'seven': did you mean 'sevn'?" in told.err
    assert not (tmp_path / "store").exists()


def test_what_is_odd_about_texts_is_told(tmp_path: Path) -> None:
    odd = {**TEXTS, "zero": ["zero", "zero", "", "round", "zero " * 80], "ten": ["ten"]}
    told = run(tmp_path / "store", write(tmp_path / "odd.json", odd), "--dry-run")

    for line in (
        "texts without a word, left out (1): ''",
        "names of no class of digits (1): 'ten'",
        "texts of digits twice in their class, where they count twice (1): 'zero'",
        "texts of digits without the name of their class (1): 'round'",
        "texts of digits of more tokens than the text encoder reads, cut (1): 'zero zero",
    ):
        assert f"note: texts odd.json: {line}" in told.out + told.err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[1]", 'expected {"class name": ["text", ...]}'),
        ('{"a": "b"}', "'a': 'b': expected"),
        ('{"a": [\n', "line 2"),
        ("{}", "holds no text"),
        pytest.param("[" * 100_000, "its brackets are too deep", id="deep"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(content, encoding="utf-8")

    refused = run(tmp_path / "store", path)

    assert refused.code == 2
    assert told in refused.err


def test_one_file_has_texts_of_several_sets(tmp_path: Path) -> None:
    letters = {
        chr(letter): [f"the letter {chr(letter)}"] for letter in range(ord("a"), ord("z") + 1)
    }
    both = write(tmp_path / "both.json", {"digits": TEXTS, "letters": letters})
    ended = fsbench(
        *("run", "-m", "zero-shot", "-d", "digits,letters", "--shots", 1, "--seeds", 1),
        *("--engine", "here", "--backbone", "tiny", "--store", tmp_path / "s", "--texts", both),
    )

    assert ended.code == 0, ended.err
    assert len({one.spec.texts for one in Store(tmp_path / "s").records()}) == 1
    alone = run(tmp_path / "other", write(tmp_path / "one.json", {"letters": letters}))
    assert "(it has texts for 'letters')" in alone.err


def test_cells_hold_texts_if_their_method_needs_them(tmp_path: Path, texts: Path) -> None:
    planned = run(
        tmp_path / "store", texts, "--pooling", "max", "--dry-run", method="zero-shot,coop,fast"
    )
    assert planned.code == 0, planned.err
    for told in (
        "taskres, zs-lp, clap, cross-modal, wise-ft: each takes no texts with --pooling max: "
        "expected unit-mean",
        "3 cells: 0 done already, 3 to run",
    ):
        assert told in planned.out + planned.err

    for method, pooling, why in (
        ("clip-lora", "mean", "its text encoder is trained, and would read all texts"),
        ("tip-adapter", "max", "expected unit-mean or mean"),
        ("taskres", "mean", "expected unit-mean, the forms of class vectors"),
    ):
        refused = run(tmp_path / "store", texts, "--pooling", pooling, method=method)
        assert refused.code == 2
        assert f"method '{method}' takes no texts" in refused.err
        assert why in refused.err


def test_pooling_without_texts_is_refused(tmp_path: Path) -> None:
    told = run(tmp_path / "store", "templates", "--pooling", "mean")

    assert told.code == 2
    assert "add --texts FILE, or leave it out" in told.err


METHODS = registry().methods.names()
TOY = random_backbone()


@pytest.mark.parametrize("method", METHODS)
def test_no_method_ignores_texts_silently(method: str) -> None:
    (variant,) = expand_methods([method], [], registry())
    company = "stream" if variant.card.sees == "stream" else "all"
    allowed = {"queries": company, "views": 64, "texts": "waffle", "pooling": "unit-mean"}
    if not reads_texts(variant, allowed):
        assert variant.card.text in ("none", "class names")
        return
    if find_lack(variant, allowed):
        assert find_lack(variant, allowed | {"texts": "templates"}) == ""
        return
    built: Any = registry().method_class(method)()
    task = random_task(TOY, shots=2, templates=("a photo of a {}.",))
    texts = ReadTexts((f"a {name}",) for name in task.classnames)
    with pytest.raises(InterruptedError, match="the texts are read"):
        built.fit(dataclasses.replace(task, texts=texts), TOY, context())


class ReadTexts(tuple[tuple[str, ...], ...]):
    """Texts that end the fit that reads them."""

    def __iter__(self) -> NoReturn:
        raise InterruptedError("the texts are read")


def test_random_texts_are_drawn_by_the_seed_and_equal_for_all_classes() -> None:
    first, again, other = (
        fb.cell("zero-shot", "digits", 1, seed, backbone="tiny", texts="waffle").task
        for seed in (1, 1, 2)
    )

    assert first.texts == again.texts != other.texts
    assert first.pooling == "mean"
    noise = [
        {text.replace(f" {name},", " X,") for text in texts}
        for name, texts in zip(first.classnames, first.texts, strict=True)
    ]
    assert all(each == noise[0] for each in noise)
    assert len(first.texts[0]) == 2 * PAIRS
    words = [text.removesuffix(".").rpartition("has ")[2] for text in first.texts[0][::2]]
    assert all(any(known.startswith(word) for known in read_words()) for word in words)


def test_workers_and_other_stores_have_the_texts(tmp_path: Path, texts: Path) -> None:
    store = tmp_path / "store"
    ended = run(store, texts, "--engine", "local")
    assert ended.code == 0, ended.err
    stated = record(store).spec.texts
    texts.unlink()
    other = Store(tmp_path / "other")
    assert merge(other, Store(store)).code == 0

    again = run(other.path, stated, "--force")

    assert again.code == 0, again.err
    assert fsbench("store", "verify", "--store", other.path).code == 0


def test_a_method_that_ignores_its_texts_is_named_and_marked(tmp_path: Path, texts: Path) -> None:
    (tmp_path / "deaf.py").write_text(DEAF, encoding="utf-8")
    store, reference = tmp_path / "store", f"{tmp_path / 'deaf.py'}:Deaf"

    ended = run(store, texts, "-o", "deaf.reads=true,false", method=f"{reference},zero-shot")

    assert ended.code == 0, ended.err
    found: Mapping[str, list[Any]] = {"deaf": [], "zero-shot": []}
    for one in Store(store).records():
        found[one.spec.method].append(one.footprint)
    assert [facts["violations"] for facts in found["deaf"]] == 2 * [["ignores its texts"]]
    assert [facts["violations"] for facts in found["zero-shot"]] == [[]]
    assert found["zero-shot"][0]["text_gap"] > 0.1
    assert "ignores its texts" in fsbench("compare", "--store", store).out


def test_texts_that_act_by_a_loss_alone_are_used(tmp_path: Path, texts: Path) -> None:
    ended = run(tmp_path / "store", texts, "-o", "prograd.epochs=1", method="prograd")
    assert ended.code == 0, ended.err

    facts = record(tmp_path / "store", "prograd").footprint

    assert facts["violations"] == []
    assert facts["text_gap"] is None


def test_texts_are_encoded_once_and_billed_to_each_cell(tmp_path: Path, texts: Path) -> None:
    ended = run(tmp_path / "store", texts, method="zero-shot,tip-adapter")
    assert ended.code == 0, ended.err

    works = [one.footprint["work"] for one in Store(tmp_path / "store").records()]

    first, second = sorted(work["computed"]["text_tokens"] for work in works)
    assert first == 0 < second
    assert [work["billed"]["text_tokens"] for work in works] == [second, second]


def test_a_kept_model_has_the_texts_of_its_fit(tmp_path: Path, texts: Path) -> None:
    store = tmp_path / "store"
    ended = run(store, texts, "--pooling", "max", "--keep-models")
    assert ended.code == 0, ended.err

    (folder,) = (store / "models").iterdir()
    config = fb.load_model(folder).config

    assert dict(zip(config.classnames, map(list, config.texts), strict=True)) == TEXTS
    assert config.pooling == "max"


def test_the_new_classes_have_texts_of_the_same_file(tmp_path: Path, texts: Path) -> None:
    ended = run(tmp_path / "store", texts, "--classes", "base,new")

    assert ended.code == 0, ended.err
    facts = [one.split["texts"]["count"] for one in Store(tmp_path / "store").records()]
    assert facts == [10, 10]


def test_published_files_become_one(tmp_path: Path) -> None:
    lists = write(tmp_path / "a.json", {"zero": ["a zero"], "one": ["a one"]})
    descriptors = {"horn_beast": ["antlers", "often big", "four legs", "used daily"], "newt": []}
    kinds = write(tmp_path / "b.json", descriptors)

    refused = fsbench("data", "texts", f"digits={lists}", "--output", tmp_path / "o.json")
    made = [
        fsbench("data", "texts", f"{given}", "--form", form, "--output", tmp_path / f"{form}.json")
        for given, form in ((f"digits={lists}", "lists"), (f"beasts={kinds}", "vdt"))
    ]

    assert refused.code == 2
    assert "is no known file: say --form lists, or vdt" in refused.err
    assert [one.code for one in made] == [0, 0]
    assert "no known file, whose license and origin are yours to know" in made[0].out
    read = json.loads((tmp_path / "vdt.json").read_text())
    assert read["beasts"]["horn beast"] == [
        "horn beast, which is antlers",
        "horn beast, which often big",
        "horn beast, which has four legs",
        "horn beast, which is used daily",
    ]
    assert read["beasts"]["newt"] == ["newt, which has"]
