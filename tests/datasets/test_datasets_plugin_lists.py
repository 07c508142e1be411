"""Lists of third-party data sets that are malformed or contradict themselves are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fewshot_bench
from fewshot_bench.api.registry import registry
from fewshot_bench.utils.errors import PluginError
from tests.support.helpers import fsbench

SOURCE = """
import io
from PIL import Image
from fewshot_bench import DatasetCard, Item, hookimpl

@hookimpl
def register_datasets(register):
    register("good", "{module}:Good")
    register("mine", "{module}:Mine")

class Good:
    name, names, ids = "good", ("cat", "dog"), ()
    def card(self):
        return DatasetCard(self.name, "Pets", self.names, revision="1", class_ids=self.ids)
    def items(self):
        return {
            role: [Item(f"{role}/{n}", n % 2, self.names[n % 2]) for n in range(6)]
            for role in ("train", "val", "test")
        }
    def read(self, item):
        seed = sum(map(ord, item.id))
        out = io.BytesIO()
        Image.new("RGB", (8, 8), (seed % 256, 3 * seed % 256, 7 * seed % 256)).save(out, "PNG")
        return out.getvalue()

class Mine(Good):
    name = "mine"
"""
# What `Mine` does instead, and the reason.
FORM = {
    "generators": (
        "    def items(self):\n"
        "        return {r: (i for i in p) for r, p in super().items().items()}\n",
        "items()['train'] is a generator, expected a sequence of Item",
    ),
    "nothing": ("    def items(self): pass\n", "items() returned None, expected a mapping"),
    "tuples": (
        "    def items(self): return {'train': [('a', 0, 'cat')], 'test': []}\n",
        "items()['train'] holds ('a', 0, 'cat'), expected an Item",
    ),
    "numbers": (
        "    def items(self): return {'train': (Item(7, 0, 'cat'),), 'test': ()}\n",
        "items()['train'] holds an item with the id 7, expected text",
    ),
    "label": (
        "    def items(self): return {'train': (Item('a', '0', 'cat'),), 'test': ()}\n",
        "items()['train'] holds item 'a' with the label '0', expected an integer",
    ),
}
CONTENT = {
    "shifted labels": (
        "    def items(self):\n"
        "        pools = super().items()\n"
        "        pools['test'] = [Item(i.id, 1 - i.label, i.classname) for i in pools['test']]\n"
        "        return pools\n",
        "item 'test/0' has label 1 and class name 'cat', and the card's class 1 is 'dog'",
    ),
    "one id twice": (
        "    def items(self):\n"
        "        pools = super().items()\n"
        "        pools['test'].append(pools['test'][0])\n"
        "        return pools\n",
        "item 'test/0' is twice in test: expected one item per id",
    ),
    "blank name": ("    names = ('cat', ' ')\n", "the class name of label 1 is ' '"),
    "name of two lines": ("    names = ('cat', 'd\\ng')\n", "the class name of label 1 is 'd\\ng'"),
    "equal names": (
        "    names = ('cat', 'cat')\n",
        "labels 0 and 1 are both named 'cat': expected distinct class names, or class_ids",
    ),
}
QUICK = ("-m", "zero-shot", "--backbone", "tiny", "--shots", 1, "--seeds", 1)


@pytest.mark.parametrize("what", [*FORM, *CONTENT])
def test_such_lists_are_refused_before_anything_runs(
    what: str, install: Any, tmp_path: Path
) -> None:
    source, reason = (FORM | CONTENT)[what]
    install("mine", SOURCE + source)
    result = fsbench("run", *QUICK, "-d", "mine", "--store", tmp_path / "store")
    assert (result.code, len(result.err.strip().splitlines())) == (2, 1), result
    assert reason in result.err
    assert "mine" in result.err.partition(reason)[0]
    assert not (tmp_path / "store").exists()
    with pytest.raises(PluginError):
        fewshot_bench.run("zero-shot", "mine", backbone="tiny", store=tmp_path / "store")
    verified = fsbench("data", "verify", "mine")
    assert verified.code == 3
    assert "FAILED" in verified.out


@pytest.mark.parametrize("what", FORM)
def test_every_command_says_what_items_returned(what: str, install: Any) -> None:
    source, reason = FORM[what]
    install("mine", SOURCE + source)
    for command in (("show", "mine"), ("splits", "show", "mine")):
        result = fsbench(*command)
        assert result.code == 2, result
        assert result.err.startswith("error: data set 'mine' (fsbench-mine:mine, ")
        assert f") failed: {reason}" in result.err
    with pytest.raises(PluginError, match="failed: items"):
        registry().dataset("mine").items()


def test_the_right_lists_are_fine(install: Any, tmp_path: Path) -> None:
    install("mine", SOURCE + "    names, ids = ('crane', 'crane'), ('bird', 'machine')\n")
    result = fsbench("run", *QUICK, "-d", "good,mine", "--store", tmp_path / "store")
    assert (result.code, "2 to run" in result.out) == (0, True), result
    renamed = fsbench(
        *("run", *QUICK, "-d", "good", "--store", tmp_path / "store", "--classnames"),
        *(write(tmp_path / "names.txt", "Katze\nHund\n"),),
    )
    assert (renamed.code, "1 to run" in renamed.out) == (0, True), renamed


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


CARDS = {
    "nothing": ("return None", "card() returned None, expected a DatasetCard"),
    "other name": (
        "return DatasetCard('dtd', 'Pets', self.names)",
        "its card has the name 'dtd', expected that of the registration, 'mine'",
    ),
    "one template": (
        "return DatasetCard('mine', 'Pets', self.names, custom_templates='a {}')",
        "DatasetCard.custom_templates is 'a {}'",
    ),
    "no place": (
        "return DatasetCard('mine', 'Pets', self.names, custom_templates=('a cat',))",
        "DatasetCard.custom_templates has 'a cat'",
    ),
    "no template": (
        "return DatasetCard('mine', 'Pets', self.names, custom_templates=())",
        "DatasetCard.custom_templates is empty, expected a text with {}",
    ),
    "mirrored": (
        "return DatasetCard('mine', 'Pets', self.names, mirrored='no')",
        "DatasetCard.mirrored is 'no', expected True or False",
    ),
    "revision": (
        "return DatasetCard('mine', 'Pets', self.names, revision=2)",
        "DatasetCard.revision is 2, expected text",
    ),
    "counts": (
        "return DatasetCard('mine', 'Pets', self.names, counts=None)",
        "DatasetCard.counts is None, expected a mapping of train, val, test",
    ),
    "count": (
        "return DatasetCard('mine', 'Pets', self.names, expected_counts={'test': '6'})",
        "DatasetCard.expected_counts['test'] is '6', expected a whole number from 0",
    ),
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_wrong_card_names_its_plugin_and_no_other_set_ends(
    install: Any, tmp_path: Path, kind: str
) -> None:
    body, message = CARDS[kind]
    suite = SOURCE.replace(':Good")', ':Good", suites=("pets",))')
    suite = suite.replace(':Mine")', ':Mine", suites=("pets",))')
    install("own", f"{suite}    def card(self):\n        {body}\n")
    few = ("run", "-m", "zero-shot", "--shots", "1", "--seeds", "1", "--backbone", "tiny")
    alone = fsbench(*few, "-d", "mine", "--dry-run", "--store", tmp_path / "s")
    assert alone.code == 2
    assert "data set 'mine' (fsbench-own:own" in alone.err
    assert message in alone.err
    suites = fsbench(*few, "-d", "pets", "--dry-run", "--store", tmp_path / "s")
    assert suites.code == 0, suites
    assert message in suites.err


def test_what_is_no_bytes_is_no_empty_file(install: Any, tmp_path: Path) -> None:
    words = "class Words(Good):\n    name = 'words'\n    def read(self, item): return 'text'\n"
    other = '"{module}:Mine")\n    register("words", "{module}:Words")'
    source = SOURCE.replace('"{module}:Mine")', other)
    install("mine", f"{source}    def read(self, item): pass\n\n{words}")
    reason = "read() of 'train/0' returned {}, expected the bytes of an image file"
    result = fsbench("run", *QUICK, "-d", "mine", "--store", tmp_path / "store")
    assert (result.code, "empty" in result.err) == (3, False), result
    assert reason.format("None") in result.err
    verified = fsbench("data", "verify", "mine,words").out
    assert reason.format("None") in verified
    assert reason.format("a str") in verified


def test_bytes_of_other_types_are_images(install: Any, tmp_path: Path) -> None:
    install("mine", f"{SOURCE}    def read(self, item): return memoryview(super().read(item))\n")
    assert fsbench("run", *QUICK, "-d", "mine", "--store", tmp_path / "store").code == 0
    assert fsbench("data", "verify", "mine").code == 0


def test_labels_of_numpy_are_labels(install: Any, tmp_path: Path) -> None:
    """They come from tables and array files; JSON between processes cannot hold them."""
    body = (
        "    pack = tuple\n"
        "    def items(self):\n"
        "        import numpy as np\n"
        "        return {\n"
        "            role: self.pack(Item(i.id, np.int64(i.label), i.classname) for i in pool)\n"
        "            for role, pool in super().items().items()\n"
        "        }\n\n"
        "class Packed(Mine):\n"
        "    name = 'packed'\n"
        "    def pack(self, items):\n"
        "        from fewshot_bench.api.sources import ItemList\n"
        "        return ItemList.of(items)\n"
    )
    other = '"{module}:Mine")\n    register("packed", "{module}:Packed")'
    install("mine", SOURCE.replace('"{module}:Mine")', other) + body)
    result = fsbench("run", *QUICK, "-d", "mine,good,packed", "--store", tmp_path / "store")
    assert result.code == 0, result
    tops = [record.metrics["top1"] for record in fewshot_bench.load(tmp_path / "store")]
    assert len(tops) == 3
    assert len(set(tops)) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def stamp(self, item): return 5", "stamp() of 'train/0' returned 5, expected a Stamp"),
        ("def stamp(self, item): return {}['x']", "stamp() of 'train/0': KeyError: 'x', at "),
        ("def read(self, item): raise SystemExit('bye')", "read() of 'train/0': SystemExit: bye"),
    ],
)
def test_what_fails_for_one_image_is_named_with_its_place(
    install: Any, tmp_path: Path, body: str, reason: str
) -> None:
    install("mine", f"{SOURCE}    {body}\n")
    result = fsbench("run", *QUICK, "-d", "mine", "--store", tmp_path / "store")
    assert result.code in (2, 3), result
    assert len(result.err.splitlines()) == 1
    assert "data set 'mine' (fsbench-mine:mine" in result.err
    assert reason in result.err


def test_a_family_has_cards_of_its_name(install: Any) -> None:
    family = SOURCE.replace('register("mine",', 'register("mine:",')
    own = "    def __init__(self, argument): self.name = f'{argument}:x'\n"
    install("mine", family + own)
    result = fsbench("show", "mine:other")
    assert "its card has the name 'other:x', expected that of the registration, 'mine:...'" in (
        result.err
    )
    assert fsbench("show", "mine:mine").code == 0
