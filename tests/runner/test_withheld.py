"""Labels that the public API knows are withheld from code of methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb

METHOD = '''
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import ClassVar

import fewshot_bench as fb
from fewshot_bench.training import LinearClassifier

SCRIPT = "import fewshot_bench as fb; fb.cell('zero-shot', 'digits', 1, 1)"


def registered():
    from fewshot_bench.api.registry import registry

    registry().dataset("digits")


def listed():
    from fewshot_bench.api.registry import registry

    registry().datasets.find("digits").load()().items()["test"][0].label


def packed():
    from fewshot_bench.api.registry import registry

    pools = registry().datasets.find("digits").load()().items()
    getattr(pools["test"], "runs", pools["test"])[0].label


def drawn():
    items = [fb.Item("a", 0, "a")]
    fb.Split("digits", "", "fair", 1, 1, items, [], items)


def in_a_thread():
    raised = []

    def open_cell():
        try:
            fb.cell("zero-shot", "digits", 1, 1)
        except fb.ContractError as error:
            raised.append(error)

    thread = threading.Thread(target=open_cell)
    thread.start()
    thread.join()
    raise raised[0]


def in_a_program():
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(ended.stderr)


DOORS = {
    "none": lambda: None,
    "cell": lambda: fb.cell("zero-shot", "digits", 1, 1),
    "run": lambda: fb.run("zero-shot", "digits", shots=1, seeds=1, store="own"),
    "load": lambda: fb.load("own"),
    "registered": registered,
    "listed": listed,
    "packed": packed,
    "drawn": drawn,
    "thread": in_a_thread,
    "program": in_a_program,
}


class Peeking(LinearClassifier):
    def logits(self, queries):
        DOORS[self.door]()
        return super().logits(queries)


@dataclass(frozen=True)
class Peek:
    """Asks for labels."""

    name: ClassVar[str] = "peek"
    door: str = "none"

    def fit(self, task, backbone, ctx):
        when, _, door = self.door.rpartition(" ")
        if not when:
            DOORS[door]()
        classifier = Peeking(backbone.logit_scale * backbone.class_features(task))
        classifier.door = door if when else "none"
        return classifier
'''
DOORS = ("cell", "run", "load", "registered", "listed", "packed", "drawn", "thread", "program")
LATE = ("late cell", "late load", "late listed")
FEW: dict[str, Any] = {"shots": 1, "seeds": 1, "limit": 40, "progress": False}


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("peek") / "peek.py"
    file.write_text(METHOD, encoding="utf-8")
    return f"{file}:Peek"


@pytest.mark.parametrize(
    ("engine", "doors"), [("local", (*DOORS, *LATE)), ("here", ("cell", "late cell"))]
)
def test_no_public_door_hands_labels_to_fit_or_logits(
    method: str, engine: str, doors: tuple[str, ...], tmp_path: Path
) -> None:
    more = {"options": {"door": doors}, "engine": engine, "store": tmp_path}
    with pytest.warns(fb.FsbenchWarning, match="cells failed"):
        failed = fb.run(method, "digits", **more, **FEW)
    assert len(failed) == len(doors)
    for record in failed:
        assert record.error is not None, record.spec.options
        assert "labels of test images" in record.error["message"], record.spec.options


def test_they_are_given_by_hand_and_after_a_run(method: str, tmp_path: Path) -> None:
    (done,) = fb.run(method, "digits", engine="here", store=tmp_path, **FEW)
    assert done.status == "done"
    cell = fb.cell(method, "digits", 1, 1, options={"door": "cell"})
    assert len(cell.labels) == len(cell.queries)
    # By hand, nothing is a result.
    cell.method.fit(*cell)
    assert len(fb.load(tmp_path).predictions(done).labels) == 40
