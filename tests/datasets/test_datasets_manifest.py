"""Manifests: every format, labels and names, splits given and made, and errors with their line."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench import DataMissingError, UsageError
from fewshot_bench.api.registry import registry
from tests.support.helpers import fsbench, save_image

COUNT = 10
Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _data_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESULTS", str(tmp_path_factory.mktemp("results")))


def images(root: Path, count: int = COUNT) -> Rows:
    """Write images of two classes; return their rows. Label order differs from name order."""
    rows = []
    for label, name in enumerate(("dog", "cat")):
        for index in range(count):
            path = f"img/{name} {index}.png"
            save_image(root / path, 100 * label + index, (8, 8))
            rows.append({"path": path, "label": label, "class": name})
    return rows


def without(rows: Rows, *names: str) -> Rows:
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the rows in the format of the file suffix."""
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def store() -> Path:
    return Path(os.environ["RESULTS"])


def kept() -> list[Path]:
    """Splits kept in the result store."""
    return sorted(store().glob("splits/made/*.json"))


def opened(path: Path, **data: Any) -> Any:
    return registry().dataset(f"manifest:{path}", data, store())


def ids(path: Path, **data: Any) -> dict[str, list[str]]:
    """Image names by role, after keeping the split as a run does."""
    dataset = opened(path, **data)
    pools = dataset.items()
    dataset.keep_split()
    return {role: [item.id for item in items] for role, items in pools.items()}


def every(path: Path) -> list[str]:
    return list(chain(*ids(path).values()))


def with_splits(rows: Rows, *splits: str) -> Rows:
    return [{**row, "split": splits[n % len(splits)]} for n, row in enumerate(rows)]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_format_gives_the_same_set(tmp_path: Path, suffix: str) -> None:
    rows = with_splits(images(tmp_path), "train", "Valid", "TEST", "train", "dev")
    path = write(tmp_path / f"list.{suffix}", rows)
    dataset = opened(path)
    assert dataset.card().classnames == ("dog", "cat")
    assert dataset.card().counts == {"train": 8, "val": 8, "test": 4}
    train = [row["path"] for row in rows if row["split"] == "train"]
    assert [item.id for item in dataset.items()["train"]] == train
    item = dataset.items()["test"][0]
    assert dataset.read(item) == (tmp_path / item.id).read_bytes()
    assert dataset.stamp(item).size == (tmp_path / item.id).stat().st_size
    assert not list(tmp_path.glob("*.fsbench-split.json"))


def test_a_table_with_bom_quotes_blank_lines_and_other_names(tmp_path: Path) -> None:
    rows = images(tmp_path, 3)
    save_image(tmp_path / 'img/a "b", c.png', 7, (8, 8))
    lines = ["FileName,note,Class_Name", '"img/a ""b"", c.png","two\nlines",dog', ""]
    lines += [f"{row['path']},,{row['class']}" for row in rows]
    path = tmp_path / "list.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert 'img/a "b", c.png' in every(path)
    assert opened(path).card().classnames == ("cat", "dog")


