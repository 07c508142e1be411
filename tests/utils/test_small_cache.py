"""Values by key in the user's cache folder."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fewshot_bench.utils import cache_dir, small_cache
from fewshot_bench.utils.cache_dir import DIGESTS, LISTS
from fewshot_bench.utils.small_cache import change, keep_list, kept_list, recall


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of lists, which is not there yet."""
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / LISTS / cache_dir.VALUES


def test_values_are_kept_by_key_and_kind(file: Path) -> None:
    assert kept_list("a") is None
    assert not file.exists()
    keep_list("a", b"one")
    keep_list("b", b"two")
    change(DIGESTS, "a", lambda before: (before or b"") + b"x", "cats", 3)
    change(DIGESTS, "a", lambda before: (before or b"") + b"y", "cats", 4)
    assert (kept_list("a"), kept_list("b"), recall(DIGESTS, "a")) == (b"one", b"two", b"xy")


def test_a_value_of_another_key_or_with_other_bytes_is_none(file: Path) -> None:
    keep_list("a", b"one")
    keep_list("b", b"two")
    with closing(sqlite3.connect(file)) as base, base:
        (other,) = base.execute("select content from value limit 1").fetchone()
        base.execute("update value set content=?", (other,))
    assert [kept_list("a"), kept_list("b")] in ([b"one", None], [None, b"two"])


def test_a_file_beyond_its_bound_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_list("a", bytes(50_000))
    monkeypatch.setitem(small_cache.LIMITS, LISTS, 70_000)
    keep_list("b", bytes(40_000))
    assert (kept_list("a"), kept_list("b")) == (None, bytes(40_000))


def test_nothing_is_kept_where_that_is_not_possible_or_not_allowed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_dir, "_reads_only", True)
    keep_list("a", b"one")
    assert not file.exists()
    monkeypatch.setattr(cache_dir, "_reads_only", False)
    file.parent.parent.mkdir()
    file.parent.touch()
    keep_list("a", b"one")
    assert kept_list("a") is None
