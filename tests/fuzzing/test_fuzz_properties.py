"""Properties for arbitrary text: names stay in their folder, lines stay lines, configs return."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.analysis.formats import latex, markdown, tidy
from fewshot_bench.api.options import is_given
from fewshot_bench.api.spec import plain
from fewshot_bench.cli.config import read_config, save_config
from fewshot_bench.plugins.data.extract import UnsafeError, safe_path
from fewshot_bench.splits.imported import safe_name
from fewshot_bench.splits.pickled import Datum, Refused
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import leaves, printable

ANY = st.text(st.characters(), max_size=60)
PARTS = st.sampled_from(["..", ".", "", "a", "/", "\\", "C:", "~", "\0", "b c", "é", "\n"])
PATHS = st.lists(PARTS, max_size=8).map("/".join) | st.lists(PARTS, max_size=8).map("".join) | ANY
OPTIONS = st.dictionaries(
    st.sampled_from(["method", "val", "option", "limit", "force"]),
    ANY | st.lists(ANY, min_size=1, max_size=3) | st.integers(-(2**62), 2**62) | st.booleans(),
)
QUICK = settings(max_examples=60)


@QUICK
@given(PATHS)
def test_members_of_archives_stay_inside(name: str) -> None:
    try:
        path = safe_path(name)
    except UnsafeError:
        return
    base = "/base/target"
    assert not leaves(name)
    assert os.path.normpath(os.path.join(base, path)).startswith(base)
    assert "\0" not in name


@QUICK
@given(PATHS, PATHS)
def test_data_sets_have_files_of_their_own(one: str, other: str) -> None:
    names = [safe_name(name) for name in (one, other)]
    for name in names:
        assert PurePosixPath(name).name == name
        assert name not in ("", ".", "..")
        assert name.isascii()
        assert len(name) <= 80
    assert (names[0] == names[1]) == (one == other)


@QUICK
@given(ANY)
def test_printable_texts_stay_as_they_are(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert len(shown) == len(text)
    assert (shown == text) == text.isprintable()


@QUICK
@given(ANY)
def test_markup_is_one_printable_line(text: str) -> None:
    for escaped in (latex.escape(text), markdown.escape(text), tidy._text(text)):
        assert escaped.isprintable()
    assert not tidy._text(text).lstrip().startswith(("=", "+", "-", "@"))


@QUICK
@given(OPTIONS)
@pytest.mark.parametrize("name", ["x.yaml", "x.toml"])
def test_saved_configs_come_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, values: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    if name == "x.toml" and any("\ud800" <= c <= "\udfff" for c in all_text(values)):
        with pytest.raises(UsageError, match="not UTF-8"):
            save_config(path, values)
        return
    save_config(path, values)
    given = {name: value for name, value in values.items() if is_given(value)}
    assert _texts(read_config(path)) == _texts(given)


def all_text(values: Any) -> str:
    """All option values joined into one text."""
    return "".join(str(v) if not isinstance(v, list) else "".join(v) for v in values.values())


def _texts(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: list(map(str, value)) if isinstance(value, list) else _text(value)
        for name, value in values.items()
    }


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


OPERATIONS = st.sampled_from(
    [
        *(b"(", b"]", b"}", b")", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"N", b"0", b"2", b"R"),
        *(b"b", b"o", b"\x81", b"\x85", b"\x86", b"\x87", b"\x88", b"\x93", b"\x94", b"q\x00"),
        *(
            b"h\x00",
            b"K\x01",
            b"X\x01\x00\x00\x00a",
            b"cos\nDatum\n",
            b"ccopyreg\n_reconstructor\n",
        ),
        *(b"c__builtin__\nobject\n", b"\x8c\x05Datum", b"I01\n", b"F1.5\n", b"\x80\x04"),
    ]
)


@QUICK
@given(st.lists(OPERATIONS, max_size=40))
def test_pickles_of_any_operations(operations: list[bytes]) -> None:
    try:
        value = plain(b"".join(operations) + b".")
    except Refused:
        return
    assert value is Datum or type(value).__module__ in ("builtins", Datum.__module__)


def test_a_path_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        save_config(tmp_path / "nowhere" / "x.yaml", {"method": "a"})
