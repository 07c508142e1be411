"""Where a sweep keeps its cells, and which ones it draws."""

from __future__ import annotations

from pathlib import Path

from tests.compare_records import save
from tests.test_sweep import SMALL, rows, swept


def test_cells_of_the_store_and_of_its_sweeps_are_drawn_together(tmp_path: Path) -> None:
    first, *others = swept(SMALL, seeds=(1,))
    store = save(tmp_path / "store", [first, others[0]])
    save(store / "sweeps", [first, *others[1:]])
    assert {row["status"] for row in rows(store, *SMALL)} == {"done"}
