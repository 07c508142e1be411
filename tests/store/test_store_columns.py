"""Columns of a store's index are read from its file when they are first used."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench.api.record import Record
from fewshot_bench.store import index as store_index
from fewshot_bench.store.columns import KEY, Keys
from fewshot_bench.store.index import index_files
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from tests.store_cases import filled, put

# Keys that often are equal and share their first byte, as few random digests do.
KEYS = st.sampled_from(
    [f"{first}{last:x}".ljust(KEY, "0") for first in "0af" for last in range(24)]
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose records are all in one file of its index."""
    monkeypatch.setattr(store_index, "WORTH", 1)
    monkeypatch.setattr(store_index, "SETTLED_SECONDS", 0)
    store = filled(tmp_path / "results", range(8))
    assert len(list(store.records())) == 8
    assert len(list(index_files(store.path))) == 1
    return store


def test_an_index_file_that_is_removed_is_still_read(store: Store) -> None:
    """Another command may merge the file into another one meanwhile."""
    expected = [store.get(record.spec.key()) for record in store.records()]
    records = list(Store(store.path).records())
    for path in index_files(store.path):
        path.unlink()
    assert records == expected


def test_columns_of_an_unreadable_index_file_are_made_again(store: Store) -> None:
    """Another machine may have removed it, on a file system of a network."""
    expected = [store.get(record.spec.key()) for record in store.records()]
    records = list(Store(store.path).records())
    overwrite(store)
    assert records == expected
    # A record that was listed is another one now: the first one cannot be read any more.
    records = listed_again(store)
    overwrite(store)
    put(store, 3, shift=0.5)
    with pytest.raises(StoreError, match=r"cannot be read any more, and record \w+ was replaced"):
        _ = [record.timings for record in records]


def listed_again(store: Store) -> list[Record]:
    """The records of a store in an index file written anew."""
    for path in index_files(store.path):
        path.unlink()
    _ = list(Store(store.path).records())
    return list(Store(store.path).records())


def overwrite(store: Store) -> None:
    (path,) = index_files(store.path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


@given(st.sets(KEYS), st.lists(KEYS), st.lists(KEYS))
def test_keys_find_their_latest_rows(held: set[str], added: list[str], asked: list[str]) -> None:
    keys = Keys("".join(sorted(held)))
    expected = {key: row for row, key in enumerate(sorted(held))}
    for key in added:
        expected[key] = keys.add(key)
    assert [keys.row(key) for key in [*asked, ""]] == [expected.get(key) for key in [*asked, ""]]
    assert [keys[row] for row in range(len(keys))] == [*sorted(held), *added]
    assert keys.ordered() == [expected[key] for key in sorted(expected)]
