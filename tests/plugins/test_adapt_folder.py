"""The folder that `fsbench adapt` writes: nothing but an earlier model is ever replaced."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from fewshot_bench.plugins.models import adapt as module
from fewshot_bench.plugins.models.search import Search
from fewshot_bench.store.kept_models import CONFIG, MODEL_FILES, SUPPORT, read_config
from tests.support.helpers import PATIENCE, Result, fsbench, save_image, start, wait_until
from tests.support.own_sets import samples, write_shard

WRITTEN = set(MODEL_FILES) - {SUPPORT}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One repeat of all folds."""
    monkeypatch.setattr(module, "REPEATS", 1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("home") / "photos"
    for label in range(2):
        for index in range(2):
            save_image(root / str(label) / f"{index}.jpg", 100 * label + index)
    return f"folder:{root}"


def adapt(photos: str, output: object, *more: object) -> Result:
    asked = ("adapt", "--backbone", "tiny", "--device", "cpu", "-m", "zero-shot")
    return fsbench(*asked, "-d", photos, "-O", output, *more)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def once_fitted(monkeypatch: pytest.MonkeyPatch, event: Callable[[], object]) -> None:
    """Let something happen after the fits, before the model is written."""
    final = Search.final

    def later(self: Search, candidate: Any) -> Any:
        found = final(self, candidate)
        event()
        return found

    monkeypatch.setattr(Search, "final", later)


@pytest.mark.parametrize("empty", [True, False])
def test_a_place_that_was_taken_meanwhile_stays(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: bool
) -> None:
    """Whether the folder is new or was there and empty."""
    output = tmp_path / "race"
    if empty:
        output.mkdir()

    def take() -> None:
        output.mkdir(exist_ok=True)
        (output / "thesis.txt").write_text("my thesis")

    once_fitted(monkeypatch, take)
    done = adapt(photos, output)
    assert done.code == 0, done.err
    assert (output / "thesis.txt").read_text() == "my thesis"
    assert names(output) == ["thesis.txt"]
    read_config(tmp_path / "race-2")
    assert f"{output} was taken while methods were fitted: the model is in {output}-2" in done.out
    assert f"fsbench predict {output}-2 IMAGES" in done.out.splitlines()[-1]
    assert names(tmp_path) == ["race", "race-2"]


def test_files_that_come_while_the_model_is_written_stay(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, write = tmp_path / "race", module.write_model
    output.mkdir()

    def slow(*arguments: Any) -> str:
        (output / "README.md").write_text("my thesis")
        return write(*arguments)

    monkeypatch.setattr(module, "write_model", slow)
    assert adapt(photos, output).code == 0
    assert (output / "README.md").read_text() == "my thesis"
    read_config(tmp_path / "race-2")


def test_overwriting_takes_no_foreign_config_for_a_model(photos: str, tmp_path: Path) -> None:
    output = tmp_path / "notmodel"
    output.mkdir()
    (output / "config.json").write_text('{"a": 1}')
    (output / "weights.bin").write_text("precious")
    done = adapt(photos, output, "--force")
    assert done.code == 2
    assert "--force replaces nothing but a model: choose another folder" in done.err
    assert done.err.count("\n") == 1
    assert (output / "weights.bin").read_text() == "precious"


def test_overwriting_a_model_keeps_what_is_beside_it(photos: str, tmp_path: Path) -> None:
    output = tmp_path / "m"
    assert adapt(photos, output, "--keep-support").code == 0
    (output / "notes").mkdir()
    done = adapt(photos, output, "--force")
    assert done.code == 2
    assert "holds 'notes' beside its model" in done.err
    (output / "notes").rmdir()
    before, place = read_config(output), output.stat().st_ino
    done = adapt(photos, output, "--force", "--seed", 2)
    assert done.code == 0, done.err
    assert read_config(output).data["seed"] == 2 != before.data["seed"]
    assert names(output) == sorted(WRITTEN)
    assert output.stat().st_ino == place
    assert fb.load_model(output).classnames == ("0", "1")


@pytest.mark.parametrize("failing", [SUPPORT, CONFIG])
def test_an_earlier_model_outlives_a_failure(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Wherever the move into the folder fails."""
    output = tmp_path / "m"
    assert adapt(photos, output, "--keep-support").code == 0
    before = {name: (output / name).read_bytes() for name in names(output)}
    move = shutil.move

    def broken(source: Any, target: Any) -> None:
        if Path(source).parent.name == "new" and Path(source).name == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        move(source, target)

    monkeypatch.setattr("fewshot_bench.plugins.models.place.shutil.move", broken)
    done = adapt(photos, output, "--force", "--seed", 2, "--keep-support")
    assert done.code == 2
    assert f"cannot write '{output}': Input/output error; choose another --output" in done.err
    assert {name: (output / name).read_bytes() for name in names(output)} == before


@pytest.mark.parametrize("given", [".", "absolute", "link"])
def test_an_empty_folder_is_filled_and_stays(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """It may be a mount point, or the folder of the terminal."""
    output = tmp_path / "empty"
    output.mkdir()
    place = output.stat().st_ino
    (tmp_path / "link").symlink_to(output)
    monkeypatch.chdir(output)
    asked = {".": Path(), "absolute": output, "link": tmp_path / "link"}[given]
    done = adapt(photos, asked)
    assert done.code == 0, done.err
    assert output.stat().st_ino == place
    assert names(output) == sorted(WRITTEN)
    assert done.out.splitlines()[-1] == f"model in {asked}; fsbench predict {asked} IMAGES"
    assert names(tmp_path) == ["empty", "link"]


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(folder: Path, *_: Any) -> str:
        raise OSError(number, os.strerror(number), str(folder / "model.safetensors"))

    monkeypatch.setattr(module, "write_model", full)
    done = adapt(photos, tmp_path / "m")
    assert done.code == 2
    said = f"error: cannot write '{tmp_path / 'm'}': {os.strerror(number)}; choose another --output"
    assert done.err.strip() == said
    assert names(tmp_path) == []


def test_without_room_for_temporary_files_features_stay_in_memory(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

    monkeypatch.setattr(module.tempfile, "mkdtemp", full)
    assert adapt(photos, tmp_path / "m").code == 0


def test_the_last_line_can_be_pasted(photos: str, tmp_path: Path) -> None:
    output = tmp_path / "my model"
    done = adapt(photos, output)
    assert done.out.splitlines()[-1] == f"model in {output}; fsbench predict '{output}' IMAGES"


def test_what_ended_the_comparison_is_named(photos: str, tmp_path: Path) -> None:
    done = adapt(photos, tmp_path / "m", "--memory", "1B")
    assert done.code == 0, done.err
    assert "nothing was held out (no memory: " in done.out


def test_a_device_that_is_not_there_is_named(photos: str, tmp_path: Path) -> None:
    done = fsbench("adapt", "-d", photos, "-O", tmp_path / "m", "--device", "cuda:99")
    assert done.code == 2
    assert "device 'cuda:99': this machine has" in done.err


def left_in(folder: Path) -> list[Path]:
    return list(folder.glob("fsbench-adapt*"))


@pytest.mark.slow
def test_the_folder_of_features_of_a_killed_process_is_removed(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    asked = ("adapt", "--backbone", "tiny", "--device", "cpu", "-m", "zero-shot", "-d", photos)
    environment = {**os.environ, "TMPDIR": str(place)}
    process = start(*asked, "-O", tmp_path / "model", env=environment)
    wait_until(lambda: bool(left_in(place)) or process.poll() is not None)
    process.kill()
    process.communicate(timeout=PATIENCE)
    (left,) = left_in(place)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    done = fsbench(*asked, "-O", tmp_path / "model")
    assert done.code == 0, done.err
    assert not left.exists()
    assert left_in(place) == []


def test_a_model_of_shards_states_no_path(tmp_path: Path) -> None:
    """The name of the data set holds two paths; a model is shared with others."""
    for role, first in (("train", 0), ("test", 4)):
        write_shard(tmp_path / "home of ann" / role / "0.tar", samples(4, first))
    home, names = tmp_path / "home of ann", tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    data = f"wds:train={home}/train/*.tar;test={home}/test/*.tar"
    asked = ("-m", "zero-shot", "--backbone", "tiny", "--shots", 1, "--output", tmp_path / "m")
    done = fsbench("adapt", "--dataset", data, "--classnames", names, *asked)
    assert done.code == 0, done.err
    assert read_config(tmp_path / "m").data["dataset"] == "wds:train=*.tar;test=*.tar"
    for name in ("config.json", "README.md"):
        assert "home of ann" not in (tmp_path / "m" / name).read_text()
