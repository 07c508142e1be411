"""`fsbench evaluate`: records of kept models, which tables never mix with those of a run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

import fewshot_bench as fb
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.own_data import read_own_data
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.kept_models import (
    IMAGES,
    image_digest,
    model_folder,
    read_model,
    write_model,
)
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from tests.support.helpers import cells, fsbench, image_folder, record_files, save_image

METHODS = ("zero-shot", "linear-probe")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("home") / "photos", train=6, test=20)


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of cells with their models, and the models' evaluation records."""
    store = tmp_path_factory.mktemp("made") / "store"
    name = f"folder:{photos}"
    session, opened = Session(models=store), Store(store)
    for spec in cells(*METHODS, datasets=(name,), shots=(2,), limit=None):
        done = run_one(spec, session)
        opened.write(done.record, done.answers, done.ids)
        fb.evaluate(model_folder(store, spec.key()), name, store=store)
    return store


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "store"))


def records(store: Path, protocol: str) -> dict[str, fb.Record]:
    found = [r for r in fb.load(store) if r.spec.protocol == protocol]
    return {record.spec.method: record for record in found}


def kept_model(store: Path, method: str = "linear-probe") -> Path:
    return model_folder(store, records(store, "coop")[method].spec.key())


@pytest.mark.parametrize("method", METHODS)
def test_the_record_has_the_answers_of_the_cell(made: Path, method: str) -> None:
    cell, kept = (records(made, protocol)[method] for protocol in ("coop", "kept"))
    assert kept.logits_digest == cell.logits_digest
    assert kept.metrics == cell.metrics
    assert kept.split["test_images"] == cell.split["test_images"]
    assert kept.split["train"] == cell.split["train"] == 4
    assert kept.spec.picks == fb.load_model(kept_model(made, method)).config.as_json()["digest"]
    same = ("dataset", "shots", "split_seed", "train_seed", "val", "prompts", "weights", "options")
    for name in (*same, "overrides", "method_version", "revision", "precision", "device"):
        assert getattr(kept.spec, name) == getattr(cell.spec, name), name
    assert kept.environment["code"] == cell.environment["code"]
    assert kept.footprint["images_encoded"] >= 40
    results = fb.load(made)
    ours, theirs = results.predictions(kept), results.predictions(cell)
    assert list(ours.predicted) == list(theirs.predicted)
    assert list(ours.ids) == list(theirs.ids)


def test_a_model_states_the_picks_of_its_split_and_no_path(made: Path, photos: Path) -> None:
    folder = kept_model(made)
    config = read_model(folder)[0]
    shown = fsbench("splits", "show", f"folder:{photos}", "--shots", 2, "--seeds", 1)
    assert config.data["split"] in shown.out
    assert config.data["dataset"] == "folder:photos"
    assert config.data["validation"] == 4
    for path in folder.iterdir():
        assert str(photos.parent).encode() not in path.read_bytes(), path.name


def test_no_table_mixes_them_with_cells_of_a_run(made: Path) -> None:
    blocks = fsbench("compare", "--store", made)
    assert blocks.code == 0, blocks.err
    assert "Conditions 1 of 2: protocol coop\n" in blocks.out
    assert "Conditions 2 of 2: protocol kept\n" in blocks.out
    alone = fsbench("compare", "--store", made, "--protocol", "kept")
    assert alone.code == 0, alone.err
    assert "protocol kept" in alone.out
    beside = fsbench("compare", "--store", made, "--allow-mixed").out
    assert "linear-probe protocol=kept" in beside
    assert "linear-probe protocol=coop" in beside


def test_other_commands_read_them_like_any_other(made: Path, tmp_path: Path) -> None:
    assert "all is well" in fsbench("store", "verify", "--store", made).out
    chosen = ("--store", made, "--protocol", "kept")
    assert "protocol kept" in fsbench("audit", *chosen).out
    page = tmp_path / "page.html"
    built = fsbench("report", *chosen, "--output", page)
    assert built.code == 0, built.err
    assert "kept" in page.read_text(encoding="utf-8")
    frame = fb.load(made).where(protocol="kept").to_frame()
    assert sorted(frame["method"]) == sorted(METHODS)
    key = records(made, "kept")["zero-shot"].spec.key()
    again = fsbench("rerun", key, "--store", made)
    assert again.code == 2
    assert "fsbench evaluate MODEL --store DIR" in again.err


