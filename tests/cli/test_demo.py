"""`fsbench demo`: its results are not among those of real runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.cli import run
from tests.helpers import fsbench


@pytest.mark.parametrize(("words", "store"), [((), "fsbench-demo"), (("--store", "s"), "s")])
def test_it_has_a_store_of_its_own(
    words: tuple[str, ...], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def computed(_: object, __: object, values: dict[str, Any], ___: object) -> int:
        asked.append(values)
        return 1

    monkeypatch.setattr(run, "run_matrix", computed)
    assert fsbench("demo", *words).code == 1
    assert [values["store"] for values in asked] == [Path(store)]
