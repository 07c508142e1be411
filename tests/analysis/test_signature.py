"""Signature lines: from records to the line, to commands, and back to the same cells."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.analysis.signature import (
    break_line,
    commands,
    parse,
    signature_of,
    write,
)
from fewshot_bench.analysis.signature.line import Choice, Matrix, Named, Pair
from fewshot_bench.api.dataset import TEMPLATE_SETS
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import (
    ALL_SHOTS,
    BYSTANDERS,
    IMPORTED,
    POOLING,
    PRECISIONS,
    QUERIES,
    YES_NO,
)
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from fewshot_bench.utils.errors import UsageError
from tests.compare_records import make, matrix, save
from tests.helpers import PATIENCE, cells, fsbench, start

ISSUE = (
    "fsbench:1|m:clip-lora@1|b:ViT-B-16/openai#a1b2|d:dtd#9f3c"
    "|k:16|s:1-3|val:min4|tpl:custom|p:bf16"
)
NAMES = st.text(st.characters(codec=None), min_size=1, max_size=12)
DIGESTS = st.text("0123456789abcdef", max_size=6)
NAMED = st.builds(Named, NAMES, DIGESTS)


def distinct(values: st.SearchStrategy[Any], least: int = 1) -> st.SearchStrategy[Any]:
    return st.lists(values, min_size=least, max_size=3, unique=True).map(tuple)


TEXTS = st.text(st.characters(codec=None), max_size=6)
OPTIONS = st.dictionaries(NAMES, distinct(TEXTS), max_size=2)
CHOICES = st.builds(Choice, NAMES, TEXTS, OPTIONS.map(lambda own: tuple(own.items())))
NUMBERS = distinct(st.integers(1, 40) | st.just(ALL_SHOTS)).map(lambda own: tuple(sorted(own)))
PAIRS = distinct(st.builds(Pair, st.integers(0, 5), st.integers(0, 5))).map(
    lambda own: tuple(sorted(own))
)
MATRICES = st.builds(
    Matrix,
    methods=distinct(CHOICES),
    backbone=NAMED,
    datasets=distinct(NAMED),
    shots=NUMBERS,
    seeds=PAIRS,
    conditions=st.fixed_dictionaries(
        {
            "val": st.sampled_from(sorted(VALIDATION)),
            "prompts": st.sampled_from(sorted(TEMPLATE_SETS)),
            "precision": st.sampled_from(PRECISIONS),
            "device": st.sampled_from(["", "cpu", "cuda"]) | NAMES,
            "protocol": st.sampled_from((*SAMPLERS, IMPORTED)),
            "limit": st.just("none") | st.integers(1, 99).map(str),
            "exif": st.sampled_from(["ignore", "rotate"]),
            "published": st.sampled_from(YES_NO),
            "augment": st.sampled_from(["host", "device"]),
            "queries": st.sampled_from(QUERIES),
            "views": st.integers(1, 99).map(str),
            "bystanders": st.sampled_from(BYSTANDERS),
            "texts": NAMES,
            "pooling": st.sampled_from(POOLING),
        }
    ),
    classes=st.sampled_from([("all",), ("base", "new"), ()]),
    targets=distinct(NAMED, 0),
    holdout=st.just("") | st.floats(0, 1, exclude_min=True, exclude_max=True).map(str),
    templates=distinct(NAMES, 0),
    classnames=DIGESTS,
    skipped=DIGESTS,
    splits=DIGESTS,
    has=st.none() | st.tuples(st.integers(0, 99), st.integers(0, 9999)),
)


@settings(max_examples=80)
@given(st.lists(MATRICES, min_size=1, max_size=3), st.data())
def test_any_names_come_back_even_from_a_wrapped_line(matrices: list[Matrix], data: Any) -> None:
    line = write(matrices)
    assert line.isascii()
    assert " " not in line
    assert parse(line) == tuple(matrices)
    middle = data.draw(st.integers(0, len(line)))
    assert parse(f" {line[:middle]}\n  {line[middle:]}") == tuple(matrices)


@given(st.text(max_size=60) | st.text("mbdks:|,#@[]=/%-0a", max_size=40).map("fsbench:1|".__add__))
def test_what_is_no_signature_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(UsageError, match="signature"):
        parse(text)


def test_the_line_of_the_issue_is_the_command_that_it_says() -> None:
    assert write(parse(ISSUE)) == ISSUE
    shown = fsbench("signature", ISSUE)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out == (
        "fsbench run --method clip-lora --dataset dtd --shots 16 --seeds 1-3 --backbone "
        "ViT-B-16/openai --protocol coop --val min4 --prompts custom --precision bf16\n"
    )


def test_the_line_of_a_store_is_compact(tmp_path: Path) -> None:
    records = matrix(shots=(1, 2, 4, 8, 16))
    store = save(tmp_path / "store", records)
    shown = fsbench("signature", "--store", store)
    line = shown.out.strip()
    assert line.startswith(
        "fsbench:1|m:coop@1,zero-shot@1|b:test|d:dtd,pets|k:1,2,4,8,16|s:1-3|val:min4|tpl:custom"
        "|p:fp32|dev:cpu|x:"
    )
    assert signature_of(records[::-1]) == line
    few = fsbench("signature", "--store", store, "--method", "coop", "--seeds", "1").out
    assert "|m:coop@1|" in few
    assert "|s:1|" in few


def test_under_a_table_it_is_broken_to_fit() -> None:
    line = signature_of(matrix())
    for width in (1, 7, 40, 500):
        lines = break_line(line, width)
        assert max(map(len, lines)) <= width
        assert parse("\n".join(lines)) == parse(line)
    assert signature_of([]) == ""


def test_every_process_writes_the_same_line(tmp_path: Path) -> None:
    """With these two seeds, a set of base and new has another order."""
    base = [make(shots=4, classes="base"), make(shots=1, classes="base")]
    store = save(tmp_path / "store", [*base, make(shots=1, classes="new")])
    words = ("signature", "--store", store)
    running = [start(*words, env=os.environ | {"PYTHONHASHSEED": seed}) for seed in "01"]
    assert len({process.communicate(timeout=PATIENCE)[0] for process in running}) == 1


def test_holes_and_conditions_are_parts_of_the_line() -> None:
    records = [*matrix(("coop",), ("dtd",)), *matrix(("coop",), ("pets",), (1,), (1,))]
    line = signature_of([*records, make(val="full", limit=60)])
    matrices = parse(line)
    assert [m.conditions["val"] for m in matrices].count("full") == 1
    assert sum(m.count for m in matrices) == len(records) + 1
    assert any("--limit 60" in text and "--val full" in text for text in commands(matrices))
    # Other images give another line.
    other = dataclasses.replace(records[0], split={"digest": "other"})
    assert signature_of(records) != signature_of([other, *records[1:]])
    failed = signature_of([make(seed=s, top1=None if s == 3 else 50.0) for s in (1, 2, 3)])
    assert failed.endswith("|has:2/3")
    assert parse(failed)[0].count == 3


def test_what_a_line_cannot_say_it_names(tmp_path: Path) -> None:
    scattered = [make(dataset=f"d{n}", shots=2**n, seed=n) for n in range(9)]
    named = make("a=b", overrides={"x": "1,\\"}, options={"x": "1,\\"}, dataset="own")
    named = dataclasses.replace(
        named, spec=dataclasses.replace(named.spec, data={"classnames": ["a"], "holdout": 0.2})
    )
    for records, text in (
        (scattered, "the commands compute 729 cells, of which the table has 9"),
        ([named], "own class names"),
        ([named], r"no command can express x='1,\\'"),
        ([named], "no command can express the name 'a=b'"),
        ([make(protocol="imported")], "fsbench splits import"),
    ):
        shown = fsbench("signature", signature_of(records))
        assert shown.code == 0
        assert text in shown.err


HIDDEN = "a\x1b[2Jb\n\u202e"


def test_a_command_that_cannot_be_shown_as_it_is_is_named() -> None:
    """Control characters are replaced, so that the displayed command would differ."""
    for record, text in (
        (make(overrides={"x": HIDDEN}, options={"x": HIDDEN}), "no command can express x="),
        (make(HIDDEN), "no command can express the name 'a"),
        (make(dataset=HIDDEN), "no command can express the name 'a"),
        (make(backbone=HIDDEN), "no command can show 'a"),
        (make(data={"templates": [HIDDEN + "{}"]}), "no command can show 'a"),
    ):
        shown = fsbench("signature", signature_of([record]))
        assert (shown.code, text in shown.err) == (0, True)
        assert all(c.isprintable() or c == "\n" for c in shown.out + shown.err)


def test_numbers_without_end_are_read_again() -> None:
    records = [make(seed=seed) for seed in range(4_001)]
    assert parse(signature_of(records))[0].count == len(records)


def test_check_tells_what_is_not_the_same_here() -> None:
    line = signature_of([Record(cells("zero-shot")[0], "done")])
    assert fsbench("signature", "--check", line).code == 0
    other = line.replace("zero-shot@1", "zero-shot@11").replace("b:tiny#", "b:tiny#0")
    shown = fsbench("signature", "--check", other)
    assert shown.code == 1
    assert "differs: version of zero-shot: 11 in the line, 1 here" in shown.err
    assert "differs: weights of tiny" in shown.err


def test_check_where_no_data_is_here_says_so() -> None:
    line = "fsbench:1|m:zero-shot@1|b:tiny|d:folder:/nowhere/at/all|k:1|s:1"
    shown = fsbench("signature", "--check", line)
    assert shown.code == 1
    assert "error: folder:/nowhere/at/all" in shown.err
    assert "differs: cells: 1 in the line, 0 here" in shown.err
    assert "begins no signature" not in shown.err
    assert shown.out.endswith("here: 1 difference\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--check"], "--check needs a signature"),
        ([ISSUE, "--method", "coop"], "--method chooses records of a store"),
        (["fsbench:2|m:a"], "newer fewshot_bench"),
        ([ISSUE.replace("k:16", "k:99999999999999999999")], "field 'k:99999999999999999999'"),
        ([ISSUE.replace("k:16", "k:1-999999")], "ranges of at most"),
        ([ISSUE.replace("k:16", "k:0-60000,70000-140000")], "ranges of at most"),
        ([ISSUE + "|lim:1,2"], "field 'lim:1,2': expected one whole number"),
        ([ISSUE + "|has:1-3/5"], "field 'has:1-3/5': expected one whole number"),
        ([ISSUE.replace("s:1-3", "s:1-3/2")], "field 's:1-3/2': expected one whole number"),
        ([ISSUE + "|val:none"], "field 'val' stands twice"),
        ([ISSUE + "|zz:none"], "unknown field 'zz:none'"),
        ([ISSUE + "||val:none"], "field 'val' stands for all parts and for one of them"),
        ([ISSUE.replace("m:clip-lora@1", "m:")], "field 'm' is empty"),
    ],
)
def test_wrong_lines_are_one_error(words: list[str], said: str) -> None:
    shown = fsbench("signature", *words)
    assert shown.code == 2
    assert said in shown.err
