"""`fsbench data status` of plug-in data sets, including broken ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench import DataMissingError, DatasetCard, Item, UsageError
from fewshot_bench.api.catalog import Entry
from fewshot_bench.api.registry import registry
from fewshot_bench.api.sources import Recipe, RemoteFile
from fewshot_bench.utils.errors import PluginError
from tests.support.data_states import own_roots, row, status
from tests.support.helpers import fsbench, save_image


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_roots(tmp_path, monkeypatch)


class Partly:
    """A third-party data set that prints, and raises `error` when listed."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def card(self) -> DatasetCard:
        print("hello")
        return DatasetCard("partly", "Partly", ())

    def items(self) -> Any:
        raise self.error

    def read(self, item: Any) -> bytes:
        return b""

    def recipe(self) -> Recipe:
        images = RemoteFile("images.zip", "partly", provides=("partly/images",))
        return Recipe((images, RemoteFile("split.json", "partly/split.json", split=True)))


class Unstamped(Partly):
    """A data set without stamps; the images in `gone` are missing."""

    def __init__(self, gone: set[str]) -> None:
        self.gone, self.asked = gone, 0

    def items(self) -> Any:
        return {"test": tuple(Item(str(i), 0, "c") for i in range(200))}

    def stamp(self, item: Item) -> None:
        return None

    def read(self, item: Item) -> bytes:
        self.asked += 1
        if item.id in self.gone:
            raise FileNotFoundError(item.id)
        return b"x"


def test_images_are_missing_only_where_reading_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for gone, state in ((set[str](), "ready"), ({"3"}, "some images missing")):
        made = Unstamped(gone)
        register(monkeypatch, lambda made=made: made)
        found = row("partly")
        assert (found["state"], found["bytes"]) == (state, None)
        assert made.asked < 60
    register(monkeypatch, lambda: Unstamped({str(i) for i in range(200)}))
    assert row("partly")["state"] == "images missing"


def register(monkeypatch: pytest.MonkeyPatch, opener: Any) -> None:
    monkeypatch.setitem(registry().datasets.entries, "partly", Entry("partly", opener, "a test"))


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (DataMissingError("nothing"), "not there", "nothing"),
        (UsageError("odd"), "cannot be used", "odd"),
        (ValueError("oh"), "broken plug-in", "ValueError: oh"),
        (SystemExit(4), "broken plug-in", "SystemExit: 4"),
        (PluginError("no module"), "broken plug-in", "no module"),
    ],
)
def test_one_failure_never_hides_the_others(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str, said: str
) -> None:
    register(monkeypatch, lambda: Partly(error))
    text = status("partly,digits").out
    assert re.search(rf"^partly +{state} ", text, re.M)
    assert re.search(r"^digits +ready ", text, re.M)
    assert re.search(rf"^  partly: {said}", text, re.M)
    assert "hello" not in text


def test_an_opener_that_fails_and_a_recipe_that_tells_what_is_there(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "no_such_module:thing")
    assert row("partly")["state"] == "broken plug-in"
    register(monkeypatch, lambda: Partly(DataMissingError("no list")))
    save_image(data / "partly" / "images" / "a.png", 1)
    assert row("partly")["state"] == "split file missing"


def test_an_unreadable_folder_is_no_fault_of_a_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Locked:
        def card(self) -> Any:
            raise PermissionError(13, "Permission denied", "locked")

        items = card

    known = registry().datasets.entries
    monkeypatch.setitem(known, "locked", Entry("locked", Locked, "test"))
    found = fsbench("data", "status", "locked")
    assert "'locked': permission denied" in found.out
    assert "author" not in found.out
    result = fsbench("data", "verify", "locked")
    step = "'locked': permission denied; make it readable for this user\n"
    assert (result.code, f"FAILED   lists  {step}" in result.out) == (3, True)
    asked = ("-m", "zero-shot", "--backbone", "tiny", "--shots", 1, "--seeds", 1)
    result = fsbench("run", *asked, "-d", "locked", "--store", tmp_path / "results")
    assert (result.code, result.err) == (3, f"error: {step}")
