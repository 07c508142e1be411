"""Trackers with records whose names and values are hostile."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.plugins.trackers import plugin as trackers
from fewshot_bench.plugins.trackers.backends import contents
from tests.support.compare_records import make
from tests.support.tracking import told

NAMES = (
    "..",
    ".",
    "../../x",
    "a/b",
    "\ud800",
    "a\x1b[2J\n",
    "x" * 10_000,
    "=1",
    "\U0001d4d0" * 99,
    "",
)


def hostile(name: str) -> Record:
    """A failed cell in which every text is this name, also in option names."""
    values = {"options": {f"x{name}": name}, "overrides": {f"x{name}": name}}
    record = make(name or "coop", name or "dtd", **values)
    return dataclasses.replace(
        record,
        status="failed",
        environment={"commit": name, "weights_digest": name},
        error={"type": name, "message": name, "traceback": name},
        incidents=({"kind": name, "text": name},),
        metrics={"top1": 10**400, name: 1.0},
        timings={"phases": {name: {"billed": {"wall": 1.0}}, "fit": None, "x": {"billed": 3}}},
    )


def test_contents_hold_no_character_that_steers_and_no_endless_text() -> None:
    for cell in map(contents, map(hostile, NAMES)):
        values = [*cell.parameters.items(), *cell.tags.items(), ("name", cell.name)]
        for text in [str(part) for pair in values for part in pair]:
            assert text.isprintable()
            text.encode()
            assert len(text) < 520
        assert not {"time.fit_seconds", "top1"} & set(cell.metrics)


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
def test_hostile_names_are_tracked_inside_the_folder(
    tracker: str, tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(tracker)
    told(monkeypatch, tracker, *map(hostile, NAMES))
    assert trackers.list_problems() == []
    assert {path.name for path in tracking.iterdir()} <= {tracker, ".mlflow.lock"}
    assert [path.name for path in tracking.parent.iterdir()] == ["tracking"]
    if tracker == "tensorboard":
        assert len(list((tracking / tracker).glob("*/*/events*"))) == len(NAMES)
        assert not [path for path in (tracking / tracker).iterdir() if path.name[0] == "."]


def test_a_folder_that_takes_no_note_is_told_with_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "file"
    place.write_text("in the way")
    monkeypatch.setenv(trackers.FOLDER_VARIABLE, str(place))
    with pytest.raises(OSError, match=r"not tracked: tensorboard: .*; nor noted: "):
        told(monkeypatch, "tensorboard,mlflow", make())
