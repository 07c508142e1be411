"""Users' own data from the command line to records: every family, and the three options."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from fewshot_bench.store.store import Store
from tests.support.answers import stored_arrays
from tests.support.helpers import fsbench, image_folder, save_image
from tests.support.own_sets import hub_or_skip, picture, samples, write_shard

QUICK = ("-m", "zero-shot", "--shots", 1, "--seeds", 1, "--limit", 4, "--backbone", "tiny")


def manifest(root: Path) -> Path:
    """A manifest with images of two classes."""
    lines = ["path,label"]
    for number in range(10):
        (root / f"{number}.png").write_bytes(picture(number))
        lines.append(f"{number}.png,{('cat', 'dog')[number % 2]}")
    path = root / "list.csv"
    path.write_text("\n".join(lines))
    return path


def shards(root: Path) -> Path:
    """A folder in the export format of clip-benchmark."""
    write_shard(root / "train" / "0.tar", samples(10))
    write_shard(root / "test" / "0.tar", samples(4, 20))
    (root / "classnames.txt").write_text("cat\ndog\n")
    return root


def saved(root: Path) -> Path:
    """A folder written by `save_to_disk`."""
    hub = hub_or_skip()
    hub.disable_progress_bars()
    cells = {
        "image": [{"bytes": picture(number), "path": None} for number in range(10)],
        "label": [number % 2 for number in range(10)],
    }
    kinds = {"image": hub.Image(), "label": hub.ClassLabel(names=["cat", "dog"])}
    hub.Dataset.from_dict(cells, features=hub.Features(kinds)).save_to_disk(root)
    return root


def test_every_family_runs(tmp_path: Path) -> None:
    names = (
        f"folder:{image_folder(tmp_path / 'folder')}",
        f"manifest:{manifest(tmp_path)}",
        f"wds:{shards(tmp_path / 'shards')}",
        f"hf:{saved(tmp_path / 'saved')}",
    )
    store = tmp_path / "store"
    result = fsbench("run", *QUICK, "-d", ",".join(names), "--store", store)
    assert (result.code, result.err) == (0, "")
    assert sorted(record.spec.dataset for record in Store(store).records()) == sorted(names)


def test_the_three_options(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "pets", train=6) / "train"
    names, store = tmp_path / "names.txt", tmp_path / "store"
    names.write_text("Katze\nHund\n")
    arguments = ["run", *QUICK, "-d", f"folder:{root}", "--store", store]
    arguments += ["--classnames", names, "--templates", "ein {}", "--holdout", 0.4]
    result = fsbench(*arguments)
    assert (result.code, result.err) == (0, "")
    (record,) = Store(store).records()
    assert record.spec.data == {
        "classnames": ["Katze", "Hund"],
        "templates": ["ein {}"],
        "holdout": 0.4,
    }
    assert record.spec.key() != dataclasses.replace(record.spec, data={}).key()
    (kept,) = (store / "splits" / "made").iterdir()
    assert kept.name.endswith("-holdout-0.4.json")
    assert {path.name for path in root.iterdir()} == {"cat", "dog"}
    names.write_text("Katze\n")
    result = fsbench(*arguments)
    assert result.code == 2
    assert "--classnames has 1 names" in result.err


def test_one_folder_under_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder(tmp_path / "pets", train=6) / "train"
    (tmp_path / "link").symlink_to(root)
    store = tmp_path / "store"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("pets/train", "./pets/train/", "pets/../link", root, "~/pets/train", "~/link"):
        result = fsbench("run", *QUICK, "-d", f"folder:{text}", "--store", store)
        assert (result.code, result.err) == (0, "")
    monkeypatch.chdir(root)
    result = fsbench("run", *QUICK, "-d", "folder:.", "--store", store)
    assert "1 done already, 0 to run" in result.out
    (record,) = Store(store).records()
    assert record.spec.dataset == "folder:~/pets/train"
    for text in ("folder:.", f"folder:{root}", "folder:~/pets/train"):
        assert fsbench("compare", "--store", store, "-d", text).code == 0


def test_only_a_run_writes_and_never_into_the_data(tmp_path: Path) -> None:
    root, store = image_folder(tmp_path / "pets", train=6) / "train", tmp_path / "store"
    name = f"folder:{root}"
    for words in (("show", name), ("data", "verify", name), ("data", "status", name)):
        assert fsbench(*words).code == 0
    assert fsbench("run", *QUICK, "-d", name, "--store", store, "--dry-run").code == 0
    assert (store.exists(), {path.name for path in root.iterdir()}) == (False, {"cat", "dog"})
    assert fsbench("run", *QUICK, "-d", name, "--store", store).code == 0
    assert {path.name for path in root.iterdir()} == {"cat", "dog"}
    assert f"kept in {store}" in fsbench("show", name, "--store", store).out
    save_image(root / "cat" / "late.jpg", 999)
    result = fsbench("run", *QUICK, "-d", name, "--store", store)
    assert "1 done already" in result.out
    other = ("--keep-split", "data", "--store", tmp_path / "other")
    assert fsbench("run", *QUICK, "-d", name, *other).code == 0
    assert (root / "fsbench-split.json").is_file()


def test_the_same_images_give_the_same_numbers_wherever_they_lie(tmp_path: Path) -> None:
    first = image_folder(tmp_path / "first")
    shutil.copytree(first, tmp_path / "elsewhere/pets")
    lines = ["path,label,split"]
    for path in sorted(first.rglob("*.jpg")):
        role, label, _ = path.relative_to(first).parts
        lines.append(f"{path.relative_to(first)},{label},{role}")
    (first / "list.csv").write_text("\n".join(lines))
    names = (f"folder:{first}", f"folder:{tmp_path}/elsewhere/pets", f"manifest:{first}/list.csv")
    store, drawn = tmp_path / "s", ("-m", "clip-adapter", "-o", "epochs=2", "--shots", 2)
    run = ("run", *drawn, "--seeds", 1, "--backbone", "tiny", "--store", store)
    result = fsbench(*run, "-d", ",".join(names))
    assert result.code == 0, result
    records = list(Store(store).records())
    found = [stored_arrays(Store(store), one.spec.key())["logits"] for one in records]
    assert [np.array_equal(one, found[0]) for one in found] == [True] * 3
    assert fsbench("run", *drawn, "--seeds", 2, *run[-4:], "-d", names[0]).code == 0
    other = [record for record in Store(store).records() if record.spec.split_seed == 2]
    assert not np.array_equal(stored_arrays(Store(store), other[0].spec.key())["logits"], found[0])
