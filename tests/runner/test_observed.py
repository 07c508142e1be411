"""What records say of work that is done past the meters, and of answers that depend on others."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.store.store import Store
from tests.helpers import REPOSITORY, fsbench

# Values of the class features of digits, in `tiny`.
WEIGHTS = 640
TRICKS = (
    *("honest", "module", "fit", "again", "test-time", "by-hand", "test-time-by-hand"),
    *("centered", "declared", "first-center", "online", "position", "many", "small"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of every trick, computed by one run."""
    folder = tmp_path_factory.mktemp("observed")
    shutil.copy(REPOSITORY / "tests" / "plugin_observed.py", folder / "observed.py")
    done = fsbench(
        *("run", "-m", f"{folder}/observed.py:Observed", "-o", f"how={','.join(TRICKS)}"),
        *("-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "40", "--jobs", "1"),
        *("--backbone", "tiny", "--store", folder / "results"),
    )
    assert done.code == 0, done
    return folder / "results"


@pytest.fixture(scope="module")
def records(store: Path) -> Mapping[str, Record]:
    """The records by trick."""
    found = {str(record.spec.options["how"]): record for record in Store(store).records()}
    assert set(found) == set(TRICKS)
    return found


def trained(record: Record) -> tuple[Any, ...]:
    return tuple(record.footprint[name] for name in ("trained", "trained_source", "steps"))


def test_steps_and_gradients_are_stated(records: Mapping[str, Record]) -> None:
    assert {how: trained(records[how]) for how in TRICKS[:7]} == {
        "honest": (0, "observed", 0),
        "module": (0, "observed", 0),
        "fit": (WEIGHTS, "observed", 1),
        # The parameters of the fit count once, as do those that every query has of its own.
        "again": (WEIGHTS, "observed", 4),
        "test-time": (WEIGHTS, "observed", 3),
        "by-hand": (None, "not observed", 0),
        "test-time-by-hand": (None, "not observed", 0),
    }


def test_work_of_the_module_is_unknown_instead_of_none(records: Mapping[str, Record]) -> None:
    found = records["module"].footprint
    unknown = {"images": None, "text_tokens": None, "flops": None}
    assert (found["metered"], found["work"]["billed"]) == (False, unknown)
    honest = records["honest"].footprint
    assert (honest["metered"], honest["work"]["billed"]["images"]) == (True, 40)


def test_what_depends_on_other_queries_is_stated(records: Mapping[str, Record]) -> None:
    found = {how: record.footprint["depends_on_queries"] for how, record in records.items()}
    assert found == {how: how in TRICKS[7:] for how in TRICKS}
    gaps = {how: record.footprint["query_gap"] for how, record in records.items()}
    assert gaps.pop("many") is None
    assert all((gap > 1e-2) == found[how] for how, gap in gaps.items())


def test_asking_again_gets_into_nothing_else(records: Mapping[str, Record]) -> None:
    for record in (records["honest"], records["centered"]):
        work = record.footprint["work"]
        assert record.incidents == ()
        assert (record.footprint["images_encoded"], work["billed"]["images"]) == (40, 40)
        assert record.footprint["images_seen"] == 0
