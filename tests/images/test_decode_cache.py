"""Decoded images in memory: all sources share one bound."""

from __future__ import annotations

import gc

import pytest

from fewshot_bench.images import loader
from fewshot_bench.images.loader import DecodeCache


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound of 100 bytes, without sources of other tests."""
    monkeypatch.setattr(loader, "MEMORY", 100)
    monkeypatch.setattr(loader, "_ALL", type(loader._ALL)())
    monkeypatch.setattr(DecodeCache, "most", 0)


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
    monkeypatch.setattr(loader, "IDLE_SECONDS", -1.0)
    other.put(1, "b", 60)
    assert (one.get(1), other.get(1)) == (None, "b")