def test_what_is_missing_is_no_command_of_a_run(store: Path, photos: Path) -> None:
    other = kept_model(store, "zero-shot")
    config, tensors = read_model(other)
    seed = msgspec.structs.replace(config, data={**config.data, "seed": 7, "split_seed": 7})
    write_model(store / "seven", seed, tensors, "")
    fb.evaluate(store / "seven", f"folder:{photos}", store=store)
    found = fsbench("compare", "--store", store, "--protocol", "kept")
    assert found.code == 0, found.err
    assert "--protocol kept" not in found.out
    assert "fsbench evaluate MODEL --store DIR" in " ".join(found.out.split())


def test_two_models_of_a_method_share_no_row(store: Path, photos: Path) -> None:
    config, tensors = read_model(kept_model(store))
    write_model(store / "cooler", msgspec.structs.replace(config, temperature=2.0), tensors, "")
    done = fsbench("evaluate", store / "cooler", "-d", f"folder:{photos}", "--store", store)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1].startswith("record ")
    refused = fsbench("compare", "--store", store, "--protocol", "kept")
    assert refused.code == 2
    assert "records differ in model of 'linear-probe@1'" in refused.err
    assert "fsbench store rm" in refused.err
    rows = fsbench("compare", "--store", store, "--protocol", "kept", "--allow-mixed").out
    assert rows.count("linear-probe model=") == 2


def test_the_record_of_a_measured_model_says_where_its_model_is(made: Path) -> None:
    record = records(made, "kept")["linear-probe"]
    with pytest.raises(fb.FsbenchError, match="whose folder the record does not name") as raised:
        fb.load(made).model(record)
    assert record.spec.picks[:12] in str(raised.value)