def test_paths(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    rows = without(images(root), "label")
    save_image(elsewhere / "x.png", 1, (8, 8))
    rows[0]["path"] = str(root / rows[0]["path"])
    rows[1]["path"] = f"./img/../{rows[1]['path']}"
    rows += [{"path": str(elsewhere / "x.png"), "class": "dog"}]
    found = set(every(write(root / "list.csv", rows)))
    assert found >= {"img/dog 0.png", "img/dog 1.png", str(elsewhere / "x.png")}
    assert ids(root / "list.csv") == ids(root / "list.csv")


def test_the_parent_behind_a_link_is_that_of_its_folder(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    rows = without(images(root), "label")
    save_image(elsewhere / "dog 0.png", 1, (8, 8))
    (elsewhere / "inner").mkdir()
    (root / "img" / "link").symlink_to(elsewhere / "inner")
    rows[0]["path"] = "img/link/../dog 0.png"
    dataset = opened(write(root / "list.csv", rows))
    listed = {item.id: item for items in dataset.items().values() for item in items}
    read = dataset.read(listed["../elsewhere/dog 0.png"])
    assert read == (elsewhere / "dog 0.png").read_bytes()
    rows[1]["path"] = str(root / "img" / "link" / "../dog 0.png")
    with pytest.raises(UsageError, match="lists one file twice"):
        opened(write(root / "list.csv", rows)).items()


def test_a_made_split_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", without(images(tmp_path), "label"))
    before = ids(path)
    assert [len(before[role]) for role in ("train", "val", "test")] == [10, 4, 6]
    (found,) = kept()
    assert list(json.loads(found.read_text())) == ["train", "val", "test"]
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["list.csv"]
    assert str(found) in opened(path).card().notes[0]
    shuffled = without(images(tmp_path), "label")[::-1]
    assert {r: sorted(p) for r, p in ids(write(path, shuffled)).items()} == {
        role: sorted(pool) for role, pool in before.items()
    }
    half = ids(path, holdout=0.5)
    assert len(half["test"]) == 10
    assert kept()[0].name == f"{found.stem}-holdout-0.5.json"


@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_a_manifest_that_changed_since(tmp_path: Path, change: str) -> None:
    rows = without(images(tmp_path), "label")
    path = write(tmp_path / "list.csv", rows)
    ids(path)
    if change == "added":
        save_image(tmp_path / "new.png", 1, (8, 8))
        rows = [*rows, {"path": "new.png", "class": "dog"}]
    elif change == "removed":
        rows = rows[1:]
    else:
        rows[0]["class"] = "cat"
    write(path, rows)
    with pytest.raises(UsageError, match="has changed since its split") as caught:
        ids(path)
    for part in (path, kept()[0], "delete the split file"):
        assert str(part) in str(caught.value)
    kept()[0].unlink()
    assert len(every(path)) == len(rows)


def test_a_damaged_kept_split(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", without(images(tmp_path), "label"))
    (tmp_path / "list.csv.fsbench-split.json").write_text('{"train": [[1]]}')
    with pytest.raises(DataMissingError, match="cannot be read as a split"):
        ids(path)


def test_missing_pools_are_held_out_of_train(tmp_path: Path) -> None:
    rows = images(tmp_path)
    no_val = ids(write(tmp_path / "a.csv", with_splits(rows, "train", "test")))
    assert [len(no_val[role]) for role in ("train", "val", "test")] == [8, 2, 10]
    no_test = ids(write(tmp_path / "b.csv", with_splits(rows, "train", "val")))
    assert [len(no_test[role]) for role in ("train", "val", "test")] == [6, 10, 4]
    assert len(kept()) == 1
    assert no_test == ids(tmp_path / "b.csv")
    write(tmp_path / "b.csv", with_splits(rows, "val", "train"))
    with pytest.raises(UsageError, match="has another label, class or split there"):
        ids(tmp_path / "b.csv")
    with pytest.raises(UsageError, match="comes with its own test images"):
        ids(tmp_path / "a.csv", holdout=0.3)
    alone = ids(write(tmp_path / "c.csv", with_splits(rows, "test")))
    assert [len(alone[role]) for role in ("train", "val", "test")] == [0, 0, 20]


BAD = {
    "empty label": ([("a.png", "")], r"empty label \(line 2\)"),
    "empty path": ([("", "x")], r"empty path \(line 2\)"),
    "twice": ([("a.png", "x"), ("b.png", "y"), ("./a.png", "x")], "'a.png' twice .line 2 and line"),
    "gap": ([("a.png", "0"), ("b.png", "2")], "no image of label 1"),
    "negative": ([("a.png", "0"), ("b.png", "-1")], r"label -1 \(line 3\)"),
    "kinds": ([("a.png", "0"), ("b.png", "x")], r"0 \(line 2\) and 'x' \(line 3\)"),
    "address": ([("https://x.org/a.png", "x")], r"\(line 2\) is an address"),
    "one class": ([("a.png", "x"), ("b.png", "x"), ("c.png", "x")], "has 1 class"),
    "few": ([("a.png", "x"), ("b.png", "y")], "class 'x' has 1 image: expected 2 or more"),
    "control": ([("a.png", "x\ty")], r"'x\\ty' \(line 2\): expected text in UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(tmp_path: Path, case: str) -> None:
    rows, message = BAD[case]
    for name in "abc":
        save_image(tmp_path / f"{name}.png", 1, (8, 8))
    path = write(tmp_path / "list.csv", [{"path": p, "label": label} for p, label in rows])
    with pytest.raises(UsageError, match=message):
        ids(path)


def test_conflicts_of_labels_names_and_splits(tmp_path: Path) -> None:
    rows, path = images(tmp_path, 3), tmp_path / "list.csv"
    bad = [*rows[:-1], {**rows[-1], "class": "cow"}]
    with pytest.raises(UsageError, match=r"label 1 two names, 'cat' \(line 5\) and 'cow' \(line 7"):
        ids(write(path, bad))
    with pytest.raises(UsageError, match=r"'dog' two labels, 0 \(line 2\) and 2 \(line 7\)"):
        ids(write(path, [*rows[:-1], {**rows[-1], "label": 2, "class": "dog"}]))
    with pytest.raises(UsageError, match=r"unknown split 'holdout' \(line 3\)"):
        ids(write(path, with_splits(rows, "train", "holdout")))
    with pytest.raises(UsageError, match=r"empty split \(line 3\)"):
        ids(write(path, with_splits(rows, "train", "")))
    only = [{**row, "split": "test" if row["class"] == "cat" else "train"} for row in rows]
    with pytest.raises(UsageError, match="class 'cat' of the test images has no train images"):
        ids(write(path, only))


def test_columns_and_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", [{"url": "x", "label": "y"}])
    with pytest.raises(UsageError, match="lacks a column for the path: found the columns url, lab"):
        ids(path)
    with pytest.raises(UsageError, match="columns path and image: expected one"):
        ids(write(path, [{"path": "x", "image": "y", "label": "z"}]))
    path.write_text("path,label\na.png\n")
    with pytest.raises(UsageError, match="line 2: has 1 fields, the header has 2"):
        ids(path)
    path.write_text("path,label,path\na.png,x,b.png\n")
    with pytest.raises(UsageError, match="line 1: has the column 'path' twice"):
        ids(path)
    path.write_bytes(b"path,label\n\xff,x\n")
    with pytest.raises(UsageError, match="line 2: is not UTF-8"):
        ids(path)
    path.write_text("path,label\n")
    with pytest.raises(UsageError, match="lists no images"):
        ids(path)
    (tmp_path / "list.jsonl").write_text('{"path": "a.png", "label": "x"}\n{"path": \n')
    with pytest.raises(UsageError, match="line 2: is not valid JSON"):
        ids(tmp_path / "list.jsonl")
    (tmp_path / "list.json").write_text('{"train": [], "val": [], "test": []}')
    with pytest.raises(UsageError, match="use coop:FOLDER"):
        ids(tmp_path / "list.json")
    (tmp_path / "list.xlsx").touch()
    with pytest.raises(UsageError, match=r"ends in \.csv"):
        ids(tmp_path / "list.xlsx")
    with pytest.raises(DataMissingError, match="does not exist"):
        ids(tmp_path / "nowhere.csv")


def test_images_that_are_not_there(tmp_path: Path) -> None:
    rows = images(tmp_path)
    for row in rows[:7]:
        (tmp_path / row["path"]).unlink()
    with pytest.raises(
        DataMissingError, match=r"7 of 20 images are not there: img/dog 0\.png.*2 mo"
    ):
        ids(write(tmp_path / "list.csv", rows))


def test_labels_without_names_need_classnames(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", without(images(tmp_path), "class"))
    with pytest.raises(UsageError, match=r"--classnames FILE \(2 lines"):
        opened(path).card()
    with pytest.raises(UsageError, match=r"--classnames FILE \(2 lines"):
        opened(path, classnames={"class 0": "dog"}).items()
    dataset = opened(path, classnames=["Hund", "Katze"])
    assert dataset.card().classnames == ("Hund", "Katze")
    assert {item.classname for item in dataset.items()["test"]} == {"Hund", "Katze"}


def test_the_command_line_tells_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", with_splits(images(tmp_path), "train", "tests"))
    result = fsbench("run", "-m", "zero-shot", "-d", f"manifest:{path}", "--dry-run")
    assert result.code == 2
    assert "unknown split 'tests' (line 3)" in result.err
    assert result.err.count("\n") == 1


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "list.parquet").write_text("no parquet")
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        ids(tmp_path / "list.parquet")
    write(tmp_path / "list.parquet", [{"image": {"bytes": b"x", "path": None}, "label": 0}])
    with pytest.raises(UsageError, match=r"holds images, expected their paths.*hf:FOLDER"):
        ids(tmp_path / "list.parquet")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_the_order_of_the_lines_does_not_matter(tmp_path: Path, suffix: str) -> None:
    rows = images(tmp_path)
    for number, row in enumerate(rows):
        with (tmp_path / row["path"]).open("ab") as file:
            file.write(bytes(number))
    path = write(tmp_path / f"list.{suffix}", rows)
    before = opened(path).items(), opened(path).card()
    write(path, rows[::-1])
    assert (opened(path).items(), opened(path).card()) == before


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_key_twice_in_one_object_is_refused(tmp_path: Path, suffix: str) -> None:
    rows = without(images(tmp_path), "class")
    path = write(tmp_path / f"list.{suffix}", rows)
    path.write_text(path.read_text().replace('"label": 1', '"label": 0, "label": 1', 1))
    where = f"line {COUNT + 1}" if suffix == "jsonl" else f"entry {COUNT}"
    with pytest.raises(UsageError, match=f"{where}: has the key 'label' twice"):
        opened(path).items()


@pytest.mark.parametrize("kind", ["absolute", "linked folder", "linked file"])
def test_one_file_by_two_paths_is_refused(tmp_path: Path, kind: str) -> None:
    rows = without(images(tmp_path), "label")
    (tmp_path / "lists").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "img")
    (tmp_path / "linked.png").symlink_to(tmp_path / "img" / "dog 0.png")
    listed = [row | {"path": f"../{row['path']}"} for row in rows]
    again = {
        "absolute": str(tmp_path / "img" / "dog 0.png"),
        "linked folder": "../linked/dog 0.png",
        "linked file": "../linked.png",
    }[kind]
    manifest = write(tmp_path / "lists" / "m.csv", [*listed, {"path": again, "class": "cat"}])
    with pytest.raises(
        UsageError, match=r"one file twice, as '../img/dog 0\.png' \(line 2\) and as"
    ):
        registry().dataset(f"manifest:{manifest}").items()


def test_hard_links_are_files_of_their_own(tmp_path: Path) -> None:
    rows = without(images(tmp_path), "label")
    os.link(tmp_path / "img" / "dog 0.png", tmp_path / "img" / "dog 99.png")
    manifest = write(tmp_path / "m.csv", [*rows, {"path": "img/dog 99.png", "class": "dog"}])
    pools = registry().dataset(f"manifest:{manifest}").items().values()
    assert sum(map(len, pools)) == 2 * COUNT + 1


@pytest.mark.parametrize("again", ["00", "0.0"])
def test_one_number_written_in_two_ways_is_refused(tmp_path: Path, again: str) -> None:
    rows = [row | {"label": f"{row['label']}"} for row in without(images(tmp_path), "class")]
    rows[3]["label"] = again
    manifest = write(tmp_path / "m.csv", rows)
    problem = rf"the labels '0' \(line 2\) and '{again}' \(line 5\) are one number"
    with pytest.raises(UsageError, match=problem):
        ids(manifest)


@pytest.mark.parametrize("column", ["label", "path", "split"])
def test_parquet_columns_of_other_types_are_named(tmp_path: Path, column: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"path": row["path"], "label": row["class"], "split": "train"} for row in images(tmp_path)
    ]
    table = arrow.Table.from_pylist(rows)
    position = table.schema.get_field_index(column)

    def written(kind: Any) -> Path:
        cells = table.column(column).combine_chunks().cast(kind)
        parquet.write_table(table.set_column(position, column, cells), tmp_path / "m.parquet")
        return tmp_path / "m.parquet"

    with pytest.raises(UsageError, match=f"the column '{column}' is of type binary: expected te"):
        ids(written(arrow.binary()))
    if hasattr(arrow, "string_view"):
        assert len(every(written(arrow.string_view()))) == 2 * COUNT
