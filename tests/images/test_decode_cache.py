"""Decoded images in memory: all sources share one bound."""

from __future__ import annotations

import gc

import pytest

from fewshot_bench.images import held
from fewshot_bench.images.held import DecodeCache
from fewshot_bench.utils.memory import WORKERS_VARIABLE


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound of 100 bytes on a full machine, without sources of other tests."""
    monkeypatch.setattr(held, "LEAST", 100)
    monkeypatch.setattr(held, "free_host_memory", lambda: 0)
    monkeypatch.setattr(held, "_ALL", type(held._ALL)())
    for name in ("held", "bound", "valid"):
        monkeypatch.setattr(DecodeCache, name, 0)


def test_sources_share_one_bound() -> None:
    one, other = DecodeCache(), DecodeCache()
    one.put(1, "a", 60)
    other.put(1, "b", 60)
    other.put(2, "c", 40)
    other.put(3, "d", 40)
    assert (one.get(1), other.get(1), other.get(2), other.get(3)) == ("a", None, "c", None)
    del one
    gc.collect()
    other.put(1, "b", 60)
    assert other.get(1) == "b"


def test_images_that_nobody_asks_for_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = DecodeCache(), DecodeCache()
    one.put(1, "a", 60)
    monkeypatch.setattr(held, "IDLE_SECONDS", -1.0)
    other.put(1, "b", 60)
    assert (one.get(1), other.get(1)) == (None, "b")


def test_processes_share_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "free_host_memory", lambda: 4000 - DecodeCache.held)
    monkeypatch.setenv(WORKERS_VARIABLE, "4")
    cache = DecodeCache()
    for key in range(20):
        cache.put(key, key, 50)
    assert [key for key in range(20) if cache.get(key) is not None] == list(range(10))


def test_what_other_programs_take_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [2000]
    monkeypatch.setattr(held, "free_host_memory", lambda: free[0])
    cache = DecodeCache()
    cache.put(0, "a", 150)
    free[0] = 250
    for key in range(1, 20):
        cache.put(key, "b", 50)
    assert DecodeCache.held == 200
