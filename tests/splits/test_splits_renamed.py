"""Published lists under other class names, whose prompts are others, are not the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewshot_bench import Item
from fewshot_bench.splits.published import Lists, compare_lists, verify_names
from tests.support.helpers import fsbench
from tests.support.split_trees import DTD_FILE, dtd_bytes, write_dtd

SAID = "NOT the published lists: their images under other class names"


@pytest.fixture
def renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DTD whose split file is not beside the images and calls one class otherwise."""
    root = write_dtd(tmp_path)
    (root / "dtd" / DTD_FILE).unlink()
    monkeypatch.setenv("FSBENCH_DATA", str(root))
    path = root / "splits" / DTD_FILE
    path.parent.mkdir()
    path.write_bytes(dtd_bytes().replace(b'"zigzagged"', b'"zigzag pattern"'))
    return path


@pytest.mark.parametrize("command", [("show",), ("splits", "show")])
def test_show_says_that_the_class_names_are_others(renamed: Path, command: tuple[str]) -> None:
    assert SAID in fsbench(*command, "dtd").out
    renamed.write_bytes(dtd_bytes())
    assert "NOT the published" not in fsbench(*command, "dtd").out


def test_splits_verify_fails(renamed: Path) -> None:
    result = fsbench("splits", "verify", "dtd")
    assert (result.code, result.out.count("FAILED")) == (1, 1)
    assert f"FAILED  lists        {SAID}" in result.out
    assert result.out.count("equal to the published picks") == 15
    file = fsbench("splits", "verify", renamed)
    assert (file.code, file.out.count("FAILED")) == (1, 1)
    assert f"published    dtd: {SAID}" in file.out
    assert f"published  dtd: {SAID}" in fsbench("splits", "show", renamed).out


def test_halves_of_the_classes_have_names_of_their_own() -> None:
    pools = {
        role: tuple(Item(*entry) for entry in entries)
        for role, entries in json.loads(dtd_bytes()).items()
    }
    names = [{i.label: i.classname for i in pools["test"]}[label] for label in range(47)]
    assert compare_lists(pools, "dtd") is Lists.EQUAL
    assert compare_lists(pools, "digits") is Lists.UNKNOWN
    assert verify_names(names, "dtd") is True
    assert verify_names(names[:24], "dtd", "base") is True
    assert verify_names(names[24:], "dtd", "new") is True
    assert verify_names(names[:24], "dtd", "new") is False
    assert verify_names(names, "digits") is None
