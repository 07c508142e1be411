"""CoOp's cached picks are read without executing anything; foreign content is named."""

from __future__ import annotations

import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench import DataMissingError, Item
from fewshot_bench.splits.formats import read_split_file
from tests.support.helpers import fsbench
from tests.support.split_trees import write_small

MODULE = "dassl.data.datasets.base_dataset"
STRING = b"X\x01\x00\x00\x00a"


@pytest.fixture
def datum(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A class with the name used in CoOp's caches; unregistered before the cache is read."""
    parts = MODULE.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    class Datum:
        def __init__(self, impath: str, label: int, classname: str) -> None:
            self._impath, self._label = impath, label
            self._domain, self._classname = 0, classname

    Datum.__module__, Datum.__qualname__ = MODULE, "Datum"
    vars(sys.modules[MODULE])["Datum"] = Datum
    return Datum


def read(folder: Path, content: bytes, name: str = "shot_2-seed_1.pkl") -> Any:
    path = folder / name
    path.write_bytes(content)
    return read_split_file(path)


def refused(folder: Path, content: bytes, match: str) -> None:
    with pytest.raises(DataMissingError, match=match) as caught:
        read(folder, content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(
    tmp_path: Path, datum: Any, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["/data/x/a b.jpg", "/data/x/éü'\".jpg", "C:\\x\\c.jpg"]
    train = [datum(name, label, f"class {label}") for label, name in enumerate(names)] * 700
    content = {"train": train, "val": [datum("/data/v.jpg", 300, "ç"), train[0]]}
    pickled = pickle.dumps(content, protocol)
    monkeypatch.delitem(sys.modules, MODULE)
    file = read(tmp_path, pickled, "any.name")
    assert file.format == "pickle"
    assert file.is_draw
    expected = [Item(name, label, f"class {label}") for label, name in enumerate(names)]
    assert list(file.lists["train"]) == expected * 700
    assert file.lists["val"] == (Item("/data/v.jpg", 300, "ç"), expected[0])
    assert "test" not in file.lists


def test_a_cache_is_imported_and_is_the_exported_draw(tmp_path: Path, datum: Any) -> None:
    """Caches from another machine contain its paths: images and digest are the same."""
    small = write_small(tmp_path / "small")
    for seed in (1, 2):
        exported, cache = tmp_path / "x.json", tmp_path / f"shot_2-seed_{seed}.pkl"
        arguments = ("--shots", 2, "--seeds", seed, "-O", exported, "--force")
        assert fsbench("splits", "export", small, *arguments).code == 0
        own = read_split_file(exported)
        parts = {
            role: [datum(f"/data/coop/set/images/{i.id}", i.label, i.classname) for i in items]
            for role, items in own.lists.items()
        }
        cache.write_bytes(pickle.dumps(parts, pickle.HIGHEST_PROTOCOL))
        result = fsbench("splits", "import", cache, "--dataset", small, "--store", tmp_path)
        assert (result.code, result.err) == (0, "")
        assert f"picks      sha256 {own.digest}" in result.out
        assert "coop       equal" in result.out
        checks = fsbench("splits", "verify", cache, "--dataset", small)
        assert (checks.code, "FAILED" in checks.out) == (0, False)


class Bomb:
    """A pickle that would run a command."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_is_executed(tmp_path: Path, datum: Any) -> None:
    mark = tmp_path / "executed"
    shell, python = f"touch '{mark}'", f"open({str(mark)!r}, 'w')"
    for protocol in range(6):
        for bomb, name in ((Bomb(os.system, shell), "system"), (Bomb(eval, python), "eval")):
            good = datum("a.jpg", 0, "cat")
            for content in (bomb, {"train": [good, bomb]}, {"train": [good], "val": bomb}):
                refused(
                    tmp_path, pickle.dumps(content, protocol), rf"names '\w+\.{name}', which is"
                )
    assert not mark.exists()


def test_code_of_a_class_named_datum_is_not_run(tmp_path: Path) -> None:
    """Only the name is allowed: the class is never looked up or called with arguments."""
    refused(tmp_path, b"cos\nDatum\n(S'touch x'\ntR.", "builds something else")
    refused(tmp_path, b"(cos\nDatum\nS'touch x'\no.", "builds something else")
    refused(tmp_path, b"\x80\x02cos\nDatum\n" + STRING + b"\x85\x81.", "builds something else")
    refused(tmp_path, b"ccopyreg\n_reconstructor\n(cos\nDatum\ncos\nDatum\nNtR.", "calls a funct")
    refused(tmp_path, b"\x80\x02ccopyreg\n_reconstructor\n.", "expected a dict with lists")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\x80\x04" + b"B\x01\x00\x00\x00x.", "operation BINBYTES"),
        (b"\x80\x02Pname\n.", "operation PERSID"),
        (b"\x80\x02\x82\x01.", "operation EXT1"),
        (b"(S'touch x'\nios\nsystem\n.", "operation INST"),
        (b"\x80\x02]0.", "operation POP"),
        (b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".", "expected a dict with lists"),
        (b"\x80\x02\x8b\x01\x00\x00\x00\x00.", "operation LONG4"),
        (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.", "is damaged"),
        (b"(lp0\nL" + b"9" * 5000 + b"L\na.", "is damaged"),
        (b"\x80\x09N.", "is damaged"),
        (b"\x80\x02NN.", "has None"),
        (b"\x80\x02.", "is damaged"),
        (b"\x80\x02h\x00.", "is damaged"),
        (b"\x80\x02}K\x01K\x02s.", r"the keys \[1\]"),
        (b"\x80\x02}(" + STRING + b"u.", "is damaged"),
        (b"\x80\x02Na.", "is damaged"),
        (b"\x80\x02]e.", "is damaged"),
        (b"\x80\x02]q\x00h\x00a.", "expected a dict with lists"),
        (b"\x80\x02]q\x00]q\x01h\x00ah\x00Na.", "expected a dict with lists"),
        (b"\x80\x02]" + b"\x85" * 20 + b".", "not the arguments of a call"),
        (b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".", "expected a dict with lists"),
        (b"\x80\x02]2.", "operation DUP"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "keeps a value as number 2,147,483,647"),
        (b"]p99999999999\n.", "keeps a value as number 99,999,999,999"),
        (b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fN.", "is damaged|has None"),
        (b"\x80\x02)K\x01s.", "not the arguments of a call"),
        (b"\x80\x02]" + b"]a" * 5 + b".", "expected a dict with lists"),
        (b"\x80\x02}" + STRING + b"]s.", r"the keys \['a'\]"),
        (b"(dS'train'\nNs.", "None under 'train'"),
        (b"(dS'train'\n(I1\nls.", "1 under 'train'"),
        (b"", "is no UTF-8 text|is damaged"),
    ],
)
def test_what_does_not_belong_there(tmp_path: Path, content: bytes, match: str) -> None:
    refused(tmp_path, content, match)


def test_every_truncation_is_refused(tmp_path: Path, datum: Any) -> None:
    for protocol in (0, 2, 5):
        content = pickle.dumps({"train": [datum("a.jpg", 0, "cat")], "val": []}, protocol)
        for end in range(len(content)):
            with pytest.raises(DataMissingError):
                read(tmp_path, content[:end])


def test_wrong_attributes(tmp_path: Path, datum: Any) -> None:
    for wrong in (datum("a", "0", "cat"), datum("", 0, "cat"), datum("a", -1, "cat")):
        refused(tmp_path, pickle.dumps({"train": [wrong]}), "as entry 0 of 'train'")
    refused(tmp_path, pickle.dumps({"train": [{"_label": 1}]}), "under 'train'")
    refused(tmp_path, pickle.dumps({"train": [], "other": []}), "the keys")


@given(st.binary(max_size=200))
def test_no_bytes_are_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    for start in (b"", b"\x80\x04", b"(d"):
        try:
            read(folder, start + content)
        except DataMissingError:
            continue
