"""`fsbench demo`: its results are not among those of real runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot_bench.cli import run
from fewshot_bench.runner.request import Request
from tests.support.helpers import fsbench


@pytest.mark.parametrize(("words", "store"), [((), "fsbench-demo"), (("--store", "s"), "s")])
def test_it_has_a_store_of_its_own(
    words: tuple[str, ...], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: list[Path] = []

    def compute(request: Request, _: object) -> int:
        stores.append(request.store)
        return 1

    monkeypatch.setattr(run, "run_request", compute)
    assert fsbench("demo", *words).code == 1
    assert stores == [Path(store)]
