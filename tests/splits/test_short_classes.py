"""Classes with fewer images than shots, and all shots: from the command line to all tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from fewshot_bench import Item
from fewshot_bench.analysis.signature import commands_of
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import ALL_SHOTS, RunSpec
from fewshot_bench.splits.draw import short_lines
from fewshot_bench.splits.sampling import SAMPLERS
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from tests.support.helpers import fsbench, save_image

SIZES = {"cat": 9, "dog": 8, "emu": 1}


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """Classes of uneven size with separate test images, so that all other images are for training.

    The loader holds out a fifth of each class for validation; a single image is used for training.
    """
    for label, (name, count) in enumerate(SIZES.items()):
        for index in range(count):
            save_image(tmp_path / f"pets/train/{name}/{index}.png", 100 * label + index)
        save_image(tmp_path / f"pets/test/{name}/x.png", 100 * label + 90)
    return f"folder:{tmp_path / 'pets'}"


Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs into one store and returns the output."""

    def command(*arguments: object) -> str:
        base = ("--seeds", 1, "--backbone", "tiny", "--store", tmp_path / "store")
        found = fsbench("run", "--method", "zero-shot,tip-adapter", *base, *arguments)
        assert found.code == 0, found
        return found.out

    return command


def records(tmp_path: Path) -> list[Record]:
    return list(Store(tmp_path / "store").records())


@pytest.mark.parametrize("protocol", sorted(SAMPLERS))
def test_a_class_with_too_few_images_gives_them_all(
    pets: str, protocol: str, run: Run, tmp_path: Path
) -> None:
    said = run("-d", pets, "--shots", "1,4", "--protocol", protocol)
    note = f"{pets}: 1 of 3 classes has fewer than 4 train images (class 'emu' 1)"
    assert said.count(note) == 1
    found = {record.spec.shots: record.split for record in records(tmp_path)}
    assert found[1]["short_classes"] == 0
    assert (found[4]["short_classes"], found[4]["smallest_class"]) == (1, 1)
    assert found[4]["train"] == (12 if protocol == "clip-lora" else 9)


def test_tables_of_every_format_mark_what_is_short(pets: str, run: Run, tmp_path: Path) -> None:
    run("-d", pets, "--shots", "1,4")
    store = ("--store", tmp_path / "store")
    marked = f"{pets}, 4-shot: 1 of 3 classes (the smallest gave 1)"
    for form in ("terminal", "markdown", "json"):
        text = fsbench("compare", *store, "--format", form).out
        assert marked in " ".join(text.replace("\\", "").split()), form
        assert f"{pets}, 1-shot: 1 of 3 classes (the smallest" not in text
    assert "the smallest gave 1" in fsbench("compare", *store, "--format", "latex").out
    rows = json.loads(fsbench("compare", *store, "--format", "json").out)["rows"]
    assert {(r["shots"], r["short_classes"]) for r in rows if r["dataset"] == pets} == {
        (1, 0),
        (4, 1),
    }
    page = tmp_path / "report.html"
    assert fsbench("report", *store, "-O", page).code == 0
    assert "the smallest gave 1" in page.read_text(encoding="utf-8")


def test_all_shots_take_every_train_image_and_stand_in_every_view(
    pets: str, run: Run, tmp_path: Path
) -> None:
    said = run("-d", pets, "--shots", "1,all", "--save-config", tmp_path / "run.yaml")
    assert "all-shot" in said
    assert "fewer than" not in said
    found = {record.spec.shots: record for record in records(tmp_path)}
    every = found[ALL_SHOTS]
    # 7 of 9 cats and 6 of 8 dogs: a fifth of each class is held out for validation.
    assert (every.split["train"], every.split["short_classes"]) == (7 + 6 + 1, 0)
    assert every.to_dict()["spec"]["shots"] == "all"
    assert yaml.safe_load((tmp_path / "run.yaml").read_text())["shots"] == "1,all"
    again = fsbench("run", "--config", tmp_path / "run.yaml")
    assert "4 cells: 4 done already, 0 to run" in again.out

    store = ("--store", tmp_path / "store")
    compared = fsbench("compare", *store, "--shots", "all,1")
    assert "1-shot" in compared.out
    assert "all-shot" in compared.out
    rows = json.loads(fsbench("compare", *store, "--format", "json", "--shots", "all").out)["rows"]
    assert {row["shots"] for row in rows} == {"all"}
    assert "zero-shot,all," in fsbench("compare", *store, "--format", "csv").out
    audited = fsbench("audit", *store, "--format", "json").out
    assert "|k:1,all|" in json.loads(audited)["signature"]
    commands, _ = commands_of(record.spec for record in records(tmp_path))
    assert any("--shots 1,all" in command for command in commands)
    page = tmp_path / "report.html"
    assert fsbench("report", *store, "--shots", "all", "-O", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "with all train images" in text
    assert str(10**18) not in text
    assert audited.count('"shots": "all"') >= 2


@pytest.mark.parametrize(("val", "warned"), [("min4", "3,5"), ("none", "")])
def test_shots_that_leave_no_validation_image_in_any_class_are_named(val: str, warned: str) -> None:
    train = [
        Item(f"{label}/{number}", label, f"{label}") for label in (2, 3) for number in range(label)
    ]
    dataset: Any = SimpleNamespace(items=lambda: {"train": train, "test": train})
    cells = [RunSpec("zero-shot", "toy", shots, 1, 1, val=val) for shots in (1, 2, 3, 5)]
    (line,) = short_lines(cells, {"toy": dataset})
    assert line.startswith("toy: 2 of 2 classes have fewer than 5 train images (class '2' 2)")
    _, found, shots = line.partition("no image is left for validation at --shots ")
    assert shots.removesuffix(" (docs/reference/protocols.md)") == warned
    assert bool(found) == bool(warned)


def test_no_number_can_be_taken_for_all_shots() -> None:
    spec = RunSpec("zero-shot", "digits", ALL_SHOTS, 1, 1)
    assert RunSpec.from_dict(spec.to_dict()) == spec
    for shots in (10**18, int(ALL_SHOTS), "any", "ALL", True):
        with pytest.raises(StoreError):
            RunSpec.from_dict(spec.to_dict() | {"shots": shots})
    assert fsbench("run", "-m", "zero-shot", "-d", "digits", "--shots", 10**18).code == 2
    assert fsbench("run", "-m", "zero-shot", "-d", "digits", "--shots", "all,all").code == 2
    said = fsbench("run", "-m", "zero-shot", "-d", "digits", "--shots", "1,any").err
    assert "1,2,4 or 1-3 or all" in said


def test_picks_of_all_shots_go_to_a_file_and_back(pets: str, tmp_path: Path) -> None:
    setting = ("--shots", "all", "--seeds", 1, "-O", tmp_path / "shot_all-seed_1.json")
    assert fsbench("splits", "export", pets, *setting).code == 0
    store = ("--store", tmp_path / "store")
    path = tmp_path / "shot_all-seed_1.json"
    assert '"shots": "all"' in path.read_text(encoding="utf-8")
    taken = fsbench("splits", "import", path, "--dataset", pets, *store)
    assert taken.code == 0, taken
    asked = ("-d", pets, "--shots", "all", "--seeds", 1, "--protocol", "imported")
    found = fsbench("run", "--backbone", "tiny", "-m", "zero-shot", *asked, *store)
    assert found.code == 0, found
    (record,) = records(tmp_path)
    assert record.split["train"] == 14
