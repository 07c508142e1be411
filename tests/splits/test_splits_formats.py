"""Every split format restores the written lists, and reports errors in files."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench import DataMissingError, Item, UsageError
from fewshot_bench.splits.checks import check_digest, map_to_items
from fewshot_bench.splits.formats import ENDINGS, read_split_file, text_of
from fewshot_bench.splits.model import SplitFile, lists_digest, with_setting

ODD = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/\\")
NAMES = st.text(
    st.one_of(st.sampled_from(" ,;'\"{}[]:\u2028" + string.ascii_letters), ODD), max_size=8
)
ROLES = ("train", "val", "test")


@st.composite
def lists(draw: st.DrawFn) -> dict[str, tuple[Item, ...]]:
    """Lists with at least one train image of every class, as in any data set."""
    names = draw(st.lists(NAMES.map(lambda name: f"c{name}"), min_size=1, max_size=3, unique=True))
    labels = list(range(len(names)))
    chosen = {"train": labels + draw(st.lists(st.sampled_from(labels), max_size=4))}
    for role in ("val", "test"):
        chosen[role] = draw(st.lists(st.sampled_from(labels), max_size=4))
    return {
        role: tuple(
            Item(f"{role}{number}/{draw(NAMES)}.jpg", label, names[label])
            for number, label in enumerate(draw(st.permutations(chosen[role])))
        )
        for role in ROLES
    }


def written(folder: Path, format: str, file: SplitFile) -> SplitFile:
    path = folder / f"split.{ENDINGS[format]}"
    path.write_text(text_of(file, format, file.lists), encoding="utf-8", newline="")
    found = read_split_file(path)
    check_digest(found)
    return found


@given(lists())
def test_whole_lists_come_back(
    tmp_path_factory: pytest.TempPathFactory, whole: dict[str, tuple[Item, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    file = SplitFile(folder, "", whole, dataset="my, set", revision="r'1")
    for format in ("fsbench", "coop", "jsonl"):
        found = written(folder, format, file)
        assert {role: found.lists.get(role, ()) for role in ROLES} == whole, format
        assert found.digest == file.digest
        assert found.format == format
        assert not found.is_draw


@given(lists(), st.integers(0, 99), st.booleans())
def test_picks_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    whole: dict[str, tuple[Item, ...]],
    seed: int,
    with_test: bool,
) -> None:
    folder = tmp_path_factory.mktemp("picks")
    picks = whole if with_test else {role: whole[role] for role in ("train", "val")}
    file = SplitFile(folder, "", picks, "my set", "r1", "coop", 16, seed)
    for format in ("fsbench", "jsonl", *(() if with_test else ("index",))):
        found = with_setting(written(folder, format, file), 16, seed)
        assert {role: found.lists.get(role, ()) for role in picks} == picks, format
        assert found.digest == file.digest
        assert (found.is_draw, found.shots, found.seed) == (True, 16, seed)
        assert map_to_items(found, whole, "my set").lists == found.lists
    own = written(folder, "fsbench", file)
    assert (own.dataset, own.revision, own.protocol) == ("my set", "r1", "coop")


def item(id: str = "a.jpg", label: int = 0, classname: str = "cat") -> Item:
    return Item(id, label, classname)


def put(folder: Path, content: Any, name: str = "x.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


OURS = {
    "fsbench_split": 1,
    "dataset": "dtd",
    "revision": "",
    "protocol": "coop",
    "shots": 1,
    "seed": 1,
    "digest": lists_digest({"train": (item(),), "val": (item("b.jpg"),)}),
    "train": [["a.jpg", 0, "cat"]],
    "val": [["b.jpg", 0, "cat"]],
}
ENTRY = {"impath": "a.jpg", "label": 0, "classname": "cat"}
INDEX = {"train": {"data": [ENTRY], "indices": [3]}, "val": {"data": [], "indices": []}}
LINE = {"role": "train", "id": "a.jpg", "label": 0, "classname": "cat"}


def changed(content: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {key: value for key, value in (content | values).items() if value != "ABSENT"}


def lines(*rows: Any) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (changed(OURS, fsbench_split=2), "enum value 2 - at `$.fsbench_split`"),
        (changed(OURS, dataset=3), "Expected `str`, got `int` - at `$.dataset`"),
        (changed(OURS, digest="ABSENT"), "missing required field `digest`"),
        (changed(OURS, shots="16"), "at `$.shots`"),
        (changed(OURS, seed=-1), "`int` >= 0 - at `$.seed`"),
        (changed(OURS, seed=True), "at `$.seed`"),
        (changed(OURS, train="ABSENT"), "missing required field `train`"),
        (changed(OURS, train={}), "at `$.train`"),
        (changed(OURS, train=[["a.jpg", 0]]), "at `$.train[0]`"),
        (changed(OURS, train=[["a.jpg", "0", "cat"]]), "'a.jpg', '0', 'cat'"),
        (changed(OURS, train=[["a\n.jpg", 0, "cat"]]), "without control characters"),
        (changed(OURS, val=[["", 0, "cat"]]), "entry 0 of 'val'"),
        (changed(INDEX, other=1), "Invalid enum value 'other'"),
        (changed(INDEX, val=[]), "Expected `object`, got `array`"),
        (changed(INDEX, val={"data": [{}], "indices": [1]}), "missing required field `impath`"),
        (changed(INDEX, val={"data": [ENTRY], "indices": []}), "0 indices for 1 images of 'val'"),
        (changed(INDEX, val={"data": [ENTRY], "indices": [-1]}), "`int` >= 0"),
        (changed(INDEX, val={"data": [ENTRY | {"label": None}], "indices": [1]}), "entry 0 of"),
        (lines(LINE, "{"), "on line 2"),
        (lines(LINE, "", [1]), "Expected `object`, got `array`"),
        (lines(LINE, LINE | {"role": "dev"}), "enum value 'dev'"),
        (lines(LINE, {"role": "val", "label": 0, "classname": "c"}), "None, 0, 'c'"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("split,filename\ntrain,a.jpg\n", "cannot be read as JSON"),
        ([1], "expected an object with the keys train, val, test"),
        ({"train": [["../a.jpg", 0, "cat"]], "val": [], "test": []}, "leaves the folder"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: Any, match: str) -> None:
    path = put(tmp_path, content)
    with pytest.raises(DataMissingError) as caught:
        read_split_file(path)
    assert str(path) in str(caught.value)
    assert match in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'{"a": "\xff"}')
    for path, match in ((tmp_path / "x.json", "no UTF-8"), (tmp_path, "cannot be read")):
        with pytest.raises(DataMissingError, match=match):
            read_split_file(path)


def test_a_changed_list_is_told_by_its_digest(tmp_path: Path) -> None:
    assert check_digest(read_split_file(put(tmp_path, OURS))) == OURS["digest"]
    other = changed(OURS, train=[["c.jpg", 0, "cat"]])
    for content in (other, changed(OURS, digest="")):
        with pytest.raises(DataMissingError, match="changed after it was written"):
            check_digest(read_split_file(put(tmp_path, content)))


def test_lines_name_their_columns_as_others_do(tmp_path: Path) -> None:
    rows = [
        {"split": "train", "path": "a.jpg", "label": 0, "classname": "cat"},
        {"split": "val", "impath": "/x/b.jpg", "label": 0, "classname": "cat"},
    ]
    file = read_split_file(put(tmp_path, "\ufeff" + lines(*rows) + "\n\n", "shot_4-seed_2.txt"))
    assert file.lists == {"train": (item(),), "val": (item("/x/b.jpg"),)}
    assert not file.is_draw
    named = with_setting(file, None, None)
    assert (named.is_draw, named.shots, named.seed) == (True, 4, 2)


def test_a_setting_is_never_contradicted(tmp_path: Path) -> None:
    file = read_split_file(put(tmp_path, OURS, "shot_8-seed_3.json"))
    assert (with_setting(file, None, 1).shots, with_setting(file, 1, None).seed) == (1, 1)
    with pytest.raises(UsageError, match=r"--shots 8: .* says 1"):
        with_setting(file, 8, None)
    with pytest.raises(UsageError, match=r"--seed 3: .* says 1"):
        with_setting(file, None, 3)
    index = read_split_file(put(tmp_path, INDEX, "shot_8-seed_3.json"))
    assert (with_setting(index, None, 5).shots, with_setting(index, None, 5).seed) == (8, 5)


def test_names_that_no_format_holds_are_not_written(tmp_path: Path) -> None:
    file = SplitFile(tmp_path, "", {"train": (item("a\x00.jpg"),), "val": ()}, "mine")
    for format in ENDINGS:
        with pytest.raises(UsageError, match="without control characters"):
            text_of(file, format, file.lists)
