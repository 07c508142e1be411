"""One name per data set for every spelling of its path, and one identity per class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench import UsageError
from fewshot_bench.api.registry import registry
from fewshot_bench.utils.spelling import one_spelling
from tests.support.dataset_trees import put, write_set
from tests.support.helpers import fsbench, image_folder
from tests.support.own_sets import hub_or_skip, picture, samples, write_shard

TEMPLATES = "zeroshot_classification_templates.txt"


def opened(name: str) -> Any:
    return registry().dataset(name)


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `a` of shards in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "a" / "train" / "0.tar", samples(8))
    write_shard(tmp_path / "a" / "test" / "0.tar", samples(4, 20))
    put(tmp_path / "a" / "classnames.txt", b"cat\ndog\n")
    return tmp_path / "a"


@pytest.mark.parametrize("family", ["folder", "coop", "wds", "hf", "manifest"])
def test_a_path_that_is_not_utf8_is_refused(tmp_path: Path, family: str) -> None:
    folder = tmp_path / os.fsdecode(b"photos\xe9")
    for label, name in enumerate(("cat", "dog")):
        for number in range(2):
            put(folder / name / f"{number}.png", picture(10 * label + number))
    put(folder / "list.csv", b"path,label\ncat/0.png,cat\ncat/1.png,cat\ndog/0.png,dog\n")
    put(folder / "split.json", b"{}")
    place = folder / "list.csv" if family == "manifest" else folder
    asked = ("-m", "zero-shot", "--backbone", "tiny", "--shots", 1, "--seeds", 1)
    result = fsbench("run", *asked, "-d", f"{family}:{place}", "--store", tmp_path / "results")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "is not UTF-8: expected names in UTF-8" in result.err
    assert "(rename the folder or file)" in result.err


def test_a_path_that_this_python_reads_in_another_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    with pytest.raises(UsageError, match=r"set PYTHONUTF8=1, as this Python reads names as ascii"):
        one_spelling("/" + "é".encode().decode("ascii", "surrogateescape"))


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("a", "HERE/a"),
        ("a/", "HERE/a"),
        ("./a", "HERE/a"),
        ("link", "HERE/a"),
        ("a//train/0.tar ; ./a/test/*.tar;", "HERE/a/train/0.tar;HERE/a/test/*.tar"),
        ("link/train/*.tar;a/test/*.tar", "HERE/a/train/*.tar;HERE/a/test/*.tar"),
        ("training=./a/train/;test=a/test", "train=HERE/a/train;test=HERE/a/test"),
    ],
)
def test_names_of_shards(shards: Path, written: str, name: str) -> None:
    (shards.parent / "link").symlink_to(shards)
    card = opened(f"wds:{written}").card()
    assert card.name == f"wds:{name.replace('HERE', str(shards.parent))}"
    again = opened(card.name)
    assert (again.card(), again.items()) == (card, opened(f"wds:{written}").items())


def test_names_of_folders_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    write_set(tmp_path, "dtd")
    image_folder(tmp_path / "pets")
    rows = [f"{n}.png,{('x', 'y')[n % 2]}" for n in range(10)]
    put(tmp_path / "list.csv", "\n".join(["path,label", *rows]).encode())
    for number in range(10):
        put(tmp_path / f"{number}.png", picture(number))
    for family, path in (("coop", "dtd"), ("folder", "pets"), ("manifest", "list.csv")):
        whole = str(tmp_path / path)
        written = [path, f"./{path}", f"pets/../{path}", whole, f"link/{path}"]
        written += [] if family == "manifest" else [f"{path}/"]
        assert {opened(f"{family}:{text}").card().name for text in written} == {f"{family}:{whole}"}


def test_names_of_saved_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = hub_or_skip()
    hub.disable_progress_bars()
    monkeypatch.chdir(tmp_path)
    cells = {
        "image": [{"bytes": picture(number), "path": None} for number in range(10)],
        "label": [number % 2 for number in range(10)],
    }
    kinds = {"image": hub.Image(), "label": hub.ClassLabel(names=["cat", "dog"])}
    hub.Dataset.from_dict(cells, features=hub.Features(kinds)).save_to_disk("pets")
    for query in ("", "?label=label"):
        names = {opened(f"hf:{path}{query}").card().name for path in ("pets", "pets/", "./pets")}
        assert names == {f"hf:{tmp_path / 'pets'}{query}"}


def test_prompts_beside_the_shards_are_part_of_the_revision(shards: Path) -> None:
    def revision(*lines: str) -> str:
        put(shards / TEMPLATES, "".join(f"{line}\n" for line in lines).encode())
        return str(opened("wds:a").card().revision)

    without = opened("wds:a").card().revision
    assert revision("a photo of a {c}.") == without
    found = {without, revision("art: {c}"), revision("art of {c}"), revision("art: {c}", "a {c}")}
    assert len(found) == 4


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (("cat", "dog", "cow"), ()),
        (("crane", "dog", "crane"), ("crane#0", "dog", "crane#2")),
        (("crane", "crane", "crane#0"), ("crane#0", "crane#1", "crane#0#2")),
    ],
)
def test_classes_that_share_a_name_have_ids(
    tmp_path: Path, names: tuple[str, ...], ids: tuple[str, ...]
) -> None:
    members = [
        member
        for n in range(12)
        for member in ((f"{n}.png", picture(n)), (f"{n}.cls", str(n % 3).encode()))
    ]
    write_shard(tmp_path / "all.tar", members)
    put(tmp_path / "classnames.txt", "\n".join(names).encode())
    card = opened(f"wds:{tmp_path}").card()
    assert (card.classnames, card.class_ids) == (names, ids)
    assert len(set(card.identities)) == len(names)


def test_classes_of_a_split_file_that_share_a_name_have_ids(tmp_path: Path) -> None:
    lists = '{"train": [["a.jpg", 0, "crane"], ["b.jpg", 1, "crane"]], "val": [], "test": []}'
    put(tmp_path / "split.json", lists.encode())
    put(tmp_path / "a.jpg")
    put(tmp_path / "b.jpg")
    assert opened(f"coop:{tmp_path}").card().class_ids == ("crane#0", "crane#1")
