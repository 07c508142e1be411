"""Readers of randomly changed files either use them or refuse them with a one-line error.

`FSBENCH_FUZZ=100000 python -m pytest -s tests/fuzzing/test_fuzz.py` tries that many cases, and
prints per reader how many were used, passed over and refused. `FSBENCH_FUZZ_SEED` selects other
cases.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.fuzzing.guard import Guard
from tests.support.helpers import PATIENCE, REPOSITORY
from tests.support.own_sets import hub_package

pytest.importorskip("resource", reason="memory is limited with the resource module")

CASES = int(os.environ.get("FSBENCH_FUZZ", "1000"))
SEED = os.environ.get("FSBENCH_FUZZ_SEED", "0")
GROUPS = {
    "light": (
        *("records", "records with their own key", "logits", "split files", "splits import"),
        *("imported splits", "manifests", "kept splits", "folders with a split file"),
        *("aircraft lists", "imagenet archives", "webdataset shards", "configs"),
        *("class names and prompts", "archives", "notes of downloads"),
    ),
    "heavy": (
        *("decoded images", "checkpoints", "local backbones", "images", "saved hub data sets"),
        *("kept models", "uploads"),
    ),
}


@pytest.mark.timeout(PATIENCE + CASES // 10)
def test_readers_use_changed_files_or_refuse_them() -> None:
    """All readers in one test: both halves run at once, in processes of their own."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fuzzing.run", group, str(CASES), SEED],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ)
            | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for group in GROUPS
    ]
    reports: list[dict[str, Any]] = []
    for process in running:
        out, err = process.communicate(timeout=PATIENCE + CASES // 20)
        assert process.returncode == 0, f"{out[-500:]}\n{err[-3000:]}"
        reports += map(json.loads, out.splitlines())
    total = sum(report["cases"] for report in reports)
    for report in (*reports, {"name": "total", "cases": total}):
        print(" ".join(f"{key}={value}" for key, value in report.items() if key != "findings"))
    readers = {name for names in GROUPS.values() for name in names}
    if hub_package() is None:
        readers.remove("saved hub data sets")
    reports = [report for report in reports if report["name"] in readers]
    assert len(reports) == len(readers)
    findings = [text for report in reports for text in report["findings"]]
    assert not findings, "\n".join(findings)
    for report in reports:
        assert report["cases"] == report["used"] + report["passed_over"] + report["refused"] >= 3


GUARDED = """
import os, pickle, pathlib, sys, subprocess, socket
from tests.fuzzing.guard import Guard, Hang
import tests.fuzzing.guard as guard
place = pathlib.Path(sys.argv[1])
guard.SECONDS = 1
watch = Guard(place / "inside")
class Bomb:
    def __reduce__(self):
        return os.getcwd, ()
def tries(number):
    try:
        with watch.watching():
            ACTIONS[number]()
    except (OSError, Hang) as error:
        return [type(error).__name__] if isinstance(error, Hang) else watch.found
    return watch.found
def spin():
    while True:
        pass
data = pickle.dumps(Bomb())
ACTIONS = [
    lambda: (place / "inside" / "a").write_text("x"),
    lambda: (place / "outside").write_text("x"),
    lambda: os.mkdir(place / "new"),
    lambda: os.rename(place / "inside" / "a", place / "b"),
    lambda: os.symlink(place, place / "link"),
    lambda: os.system("true"),
    lambda: subprocess.run(["true"]),
    lambda: pickle.loads(data),
    lambda: exec("1"),
    lambda: socket.create_connection(("127.0.0.1", 9)),
    spin,
]
for number in range(len(ACTIONS)):
    print(number, len(tries(number)))
"""


def test_the_guard_sees_what_must_not_happen(tmp_path: Any) -> None:
    assert Guard.__doc__
    (tmp_path / "inside").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    counts = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert counts[0] == 0
    assert len(counts) == 11
    assert all(counts[1:]), counts
