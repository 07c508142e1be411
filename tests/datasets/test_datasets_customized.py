"""`--classnames`, `--templates` and `--holdout`: how they are read, and their effect on a set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench import DataMissingError, DatasetCard, Item, UsageError
from fewshot_bench.api.dataset import customize
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.own_data import read_own_data
from tests.support.helpers import image_folder


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(classnames: Path | None = None, *templates: str, holdout: float | None = None) -> Any:
    return read_own_data(classnames, templates, holdout)


@dataclass(frozen=True)
class Twins:
    """A data set with two classes of the same name, distinguished by ids."""

    ids: tuple[str, ...] = ("n1", "n2", "n3")

    def card(self) -> DatasetCard:
        return DatasetCard("twins", "Twins", ("missile", "missile", "cat"), class_ids=self.ids)

    def items(self) -> dict[str, tuple[Item, ...]]:
        return {"train": (Item("a", 0, "missile"), Item("b", 1, "missile"), Item("c", 2, "cat"))}

    def read(self, item: Item) -> bytes:
        return item.id.encode()


def test_nothing_given_is_nothing_said() -> None:
    assert read() == {}
    dataset = Twins()
    assert customize(dataset, None, None) is dataset


def test_class_names_from_every_format(tmp_path: Path) -> None:
    names = ["no", "1e-3", "grüner Apfel"]
    texts = {
        "a.txt": "no\n 1e-3 \r\ngrüner Apfel\n\n",
        "b.txt": "\ufeffno\n1e-3\ngrüner Apfel",
        "c.json": '["no", "1e-3", "grüner Apfel"]',
        "d.yaml": "- no\n- 1e-3\n- grüner Apfel\n",
        "e.yml": "[no, 1e-3, grüner Apfel]",
    }
    for name, text in texts.items():
        assert read(written(tmp_path / name, text)) == {"classnames": names}, name
    for name, text in {"f.json": '{"cat": "Katze"}', "g.yaml": "cat: Katze"}.items():
        assert read(written(tmp_path / name, text)) == {"classnames": {"cat": "Katze"}}


BAD_NAMES = {
    "a.txt": ("cat\n\ndog\n", r"a\.txt, line 2: is empty"),
    "b.txt": ("cat\ndog\tx\n", r"b\.txt, line 2: 'dog\\tx': expected text without control"),
    "c.txt": ("\n \n", r"c\.txt is empty"),
    "d.json": ('["cat", 3]', r"d\.json, entry 2: 3: expected text"),
    "e.json": ('["cat",\n]', r"e\.json, line 2: is not valid JSON"),
    "f.json": ('{"a": "x", "a": "y"}', r"f\.json: 'a' stands there twice"),
    "g.yaml": ("a: x\na: y\n", r"g\.yaml: 'a' stands there twice"),
    "h.yaml": ("- [cat]\n", r"h\.yaml, entry 1: \['cat'\]: expected text"),
    "i.yaml": ("!!python/object/apply:os.getcwd []", "expected a list of names, or|not valid YAML"),
    "j.json": ("[]", "expected a list of names, or a mapping"),
    "k.csv": ("cat", r"expected a name that ends in \.txt"),
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_class_name_files(tmp_path: Path, name: str) -> None:
    text, message = BAD_NAMES[name]
    with pytest.raises(UsageError, match=message):
        read(written(tmp_path / name, text))


def test_class_name_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.txt cannot be read: No such file"):
        read(tmp_path / "nowhere.txt")
    (tmp_path / "a.txt").write_bytes(b"cat\n\xff\n")
    with pytest.raises(UsageError, match=r"a\.txt, line 2: is not UTF-8"):
        read(tmp_path / "a.txt")


def test_templates(tmp_path: Path) -> None:
    path = written(tmp_path / "prompts.txt", "a photo of a {}.\nart of {}\n")
    data = read(None, str(path), "itap of {}")
    assert data == {"templates": ["a photo of a {}.", "art of {}", "itap of {}"]}
    for text, message in {
        "a {} and a {}": "exactly once",
        "a {c}": "exactly once",
        "a photo": "is no file",
    }.items():
        with pytest.raises(UsageError, match=message):
            read(None, text)
    with pytest.raises(UsageError, match=r"'a {}' stands there twice"):
        read(None, "a {}", "a {}")
    written(path, "a {}\na cat\n")
    with pytest.raises(UsageError, match=r"prompts\.txt, line 2: 'a cat': expected {} exactly"):
        read(None, str(path))


def test_shares() -> None:
    # Invalid shares are rejected by the data set: tests/splits/test_holdout.py.
    assert read(holdout=0.25) == {"holdout": 0.25}


def test_a_set_under_other_names(tmp_path: Path) -> None:
    name = f"folder:{image_folder(tmp_path / 'pets')}"
    plain = registry().dataset(name)
    renamed = registry().dataset(name, {"classnames": ["Katze", "Hund"], "templates": ["ein {}"]})
    card = renamed.card()
    assert (card.classnames, card.custom_templates) == (("Katze", "Hund"), ("ein {}",))
    assert card.notes[-2:] == ("class names by --classnames", "custom prompts by --templates")
    for role, items in plain.items().items():
        mine = renamed.items()[role]
        assert [(i.id, i.label) for i in mine] == [(i.id, i.label) for i in items]
        assert {i.classname for i in mine} == {"Katze", "Hund"}
        assert renamed.read(mine[0]) == plain.read(items[0])
        assert renamed.stamp(mine[0]) == plain.stamp(items[0])
    one = registry().dataset(name, {"classnames": {"dog": "Hund"}})
    assert one.card().classnames == ("cat", "Hund")


def test_unicode_forms_of_a_name_are_one_name(tmp_path: Path) -> None:
    """File systems of macOS list names in another form than keyboards write them."""
    composed, split = "caf\u00e9", "cafe\u0301"
    folder = image_folder(tmp_path / "pets")
    for role in ("train", "val", "test"):
        (folder / role / "cat").rename(folder / role / split)
    name = f"folder:{folder}"
    for key in (composed, split):
        file = written(tmp_path / "names.json", json.dumps({key: split}))
        data = read(file)
        assert data == {"classnames": {composed: composed}}
        assert registry().dataset(name, data).card().classnames == (composed, "dog")
    assert read(written(tmp_path / "names.txt", f"{split}\nx\n")) == {"classnames": [composed, "x"]}
    with pytest.raises(UsageError, match="given to 2 classes"):
        registry().dataset(name, {"classnames": [composed, split]}).card()


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    name = f"folder:{image_folder(tmp_path / 'pets')}"
    with pytest.raises(UsageError, match=r"has 3 names, 'folder:.*' has 2 classes"):
        registry().dataset(name, {"classnames": ["a", "b", "c"]}).card()
    with pytest.raises(UsageError, match=r"class of folder:.*'dogs': did you mean 'dog'\?"):
        registry().dataset(name, {"classnames": {"dogs": "Hund"}}).card()


def test_classes_that_share_a_name_are_renamed_by_id() -> None:
    card = customize(Twins(), {"n2": "projectile"}, None).card()
    assert card.classnames == ("missile", "projectile", "cat")
    with pytest.raises(UsageError, match=r"name of 2 classes .*expected a class id \(n1, n2\)"):
        customize(Twins(), {"missile": "rocket"}, None).card()
    with pytest.raises(UsageError, match="or a list of all names"):
        customize(Twins(()), {"missile": "rocket"}, None).card()
    both = customize(Twins(), ["rocket", "rocket", "y"], None).card()
    assert both.classnames == ("rocket", "rocket", "y")


def test_classes_with_names_of_their_own_get_no_common_one() -> None:
    for names in (["x", "y", "x"], {"n1": "cat"}):
        with pytest.raises(UsageError, match=r"given to 2 classes .*tell them apart"):
            customize(Twins(), names, None).card()


def test_names_for_a_set_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path))
    with pytest.raises(DataMissingError, match="FSBENCH_DATA"):
        registry().dataset("imagenet", {"classnames": ["a"]}).card()


def test_holdout_is_for_sets_without_test_images() -> None:
    with pytest.raises(UsageError, match="'digits' comes with its own test images"):
        registry().dataset("digits", {"holdout": 0.3})
