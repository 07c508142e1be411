"""What records say of work that is done past the meters, and of answers that depend on others."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.api.violations import DEPENDENT as DEPENDENT_ON_OTHERS
from fewshot_bench.api.violations import HIDDEN_VIEWS, UNSTEADY, VIOLATIONS
from fewshot_bench.store.store import Store
from tests.support.helpers import REPOSITORY, fsbench

# Values of the class features of digits, in `tiny`.
WEIGHTS = 640
TRICKS = (
    *("honest", "module", "fit", "again", "test-time", "by-hand", "test-time-by-hand"),
    *("disguised", "tower", "flipped", "crops", "noisy"),
    *("centered", "first-center", "online", "position", "many", "small"),
)
DEPENDENT = list(TRICKS[12:])
VIOLATED = {"flipped": HIDDEN_VIEWS, "crops": HIDDEN_VIEWS, "noisy": UNSTEADY}
VIOLATED |= dict.fromkeys(DEPENDENT, DEPENDENT_ON_OTHERS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of every trick, computed by one run."""
    folder = tmp_path_factory.mktemp("observed")
    shutil.copy(REPOSITORY / "tests" / "support" / "plugin_observed.py", folder / "observed.py")
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


def test_what_is_not_as_declared_is_stated(records: Mapping[str, Record]) -> None:
    stated = {how: record.footprint["violations"] for how, record in records.items()}
    assert stated == {how: [VIOLATED[how]] if how in VIOLATED else [] for how in TRICKS}
    found = {how: record.footprint["depends_on_queries"] for how, record in records.items()}
    assert found == {how: how in (*DEPENDENT, "noisy") for how in TRICKS}
    moved = {how: record.footprint["moved"] for how, record in records.items()}
    assert (moved["honest"], moved["position"] > 0, moved["many"]) == (0, True, None)
    gaps = {how: record.footprint["query_gap"] for how, record in records.items()}
    assert gaps.pop("many") is None
    assert all((gap > 1e-2) == found[how] for how, gap in gaps.items())


def test_encoded_images_and_steps_of_prediction_are_stated(records: Mapping[str, Record]) -> None:
    names = ("encoded_per_query", "test_steps")
    stated = {how: tuple(map(record.footprint.get, names)) for how, record in records.items()}
    assert stated["honest"] == (1, 0)
    assert (stated["tower"], stated["flipped"], stated["crops"]) == ((2, 0), (2, 0), (3, 0))
    assert (stated["test-time"], stated["again"], stated["module"]) == ((1, 3), (1, 3), (None, 0))


def test_asking_again_gets_into_nothing_else(records: Mapping[str, Record]) -> None:
    for record in (records["honest"], records["centered"]):
        work = record.footprint["work"]
        assert record.incidents == ()
        assert (record.footprint["images_encoded"], work["billed"]["images"]) == (40, 40)
        assert record.footprint["images_seen"] == 0


def test_whose_code_it_is_follows_from_no_word_of_its_own(records: Mapping[str, Record]) -> None:
    assert records["disguised"].environment["code"]["distribution"] == ""


def row(table: list[dict[str, str]], how: str) -> dict[str, str]:
    (found,) = [
        one for one in table if one["dataset"] == "digits" and f"how={how}]" in one["method"]
    ]
    return found


def test_tables_mark_what_they_cannot_compare(store: Path) -> None:
    done = fsbench("compare", "--store", store, "--format", "csv")
    table = list(csv.DictReader(io.StringIO(done.out)))
    marks = {how: row(table, how)["marks"] for how in TRICKS if how != "honest"}
    violated = {how: name for how in marks for name in VIOLATIONS if name in marks[how]}
    assert violated == VIOLATED
    assert [how for how, mark in marks.items() if "work not metered" in mark] == ["module"]
    unseen = [how for how, mark in marks.items() if "trained parameters not observed" in mark]
    assert unseen == ["by-hand", "test-time-by-hand"]
    assert [row(table, how)["trained_params"] for how in ("by-hand", "fit")] == ["", str(WEIGHTS)]
    shown = fsbench("compare", "--store", store, "--format", "markdown").out
    assert r"how=centered\] (limited to 40, depends on other queries)" in shown
    assert "asked again for some queries, in another order and alone" in shown
    asked = ("compare", "--store", store, "--columns", "top1,moved,encoded")
    head, *_ = (line for line in fsbench(*asked).out.splitlines() if "moved" in line)
    assert "encoded/query" in head


def test_each_violation_is_a_finding(store: Path) -> None:
    found = json.loads(fsbench("audit", "--store", store, "--format", "json").out)
    said = [one for one in found["findings"] if one["kind"] == "undeclared"]
    cells = {one["text"].partition(":")[0]: len(one["cells"]) for one in said}
    assert cells == {DEPENDENT_ON_OTHERS: len(DEPENDENT), UNSTEADY: 1, HIDDEN_VIEWS: 2}


def test_code_of_others_is_never_ok(store: Path) -> None:
    """Whatever it did, even to read the labels off the data set: records cannot show it."""
    found = json.loads(fsbench("audit", "--store", store, "--format", "json").out)
    for hazard in (7, 8, 9, 10, 11, 15):
        answer = found["hazards"][hazard - 1]
        assert answer["state"] == "not shown"
        third = "not shown: third-party code runs with the user's rights: "
        assert answer["text"].startswith(third)
        assert ". Observed: " in answer["text"]