def test_nothing_is_written_without_a_store(
    made: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = record_files(made)
    monkeypatch.chdir(tmp_path)
    record = fb.evaluate(fb.load_model(kept_model(made)), f"folder:{photos}")
    assert record.spec.key() == records(made, "kept")["linear-probe"].spec.key()
    shown = fsbench("evaluate", kept_model(made), "-d", f"folder:{photos}", "--format", "json")
    assert json.loads(shown.out)["record"] is None
    assert json.loads(shown.out)["metrics"] == record.metrics
    assert not list(tmp_path.iterdir())
    assert record_files(made) == before


def test_an_evaluation_takes_the_place_of_the_same_one(store: Path, photos: Path) -> None:
    count = len(fb.load(store).records())
    fb.evaluate(kept_model(store), f"folder:{photos}", store=store)
    assert len(fb.load(store).records()) == count
    assert Store(store).complete(records(store, "kept")["linear-probe"].spec.key())


@pytest.mark.parametrize("data", [{"seed": -1}, {"shots": "many"}, {"val": 3}])
def test_a_config_that_no_fit_wrote_is_one_line(
    made: Path, photos: Path, tmp_path: Path, data: dict[str, object]
) -> None:
    config, tensors = read_model(kept_model(made))
    changed = msgspec.structs.replace(config, data={**config.data, **data})
    write_model(tmp_path / "model", changed, tensors, "")
    done = fsbench("evaluate", tmp_path / "model", "-d", f"folder:{photos}")
    assert done.code == 1
    assert "its config states no fit" in done.err


def class_folder(root: Path, counts: Mapping[str, int], first: int = 0) -> Path:
    """Class folders with this many images, whose content follows from class and number."""
    for label, (name, count) in enumerate(counts.items()):
        for number in range(first, first + count):
            save_image(root / name / f"{number}.jpg", 1000 * label + number)
    return root


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Photographs of two classes and the model that `adapt` made from them."""
    home = tmp_path_factory.mktemp("adapted")
    own = class_folder(home / "own", {"cat": 10, "dog": 10})
    made = fb.adapt(f"folder:{own}", home / "m", method="zero-shot", backbone="tiny", device="cpu")
    return own, made.folder


def test_copies_of_other_sizes_are_left_out_as_long_as_the_images_of_the_fit_are_there(
    tmp_path: Path,
) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for label, name in enumerate(("cat", "dog")):
        for index in range(6):
            path = own / name / f"{index}.png"
            save_blobs(path, 100 * label + index)
            save_blobs(other / "test" / name / f"new{index}.png", 50 + 100 * label + index)
            if index < 4:
                with Image.open(path) as image:
                    small = image.convert("RGB").resize((image.width // 2, image.height // 2))
                small.save(other / "test" / name / f"half{index}.jpg")
    made = fb.adapt(own, tmp_path / "m", method="zero-shot", backbone="tiny", device="cpu")
    shown = fsbench("evaluate", made.folder, "-d", other)
    assert "12 test images of" in shown.out, shown.err
    assert "  8 more are left out: they copy images" in shown.out
    assert "searched" not in shown.out
    own.rename(tmp_path / "away")
    record = fb.evaluate(made.folder, other)
    assert record.split["test"] == 20
    told = record.notes["kept_model"]["unsearched"]
    assert told.startswith("12 of the 12 images that the model was made from were not searched")
    shown = fsbench("evaluate", made.folder, "-d", other)
    assert told in shown.out
    given = json.loads(fsbench("evaluate", made.folder, "-d", other, "--format", "json").out)
    assert given["unsearched"] == told


def save_blobs(path: Path, seed: int) -> None:
    """Write a picture of large areas, which resembles no other and survives another size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(colors).resize((120, 96), Image.Resampling.BICUBIC).save(path)


def aged(model: Path, folder: Path, **data: object) -> Path:
    """The model as an earlier version wrote it, which states no images."""
    config, tensors = read_model(model)
    told = {**{k: v for k, v in config.data.items() if k != IMAGES}, **data}
    write_model(folder, msgspec.structs.replace(config, data=told), tensors, "")
    return folder


def test_images_of_the_fit_are_left_out_of_a_changed_folder(
    adapted: tuple[Path, Path], tmp_path: Path
) -> None:
    """By their bytes, whatever names and revision the folder has by now."""
    own, model = adapted
    grown = Path(shutil.copytree(own, tmp_path / "grown"))
    for path in grown.rglob("*.jpg"):
        path.rename(path.with_name(f"old{path.name}"))
    class_folder(grown, {"cat": 10, "dog": 10}, first=10)
    split = registry().dataset(f"folder:{grown}").items()["test"]
    old = sum("/old" in item.id for item in split)
    assert 0 < old < len(split) == 12
    record = fb.evaluate(model, f"folder:{grown}")
    assert record.split["test"] == 12 - old
    assert record.notes["kept_model"]["left_out"] == old
    assert IMAGES not in record.notes["kept_model"]["data"]
    shown = fsbench("evaluate", model, "-d", f"folder:{grown}")
    assert f"{12 - old} test images of" in shown.out
    assert f"  {old} more are left out: they copy images of the fit" in shown.out
    assert "  28 other images of it are its training part" in shown.out
    told = json.loads(fsbench("evaluate", model, "-d", f"folder:{grown}", "--format", "json").out)
    assert (told["images"], told["left_out"]) == (12 - old, old)


def test_copies_of_the_images_of_the_fit_are_no_test(
    adapted: tuple[Path, Path], tmp_path: Path
) -> None:
    own, model = adapted
    shutil.copytree(own, tmp_path / "copy" / "test")
    shutil.copytree(own, tmp_path / "copy" / "train")
    refused = fsbench("evaluate", model, "-d", f"folder:{tmp_path / 'copy'}")
    assert refused.code == 2
    assert "all 20 test images of" in refused.err
    assert "was made from folder:copy" not in refused.err


def test_a_model_that_states_no_images_is_refused_on_another_revision(
    adapted: tuple[Path, Path], tmp_path: Path
) -> None:
    own, model = adapted
    old = aged(model, tmp_path / "old")
    assert "all 6 test images" in fsbench("evaluate", old, "-d", f"folder:{own}").err
    grown = Path(shutil.copytree(own, tmp_path / "own"))
    class_folder(grown, {"cat": 1}, first=50)
    refused = fsbench("evaluate", old, "-d", f"folder:{grown}")
    assert refused.code == 2
    assert "the model was made from folder:own of revision" in refused.err
    assert "does not state its images: some of the 6 test images may be among" in refused.err
    assert refused.err.count("\n") == 1
    others = class_folder(tmp_path / "others", {"cat": 10, "dog": 10}, first=20)
    assert fsbench("evaluate", old, "-d", f"folder:{others}").code == 0


def test_a_cell_of_a_divided_folder_is_measured_on_its_own_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grown = class_folder(tmp_path / "grown", {"cat": 10, "dog": 10})
    store, name = tmp_path / "store", f"folder:{grown}"
    asked = ("run", "-m", "zero-shot", "-d", name, "--shots", 4, "--seeds", 1, "--keep-models")
    done = fsbench(*asked, "--store", store, "--backbone", "tiny", "--device", "cpu")
    assert done.code == 0, done.err
    (model,) = (store / "models").iterdir()
    class_folder(grown, {"cat": 5, "dog": 5}, first=10)
    shown = fsbench("evaluate", model, "-d", name, "--store", store)
    assert shown.code == 0, shown.err
    assert "6 test images of" in shown.out
    assert "  14 other images of it are its training part" in shown.out
    assert "  10 images of it are not in its stored split" in shown.out
    # Without the store, another split is made.
    for path in grown.rglob("*.jpg"):
        path.rename(path.with_name(f"{path.stat().st_size}{path.name}"))
    kept = read_model(model)[0]
    assert len(kept.fitted_images) == kept.data["validation"] + sum(kept.data["images"])
    items = registry().dataset(name).items()["test"]
    fitted = sum(
        image_digest(hashlib.sha256((grown / item.id).read_bytes()).digest()) in kept.fitted_images
        for item in items
    )
    assert fitted
    anew = fsbench("evaluate", model, "-d", name)
    assert anew.code == 0, anew.err
    assert f"{len(items) - fitted} test images of" in anew.out
    assert f"  {fitted} more are left out" in anew.out
    refused = fsbench("evaluate", aged(model, tmp_path / "old"), "-d", name)
    assert refused.code == 2
    assert "or name the store of its run by --store" in refused.err


@pytest.mark.parametrize("listed", ["abc", "x" * 16, 3, ["0" * 16]])
def test_a_damaged_list_of_images_is_not_written(
    adapted: tuple[Path, Path], tmp_path: Path, listed: object
) -> None:
    with pytest.raises(StoreError, match=r"no config of a model: data.image_digests: expected 16"):
        aged(adapted[1], tmp_path / "m", **{IMAGES: listed})


@pytest.mark.parametrize("seed", ["=cmd", None, 1.5, True])
def test_a_seed_that_is_no_number_is_not_written(
    adapted: tuple[Path, Path], tmp_path: Path, seed: object
) -> None:
    with pytest.raises(StoreError, match=r"data.seed: expected a whole number"):
        aged(adapted[1], tmp_path / "m", seed=seed)


@pytest.mark.parametrize("form", ["json", "txt"])
def test_a_model_with_own_class_names_is_measured_under_them(
    photos: Path, tmp_path: Path, form: str
) -> None:
    """As its cell was, bit for bit; without the names, the error says what to do."""
    names, own = tmp_path / f"names.{form}", {"cat": "a tabby", "dog": "a hound"}
    names.write_text(json.dumps(own) if form == "json" else "\n".join(own.values()))
    data, store, session = (
        f"folder:{photos}",
        tmp_path / "store",
        Session(models=tmp_path / "store"),
    )
    given = read_own_data(names, (), None)
    (spec,) = cells("zero-shot", datasets=(data,), shots=(2,), limit=None, data=given)
    done = run_one(spec, session)
    Store(store).write(done.record, done.answers, done.ids)
    model = model_folder(store, spec.key())
    refused = fsbench("evaluate", model, "-d", data)
    assert refused.code == 2
    assert "names must be equal (--classnames renames those of the data set)" in refused.err
    asked = fsbench("evaluate", model, "-d", data, "--classnames", names, "--store", store)
    assert asked.code == 0, asked.err
    kept, cell = (records(store, protocol)["zero-shot"] for protocol in ("kept", "coop"))
    assert (kept.logits_digest, kept.spec.data) == (cell.logits_digest, cell.spec.data)
    python = fb.evaluate(model, data, classnames=given["classnames"])
    assert python.spec.key() == kept.spec.key()
    assert fsbench("compare", "--store", store, "--protocol", "kept").code == 0
