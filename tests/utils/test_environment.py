"""The environment of a record: versions, and how often they are read."""

from __future__ import annotations

import importlib.metadata

import pytest

from fewshot_bench.utils import environment


def test_metadata_of_packages_are_read_once_for_all_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version, read = importlib.metadata.version, list[str]()

    def counted(package: str) -> str:
        read.append(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", counted)
    first, second = environment.describe("cpu"), environment.describe("cpu")
    assert first == second | {"load": first["load"]}
    assert first["packages"]["torch"] == version("torch")
    assert sorted(set(read)) == sorted(read)
