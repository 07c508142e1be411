"""`fsbench splits import`: lists for a public set, and picks of any format for a store."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench import DataMissingError, Item
from fewshot_bench.api.registry import registry
from fewshot_bench.splits.checks import check_positions, find_items, map_to_items
from fewshot_bench.splits.formats import read_split_file
from fewshot_bench.splits.imported import load_imported, path_of_import
from fewshot_bench.splits.published import picks_digest, published_splits
from tests.support.helpers import fsbench
from tests.support.split_trees import DTD_FILE, SMALL, dtd_bytes, real_pools, write_dtd, write_small

# indices/eurosat/shot_1-seed_1.json of https://github.com/linzhiqiu/cross_modal_adaptation:
# per folder, image number and position in the list, for train and for val.
EUROSAT = """
AnnualCrop 2365 275 1229 96 | Forest 2046 2665 826 1099 | HerbaceousVegetation 503 3129 120 1229
Highway 125 5022 174 2257 | Industrial 2006 5991 1199 2727 | Pasture 573 7507 859 2999
PermanentCrop 1476 8920 179 3421 | Residential 1520 10217 1089 3702 | River 882 11527 275 4656
SeaLake 1624 12429 398 5256
"""


def entry(path: str, label: int, classname: str) -> dict[str, Any]:
    return {"impath": path, "label": label, "classname": classname}


def test_a_published_index_file_holds_the_published_picks(tmp_path: Path) -> None:
    rows = [row.split() for line in EUROSAT.split("\n") for row in line.split("|") if row.strip()]
    content = {
        role: {
            "data": [
                entry(f"./data/eurosat/2750/{row[0]}/{row[0]}_{row[at]}.jpg", label, str(label))
                for label, row in enumerate(rows)
            ],
            "indices": [int(row[at + 1]) for row in rows],
        }
        for role, at in (("train", 1), ("val", 3))
    }
    path = tmp_path / "shot_1-seed_1.json"
    path.write_text(json.dumps(content, indent=4), "utf-8")
    pools = real_pools("eurosat")
    file = read_split_file(path)
    found = map_to_items(file, pools, "eurosat")
    digests = tuple(picks_digest(found.lists[role]) for role in ("train", "val"))
    assert digests == published_splits()["eurosat"].picks["1/1"]
    assert check_positions(file, found, pools, "eurosat").startswith("all positions")
    with pytest.raises(DataMissingError, match=r"20 of 20 positions .* 'train 275', .* 17 more"):
        check_positions(file, found, {r: p[::-1] for r, p in pools.items()}, "eurosat")


@pytest.fixture
def small(tmp_path: Path) -> str:
    return write_small(tmp_path / "small")


def put(folder: Path, content: Any, name: str = "shot_1-seed_1.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content), "utf-8")
    return path


def index(train: list[dict[str, Any]], val: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    parts = {"train": train} if val is None else {"train": train, "val": val}
    return {role: {"data": data, "indices": [0] * len(data)} for role, data in parts.items()}


GOOD = index(
    [
        entry("/data/me/set/images/cat/ä.jpg", 0, "house, cat"),
        entry("D:\\data\\images\\dog\\same.jpg", 1, "dog's"),
    ],
    [entry("./x/cat/v.jpg", 0, "house, cat"), entry("dog/v.jpg", 1, "dog's")],
)


def test_picks_from_elsewhere_become_the_sets_items(small: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    result = fsbench("splits", "import", put(tmp_path, GOOD), "--dataset", small, "--store", store)
    assert (result.code, result.err) == (0, "")
    picks = load_imported(store, small, 1, 1)
    assert picks.lists["train"] == (
        Item("cat/ä.jpg", 0, "house, cat"),
        Item("dog/same.jpg", 1, "dog's"),
    )
    assert [item.id for item in picks.lists["val"]] == ["cat/v.jpg", "dog/v.jpg"]
    assert f"picks      sha256 {picks.digest}" in result.out
    assert "coop       differs" in result.out
    assert "of 2 train" in result.out
    assert "positions  NOT used: 3 of 4 positions" in result.out
    assert "nothing is published" in result.out
    path = path_of_import(store, small, 1, 1)
    assert str(path) in result.out
    assert json.loads(path.read_bytes())["protocol"] == "imported"
    assert fsbench("splits", "verify", path).code == 0


@pytest.mark.parametrize(
    ("protocol", "val", "shots"),
    [
        ("coop", "min4", 5),
        ("clip-lora", "shots", 5),
        ("clip-lora", "shots", 3),
        ("nested", "none", 5),
    ],
)
def test_the_protocol_that_drew_the_picks_is_recognized(
    tmp_path: Path, protocol: str, val: str, shots: int
) -> None:
    path, store = tmp_path / f"shot_{shots}-seed_7.json", tmp_path / "store"
    setting = ("--shots", shots, "--seeds", 7, "--protocol", protocol, "--val", val)
    assert fsbench("splits", "export", "digits", *setting, "-O", path).code == 0
    out = fsbench("splits", "import", path, "--dataset", "digits", "--store", store).out
    assert f"{protocol:<10} equal: the same images in the same order" in out
    assert out.count("equal: ") == 1
    lines = tmp_path / "turned.jsonl"
    fsbench("splits", "export", "digits", *setting, "--format", "jsonl", "-O", lines)
    lines.write_text("".join(lines.read_text("utf-8").splitlines(True)[::-1]), "utf-8")
    arguments = ("--shots", shots, "--seed", 7, "--store", store, "--force")
    out = fsbench("splits", "import", lines, "--dataset=digits", *arguments).out
    count = 10 * shots
    assert f"{protocol:<10} differs: {count} of {count} (in another order) train" in out


def refused(code: int, path: Path, *arguments: object) -> str:
    store = path.parent / "none"
    result = fsbench("splits", "import", path, "--store", store, *arguments)
    assert result.code == code, result
    assert result.err.count("\n") == 1
    assert not store.exists()
    return result.err


CAT, DOG = GOOD["train"]["data"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            [CAT, DOG, entry("/x/bird/a.jpg", 2, "bird")],
            "1 of 3 images in FILE are not in 'SET': '/x/bird/a.jpg'; expected paths that end in "
            "ids such as 'cat/a 1.jpg'",
        ),
        ([CAT, entry("x.jpg", 0, "c")] * 5, "5 of 10 images in FILE are not in 'SET': 'x.jpg',"),
        (
            [CAT, entry("same.jpg", 1, "dog's")],
            "1 of 2 paths in FILE may be several images of 'SET': 'same.jpg' ('dog/same.jpg' or "
            "'cat/same.jpg')",
        ),
        ([CAT, DOG | {"label": 0}], "'dog/same.jpg' is 0 'dog's' in the file and 1 'dog's' in"),
        ([CAT, DOG | {"classname": "wolf"}], "is 1 'wolf' in the file and 1 'dog's' in the data"),
        ([CAT, entry("dog/t.jpg", 1, "dog's")], "1 train images of FILE are test images of 'SET'"),
        ([CAT], "no train image for 1 of 2 classes of 'SET': 'dog's'"),
        ([], "no train image for 2 of 2 classes"),
        ([CAT, DOG, DOG], "up to 2 train images per class, expected 1 (--shots)"),
    ],
)
def test_picks_that_do_not_fit(
    small: str, tmp_path: Path, train: list[dict[str, Any]], message: str
) -> None:
    path = put(tmp_path, index(train))
    err = refused(3, path, "--dataset", small)
    assert message.replace("FILE", str(path)).replace("SET", small) in err


def test_the_longest_id_is_meant() -> None:
    items = [Item(id, 0, "c") for id in ("b.jpg", "a/b.jpg", "x/a/b.jpg", "y/c.jpg")]
    meant = {
        "/data/a/b.jpg": ["a/b.jpg"],
        "/data/x/a/b.jpg": ["x/a/b.jpg"],
        "/data/z/b.jpg": ["b.jpg"],
        ".\\y\\c.jpg": ["y/c.jpg"],
        "c.jpg": ["y/c.jpg"],
        "./c.jpg": ["y/c.jpg"],
        "/data/xy/c.jpg": [],
        "/": [],
    }
    found = find_items(meant, {item.id: item for item in items})
    assert [[item.id for item in items] for items in found] == list(meant.values())


def test_the_setting_must_be_known(small: str, tmp_path: Path) -> None:
    path = put(tmp_path, GOOD, "mine.json")
    assert "give --shots and --seed" in refused(2, path, "--dataset", small)
    assert "give --seed, or name it" in refused(2, path, "--dataset", small, "--shots", 1)
    assert "expected 2 (--shots)" in refused(3, path, "--dataset", small, "--shots=2", "--seed=0")
    store = tmp_path / "store"
    setting = ("--shots", 1, "--seed", 0, "--store", store)
    result = fsbench("splits", "import", path, "--dataset", small, *setting)
    assert result.code == 0
    assert load_imported(store, small, 1, 0).seed == 0


def test_imported_picks_are_replaced_on_demand_only(small: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = ("--dataset", small, "--store", store)
    path = put(tmp_path, GOOD)
    assert fsbench("splits", "import", path, *arguments).code == 0
    assert "is already" in fsbench("splits", "import", path, *arguments).out
    put(tmp_path, index([CAT, DOG]))
    assert "use --force" in fsbench("splits", "import", path, *arguments).err
    result = fsbench("splits", "import", path, *arguments, "--force")
    assert result.code == 0
    assert "--val none" in result.out
    assert load_imported(store, small, 1, 1).lists["val"] == ()


def test_picks_that_are_absent_or_changed(small: str, tmp_path: Path) -> None:
    fsbench("splits", "import", put(tmp_path, GOOD), "--dataset", small, "--store", tmp_path)
    with pytest.raises(DataMissingError, match=r"there are 1-shot, seed 1 \(fsbench splits import"):
        load_imported(tmp_path, small, 16, 1)
    path = path_of_import(tmp_path, small, 1, 1)
    other = path_of_import(tmp_path, small, 1, 2)
    other.write_bytes(path.read_bytes())
    with pytest.raises(DataMissingError, match="import it again"):
        load_imported(tmp_path, small, 1, 2)
    path.write_text(path.read_text("utf-8").replace("cat/v.jpg", "cat/a 1.jpg"), "utf-8")
    with pytest.raises(DataMissingError, match="changed after it was written"):
        load_imported(tmp_path, small, 1, 1)


@pytest.mark.parametrize("val", ["none", "shots"])
def test_the_command_for_imported_picks_runs_as_printed(tmp_path: Path, val: str) -> None:
    store, picks = tmp_path / "it's a store", tmp_path / "picks.json"
    setting = ("--shots", 6, "--val", val)
    assert fsbench("splits", "export", "shapes", *setting, "--seeds", 1, "-O", picks).code == 0
    told = fsbench("splits", "import", picks, "--dataset", "shapes", "--store", store).out
    words = shlex.split(told[told.index("fsbench run") :])
    assert words[-1] == "..."
    found = fsbench(*words[1:-1], "--method", "zero-shot", "--dry-run")
    assert (found.code, "1 cell: 0 done already" in found.out) == (0, True), found.err


def test_picks_are_compared_with_the_lists_of_today(small: str, tmp_path: Path) -> None:
    fsbench("splits", "import", put(tmp_path, GOOD), "--dataset", small, "--store", tmp_path)
    pools = registry().dataset(small).items()
    renamed = {role: tuple(replace(i, classname="x") for i in pools[role]) for role in pools}
    for lists in (pools, renamed):
        assert len(load_imported(tmp_path, small, 1, 1, lists).lists["train"]) == 2
    gone = pools | {"train": tuple(i for i in pools["train"] if i.label == 0)}
    other = {role: tuple(replace(i, label=1 - i.label) for i in pools[role]) for role in pools}
    leaked = pools | {"test": pools["train"]}
    added = pools | {"train": (*pools["train"], Item("bird/a.jpg", 2, "bird"))}
    for lists, match in (
        (gone, "1 of 4 images are gone or have another label: 'dog/same.jpg'"),
        (other, "4 of 4 images are gone"),
        (leaked, "2 train images of .* are test images"),
        (added, "no train image for 1 of 3 classes of .*: 'bird'"),
    ):
        with pytest.raises(DataMissingError, match=match):
            load_imported(tmp_path, small, 1, 1, lists)


def test_lists_go_where_the_data_set_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_dtd(tmp_path / "data")
    (root / "dtd" / DTD_FILE).unlink()
    monkeypatch.setenv("FSBENCH_DATA", str(root))
    source = tmp_path / "renamed.json"
    source.write_bytes(dtd_bytes())
    assert fsbench("splits", "verify", "dtd").code == 3
    result = fsbench("splits", "import", source, "--dataset", "dtd")
    assert (result.code, result.err) == (0, "")
    assert "equal to the published lists, byte for byte" in result.out
    assert published_splits()["dtd"].lists_sha256 in result.out
    assert "yes, dtd reads these lists" in result.out
    assert (root / "splits" / DTD_FILE).read_bytes() == dtd_bytes()
    assert fsbench("splits", "verify", "dtd").code == 0
    assert (
        "'dtd' (use --dataset dtd)" in fsbench("splits", "import", source, "--dataset=eurosat").err
    )
    other = put(tmp_path, SMALL, DTD_FILE)
    assert "use --force" in fsbench("splits", "import", other, "--dataset", "dtd").err
    forced = fsbench("splits", "import", other, "--dataset", "dtd", "--force")
    assert "NOT the published lists" in forced.out
    assert "not yet" in forced.out
