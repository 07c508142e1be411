"""Signature lines: the cells and conditions of records in one line."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench.analysis.signature import break_line, commands_of, signature_of
from fewshot_bench.api.record import Record
from tests.support.compare_records import make, matrix, save
from tests.support.helpers import fsbench, start

HIDDEN = "a\x1b[2Jb\n\u202e"


def test_the_line_is_compact() -> None:
    records = matrix(shots=(1, 2, 4, 8, 16))
    line = signature_of(records)
    assert line.startswith(
        "fsbench:1|m:coop@1,zero-shot@1|b:test|d:dtd,pets|k:1,2,4,8,16|s:1-3|val:min4|tpl:custom"
        "|p:fp32|dev:cpu|x:"
    )
    assert signature_of(records[::-1]) == line
    assert signature_of([]) == ""


@given(st.text(st.characters(codec=None), min_size=1, max_size=12))
def test_any_name_is_written_in_ascii_without_blanks(name: str) -> None:
    line = signature_of([make(name), make(dataset=name), make(data={"templates": [name]})])
    assert line.isascii()
    assert " " not in line


def test_under_a_table_it_is_broken_to_fit() -> None:
    line = signature_of(matrix())
    for width in (1, 7, 40, 500):
        lines = break_line(line, width)
        assert max(map(len, lines)) <= width
        assert "".join(lines) == line


def test_every_process_writes_the_same_line(tmp_path: Path) -> None:
    """With these two seeds, a set of base and new has another order."""
    base = [make(shots=4, classes="base"), make(shots=1, classes="base")]
    store = save(tmp_path / "store", [*base, make(shots=1, classes="new")])
    words = ("compare", "--store", store, "--format", "json")
    running = [start(*words, env=os.environ | {"PYTHONHASHSEED": seed}) for seed in "01"]
    shown = {process.communicate()[0] for process in running}
    assert len(shown) == 1
    assert "fsbench:1|" in shown.pop()


def test_holes_and_conditions_are_parts_of_the_line() -> None:
    records = [*matrix(("coop",), ("dtd",)), *matrix(("coop",), ("pets",), (1,), (1,))]
    line = signature_of([*records, make(val="full", limit=60)])
    assert line.count("val:full") == 1
    assert "lim:60" in line
    # Other images give another line.
    other = dataclasses.replace(records[0], split={"digest": "other"})
    assert signature_of(records) != signature_of([other, *records[1:]])
    failed = signature_of([make(seed=s, top1=None if s == 3 else 50.0) for s in (1, 2, 3)])
    assert failed.endswith("|has:2/3")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (make(overrides={"x": HIDDEN}, options={"x": HIDDEN}), "no command can express x="),
        (make(overrides={"x": "1,\\"}, options={"x": "1,\\"}), r"can express x='1,\\'"),
        (make(HIDDEN), "no command can express the name 'a"),
        (make("a=b"), "no command can express the name 'a=b'"),
        (make(dataset=HIDDEN), "no command can express the name 'a"),
        (make(backbone=HIDDEN), "no command can show 'a"),
        (make(data={"templates": [HIDDEN + "{}"]}), "no command can show 'a"),
        (make(data={"classnames": ["a"], "holdout": 0.2}), "own class names"),
        (make(protocol="imported"), "fsbench splits import"),
    ],
)
def test_what_a_command_cannot_say_is_named(record: Record, said: str, tmp_path: Path) -> None:
    """Control characters are replaced, so that the displayed command would differ."""
    lines, remarks = commands_of([record.spec])
    assert any(said in text for text in remarks)
    assert all(line.isprintable() for line in lines)
    shown = fsbench("compare", "--store", save(tmp_path / "s", [record]))
    assert all(c.isprintable() or c == "\n" for c in shown.out + shown.err)
