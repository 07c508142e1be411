"""Outputs replace no image and nothing of a store; filters that name nothing are errors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fewshot_bench.store.store import Store
from tests.support.compare_records import make, save
from tests.support.helpers import PATIENCE, command, fsbench, save_image
from tests.support.store_cases import filled

FILTERS = ("method", "dataset", "classes", "shots", "seeds")
FILTERED = (("compare",), ("audit",), ("store", "rm", "--yes"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    records = [make(dataset=name, revision=f"{name}1") for name in ("dtd", "pets")]
    return save(tmp_path / "s", records)


@pytest.mark.parametrize("command", FILTERED)
@pytest.mark.parametrize("text", ["", ",", " , "])
@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_that_names_nothing_is_no_filter_for_all(
    store: Path, command: tuple[str, ...], name: str, text: str
) -> None:
    done = fsbench(*command, "--store", store, f"--{name}", text, "--weights", "")
    assert (done.code, len(list(Store(store).records()))) == (2, 2), done
    assert f"--{name} {text!r} names nothing" in done.err or "nothing says which" in done.err


def test_an_empty_condition_is_that_of_no_other_record(store: Path) -> None:
    assert fsbench("compare", "--store", store, "--weights", "").code == 0
    save(store, [make("tip", weights="12ab")])
    found = fsbench("compare", "--store", store, "--weights", "", "--format", "csv").out
    assert ("coop" in found, "tip" in found) == (True, False)
    for name in ("code", "own-data", "backbone"):
        done = fsbench("compare", "--store", store, f"--{name}", "")
        assert (done.code, "unknown" in done.err) == (2, True), done


def test_records_of_one_revision(store: Path) -> None:
    found = fsbench("compare", "--store", store, "--revision", "pe", "--format", "csv").out
    assert ("pets" in found, "dtd" in found) == (True, False)
    done = fsbench("compare", "--store", store, "--revision", "no")
    assert (done.code, "unknown revision 'no'" in done.err) == (2, True)


@pytest.mark.parametrize("command", [("compare",), ("audit",), ("report",)])
def test_no_output_replaces_a_file_of_the_store(store: Path, command: tuple[str, ...]) -> None:
    (record, _) = sorted(store.glob("records/*/*.json"))
    before = record.read_bytes()
    for place in (record, store / "records" / "new.csv", store / "cache" / "x.csv"):
        done = fsbench(*command, "--store", store, "-O", place)
        assert (done.code, "no output replaces" in done.err) == (2, True), done
    assert record.read_bytes() == before
    beside = store / "table.csv"
    assert fsbench(*command, "--store", store, "-O", beside).code == 0
    assert beside.is_file()


def test_no_output_has_the_name_of_an_image_or_of_another_output(
    store: Path, tmp_path: Path
) -> None:
    save_image(tmp_path / "photo.png", 1)
    before = (tmp_path / "photo.png").read_bytes()
    for words in (("compare",), ("audit",), ("report",)):
        done = fsbench(*words, "--store", store, "-O", tmp_path / "photo.png")
        assert (done.code, "not of an image" in done.err) == (2, True), done
    done = fsbench("data", "verify", "digits", "-O", tmp_path / "photo.png")
    assert (done.code, "ends in .csv" in done.err) == (2, True)
    done = fsbench("predict", tmp_path, tmp_path / "photo.png", "-O", tmp_path / "photo.png")
    assert (done.code, "not of an image" in done.err) == (2, True)
    assert (tmp_path / "photo.png").read_bytes() == before
    twice = ("--predictions", tmp_path / "x.csv", "-O", tmp_path / "x.csv", "--format", "csv")
    done = fsbench("compare", "--store", store, *twice)
    assert (done.code, "--output and --predictions name one file" in done.err) == (2, True)
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "-O", ""),
        ("splits", "export", "digits", "--shots", "1", "-O", ""),
        ("data", "prepare", "digits", "--root", ""),
        ("run", "--config", ""),
        ("evaluate", "model", "-d", "digits", "--store", ""),
    ],
)
def test_an_empty_path_is_not_the_current_folder(words: tuple[str, ...]) -> None:
    done = fsbench(*words)
    assert done.code == 2, done
    assert "''" in done.err


@pytest.mark.parametrize("option", [("--protocol", "nested"), ("--val", "none"), ("--seeds", "2")])
def test_options_of_picks_need_shots(option: tuple[str, ...]) -> None:
    for words in (("show", "digits"), ("export", "digits", "-O", "x.json")):
        done = fsbench("splits", *words, *option)
        assert (done.code, "add --shots" in done.err) == (2, True), done


def test_a_model_in_the_folder_of_its_images_is_refused(tmp_path: Path) -> None:
    for kind in ("a", "b"):
        for number in range(3):
            save_image(tmp_path / "photos" / kind / f"{number}.png", number)
    inside = tmp_path / "photos" / "model"
    words = ("adapt", "-d", f"folder:{tmp_path / 'photos'}", "-m", "zero-shot", "-O", inside)
    done = fsbench(*words)
    assert (done.code, "lies in the folder of the images" in done.err) == (2, True), done
    assert not inside.exists()


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_the_tolerance_of_an_export_is_finite(tmp_path: Path, value: str) -> None:
    done = fsbench("export", tmp_path, "-O", tmp_path / "x", "--tolerance", value)
    assert (done.code, "finite number" in done.err) == (2, True), done


def test_strict_kernels_are_asked_for_by_yes_or_no(monkeypatch: pytest.MonkeyPatch) -> None:
    from fewshot_bench.utils import determinism
    from fewshot_bench.utils.errors import UsageError

    for value, asked in (("no", False), ("off", False), ("", False), ("1", True), ("yes", True)):
        monkeypatch.setenv(determinism.VARIABLE, value)
        assert determinism.is_asked() == asked
    monkeypatch.setenv(determinism.VARIABLE, "perhaps")
    with pytest.raises(UsageError, match="DETERMINISTIC=perhaps: expected 1 to use"):
        determinism.is_asked()


def test_options_of_a_reproduction_need_its_name() -> None:
    done = fsbench("reproduce", "--shots", "1")
    assert (done.code, "--shots belongs to a reproduction: name one" in done.err) == (2, True), done
    assert fsbench("reproduce").code == 0


@pytest.mark.parametrize("option", ["--output", "--predictions"])
def test_a_pipe_is_written_and_not_replaced(tmp_path: Path, option: str) -> None:
    store = filled(tmp_path / "s", range(2))
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    done = fsbench("compare", "--store", store.path, "--format", "csv", option, pipe)
    assert done.code == 0, done
    assert pipe.is_fifo()
    assert os.read(reader, 1 << 16).count(b"\n") > 1
    os.close(reader)


def test_an_encoding_that_lacks_a_sign_costs_no_table(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", range(2))
    done = subprocess.run(
        command("compare", "--store", store.path),
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u2500\\u2500" in done.stdout
