"""Results from changed image bytes: recomputed, never mixed; test images that were fitted on."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.record import Record, overlaps
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.runner.resuming import Code, ImageState, resume
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.store import Store
from tests.support.helpers import cells, fsbench, save_image

KIND = "bmp"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of distinct images with equal file sizes."""
    root = tmp_path / "photos"
    number = 0
    for role, count in (("train", 2), ("val", 2), ("test", 3)):
        for name in ("cat", "dog"):
            for index in range(count):
                number += 1
                save_image(root / role / name / f"{index}.{KIND}", 1000 + number)
    return root


def request(photos: Path, *methods: str, **more: Any) -> Request:
    """A request for one seed and one shot on the folder."""
    values = {"datasets": (f"folder:{photos}",), "shots": (1,), "seeds": (1,), "val": "none"}
    return Request(methods, **{"backbone": "tiny"} | values | more)


def compute(photos: Path, *methods: str, **more: Any) -> list[Record]:
    """Compute cells in this process and store them beside the folder."""
    store, session = Store(photos.parent / "s"), Session()
    found = [run_one(spec, session) for spec in expand(request(photos, *methods, **more)).cells]
    return [store.write(one.record, one.answers, one.ids) for one in found]


def resumed(photos: Path, *methods: str, keep: bool = False, **more: Any) -> Any:
    """The plan of a run in the current state of the store and the images."""
    store, plan = Store(photos.parent / "s"), expand(request(photos, *methods, **more))
    state = ImageState(plan.datasets, store.path)
    code = Code.of(cell.method for cell in plan.cells)
    return resume(plan, store, code, state, keep_stale=keep)


def others(photos: Path, role: str) -> None:
    """Replace the images by others of equal file size."""
    for number, path in enumerate(sorted((photos / role).rglob(f"*.{KIND}"))):
        before = path.stat().st_size
        save_image(path, 5000 + number)
        assert path.stat().st_size == before


@pytest.mark.parametrize("role", ["test", "train"])
def test_cells_of_other_images_are_computed_again(photos: Path, role: str) -> None:
    (before,) = compute(photos, "zero-shot")
    assert resumed(photos, "zero-shot").done == [before.spec]
    others(photos, role)
    state = resumed(photos, "zero-shot")
    assert (state.done, state.todo) == ([], [before.spec])
    assert state.again
    (line,) = state.about_stale()
    assert line == (
        f"1 cell was computed with images of folder:{photos} that are other ones now: computed "
        "again; --keep-stale keeps them"
    )
    kept = resumed(photos, "zero-shot", keep=True)
    assert (kept.done, kept.todo, kept.again) == ([before.spec], [], False)
    assert kept.about_stale() == [
        line.replace("computed again; --keep-stale keeps them", "kept (--keep-stale)")
    ]
    (after,) = compute(photos, "zero-shot")
    assert before.split["images"] != after.split["images"]
    assert (before.split["test_images"] != after.split["test_images"]) == (role == "test")
    assert resumed(photos, "zero-shot").todo == []


def test_a_run_says_so_and_computes(photos: Path) -> None:
    words = ("run", "-m", "zero-shot", "-d", f"folder:{photos}", "--shots", 1, "--seeds", 1)
    words += ("--backbone", "tiny", "--store", photos.parent / "s")
    assert fsbench(*words).code == 0
    before = list(Store(photos.parent / "s").records())
    others(photos, "test")
    done = fsbench(*words)
    assert f"1 cell was computed with images of folder:{photos} that are other ones" in done.out
    assert "1 cell: 0 done already, 1 to run" in done.out
    assert list(Store(photos.parent / "s").records()) != before
    assert "1 cell: 1 done already, 0 to run" in fsbench(*words).out


def test_methods_on_other_images_do_not_stand_in_one_table(photos: Path) -> None:
    store = photos.parent / "s"
    compute(photos, "zero-shot")
    others(photos, "test")
    compute(photos, "tip-adapter")
    for words in (["compare"], ["report", "-O", photos.parent / "page.html"]):
        done = fsbench(*words, "--store", store)
        assert done.code == 2
        assert "records differ in images of " in done.err
        assert "the files of the data set were other ones: give fsbench run again" in done.err
    audit = fsbench("audit", "--store", store)
    assert "different test images on" in audit.out
    assert "all methods had the same images" not in audit.out
    mixed = fsbench("compare", "--store", store, "--allow-mixed")
    assert mixed.code == 0
    assert mixed.out.count("images=") == 4
    compute(photos, "zero-shot")
    assert fsbench("compare", "--store", store).code == 0
    assert "all methods had the same images" in fsbench("audit", "--store", store).out


def test_test_images_that_were_fitted_on_are_named(photos: Path) -> None:
    store = photos.parent / "s"
    for label in ("cat", "dog"):
        for index in range(2):
            shutil.copy(
                photos / "train" / label / f"{index}.{KIND}",
                photos / "test" / label / f"{index}.{KIND}",
            )
    text = f"folder:{photos}: 2 of 6 test images are also among the train or validation images"
    done = fsbench(
        *("run", "-m", "zero-shot,tip-adapter", "-d", f"folder:{photos}", "--shots", 1),
        *("--seeds", 1, "--val", "none", "--backbone", "tiny", "--store", store),
    )
    assert done.err.count("byte for byte") == 1
    assert f"warning: {text}, byte for byte (in all cells)\n" in done.err
    assert {record.split["overlap"] for record in Store(store).records()} == {2}
    for words in (["compare"], ["audit"]):
        assert text in " ".join(fsbench(*words, "--store", store).out.split()), words
    assert "! " + text[:20] in fsbench("audit", "--store", store).out
    page = photos.parent / "page.html"
    assert fsbench("report", "--store", store, "-O", page).code == 0
    assert "2 of 6 test images are also among" in page.read_text(encoding="utf-8")


def test_the_record_says_what_the_plan_works_out(photos: Path) -> None:
    """Plan and record give equal image digests, also with validation images and class halves."""
    for role in ("train", "val", "test"):
        for number, name in enumerate(("eel", "fox")):
            for index in range(2):
                save_image(photos / role / name / f"{index}.{KIND}", 2000 + 10 * number + index)
    more = {"classes": ("base", "new"), "limit": 3, "val": "min4"}
    found = compute(photos, "zero-shot", **more)
    state = ImageState(expand(request(photos, "zero-shot")).datasets, photos.parent / "s")
    assert len(found) == 2
    assert state.list_changed(found) == set()
    other = [dataclasses.replace(r, split={**r.split, "images": "0" * 64}) for r in found]
    assert state.list_changed(other) == {record.spec.key() for record in found}
    specs = [record.spec for record in found]
    assert state.overlaps(specs) == overlaps(found)


def test_sets_without_stamps_are_known_by_their_revision(tmp_path: Path) -> None:
    (spec,) = cells("zero-shot")
    outcome = run_one(spec, Session())
    other = dataclasses.replace(outcome.record, split={**outcome.record.split, "images": "0" * 64})
    plan = expand(Request(("zero-shot",), (spec.dataset,), (1,), (1,)))
    state = ImageState(plan.datasets, tmp_path)
    assert state.list_changed([other]) == set()
    assert state.overlaps([spec]) == []
    assert outcome.record.split["overlap"] == 0
