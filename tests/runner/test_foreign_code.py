"""Code of a foreign method reaches no label, no rival's number and not the process that plans."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.catalog import Catalog
from fewshot_bench.api.plugins import GROUP, OWN, foreign_plugins, is_own
from fewshot_bench.api.record import Record
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import PluginError
from tests.support.helpers import fsbench

RIVALS = "zero-shot,tip-adapter"
FEW = ("-d", "digits", "--shots", "1", "--limit", "40", "--backbone", "tiny")
# A file with a method that is zero-shot, and tricks at its import, in `fit` and in `logits`.
METHOD = """
import os, sys
from dataclasses import dataclass
from typing import ClassVar

with open("FOLDER/imported", "a") as file:
    file.write(f"{os.getpid()} ")
AT_IMPORT

@dataclass(frozen=True)
class Foreign:
    name: ClassVar[str] = "NAME"

    def fit(self, task, backbone, ctx):
        IN_FIT
        return Answers(backbone, task)

class Answers:
    def __init__(self, backbone, task):
        self.backbone = backbone
        self.weights = backbone.class_features(task)

    def logits(self, queries):
        return self.backbone.logit_scale * queries.features @ self.weights.T

    def tensors(self):
        return {"weights": self.weights}

    def __del__(self):
        AT_END
"""
SITE = """
import builtins, sys
open("FOLDER/site", "a").close()
"""
# Replaces functions of the instances through which a worker reads images, features and cells.
REACHING = """
        import gc
        for one in gc.get_objects():
            if type(one).__name__ == "RemoteExaminer":
                one.ask = lambda *_, **__: 1 / 0
            if type(one).__name__ == "FeatureCache":
                one.rows = lambda *_, **__: 1 / 0
"""
FORGING = """
import fewshot_bench.engines.label_process as process
from fewshot_bench.api.catalog import Catalog
from fewshot_bench.api.plugins import GROUP, OWN, foreign_plugins, is_own
from fewshot_bench.api.record import Record
import fewshot_bench.api.metrics as metrics
import fewshot_bench.runner.kit_results as kit
process._collect_facts = lambda cells, *_: {
    cell.key(): {"kit": {"version": 3}, "digest": "", "separate": True} for cell in cells
}
kit.of_record = lambda *_: {"version": 3, "passed": 99, "failed": []}
metrics.measured = lambda *_: {"top1": 100.0}
"""
# Every image gets the features of another one while the harness encodes the queries.
POISON = """
        kind = type(backbone)
        encode = kind.encode_image
        kind.encode_image = lambda self, pixels, **more: encode(self, pixels, **more).flip(0)
"""
LATE = """
with __import__("torch").no_grad():
    [p.zero_() for p in self.backbone.module.parameters()]
"""


def write(
    folder: Path, at_import: str = "", in_fit: str = "", at_end: str = "", name: str = "foreign"
) -> str:
    """Write the file; what `run -m` takes for its method."""
    text = METHOD.replace("NAME", name)
    text = text.replace("AT_IMPORT", at_import).replace("IN_FIT", in_fit.strip() or "pass")
    text = text.replace("AT_END", at_end.strip().replace("\n", "\n        ") or "pass")
    (folder / "foreign.py").write_text(text.replace("FOLDER", str(folder)), encoding="utf-8")
    return f"{folder / 'foreign.py'}:Foreign"


def run(store: Path, methods: str, *words: str) -> dict[str, list[Record]]:
    """Run cells as the command line does, in one worker; the records by method."""
    done = fsbench("run", "-m", methods, *FEW, "--jobs", "1", "--store", store, *words)
    assert done.code in (0, 1), done.err
    found: dict[str, list[Record]] = {}
    for record in sorted(Store(store).records(), key=lambda record: record.spec.split_seed):
        found.setdefault(record.spec.method, []).append(record)
    return found


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    """Records of the rivals alone."""
    return run(tmp_path_factory.mktemp("clean"), RIVALS, "--seeds", "1")


def assert_equal_numbers(records: list[Record], others: list[Record]) -> None:
    """Both have the same metrics, up to the rounding of other batches."""
    for record, other in zip(records, others, strict=True):
        assert record.metrics == pytest.approx(other.metrics, abs=1e-4)
        assert not record.incidents


def test_nothing_of_a_method_file_is_imported_where_cells_are_planned(tmp_path: Path) -> None:
    found = run(tmp_path / "store", f"{write(tmp_path)},zero-shot", "--seeds", "1")
    pids = (tmp_path / "imported").read_text().split()
    assert len(pids) == 2
    assert str(os.getpid()) not in pids
    foreign, zero = found["foreign"][0], found["zero-shot"][0]
    assert foreign.metrics == pytest.approx(zero.metrics, abs=1e-4)
    assert foreign.environment["labels"] == zero.environment["labels"] == "separate"


def test_a_variable_that_a_file_sets_reaches_no_other_process(
    tmp_path: Path, clean: dict[str, list[Record]]
) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    site = SITE.replace("FOLDER", str(tmp_path))
    (evil / "sitecustomize.py").write_text(site, encoding="utf-8")
    setting = f"os.environ['PYTHONPATH'] = {str(evil)!r}"
    found = run(tmp_path / "store", f"{write(tmp_path, setting)},{RIVALS}", "--seeds", "1")
    assert not (tmp_path / "site").exists()
    for name in RIVALS.split(","):
        assert_equal_numbers(found[name], clean[name])
    assert_equal_numbers(found["foreign"], clean["zero-shot"])


def test_the_variables_of_the_user_run_no_code_in_the_label_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import os, sys\nopen(f'FOLDER/{os.getpid()}', 'w').write(' '.join(sys.orig_argv))\n"
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(text.replace("FOLDER", str(tmp_path)), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    run(tmp_path / "store", "zero-shot", "--seeds", "1")
    started = [path.read_text() for path in tmp_path.iterdir() if path.is_file()]
    assert not [command for command in started if "label_process" in command]


@pytest.mark.parametrize(
    "tricks", [{"in_fit": REACHING}, {"at_import": FORGING}], ids=["instances", "facts"]
)
def test_what_a_method_replaces_changes_no_rival(
    tmp_path: Path, clean: dict[str, list[Record]], tricks: Any
) -> None:
    name = write(tmp_path, **tricks)
    # Its cells come first on the command line, and all cells run in one slot.
    found = run(tmp_path / "store", f"{name},{RIVALS}", "--seeds", "1")
    for rival in RIVALS.split(","):
        assert_equal_numbers(found[rival], clean[rival])
        assert found[rival][0].environment["kit"] is None
    (own,) = found["foreign"]
    assert own.status == "failed" or own.metrics == pytest.approx(
        clean["zero-shot"][0].metrics, abs=1e-4
    )
    assert own.environment.get("kit") is None


def test_features_that_a_method_falsifies_reach_no_rival(
    tmp_path: Path, clean: dict[str, list[Record]]
) -> None:
    name = write(tmp_path, in_fit=POISON)
    own = run(tmp_path / "store", name, "--seeds", "1")["foreign"][0]
    assert own.metrics["top1"] < clean["zero-shot"][0].metrics["top1"]
    found = run(tmp_path / "store", RIVALS, "--seeds", "1")
    for rival in RIVALS.split(","):
        assert_equal_numbers(found[rival], clean[rival])


@pytest.mark.parametrize("cycle", ["", "self.me = self\n        "])
def test_weights_that_are_changed_after_the_checks_are_blamed_on_their_plug_in(
    tmp_path: Path, clean: dict[str, list[Record]], cycle: str
) -> None:
    name = write(tmp_path, at_end=LATE)
    path = Path(name.rpartition(":")[0])
    path.write_text(path.read_text().replace("self.backbone =", f"{cycle}self.backbone ="))
    found = run(tmp_path / "store", f"{name},{RIVALS}", "--seeds", "1,2")
    for rival in RIVALS.split(","):
        assert_equal_numbers(found[rival][:1], clean[rival])
    told = 0
    for own, zero in zip(found["foreign"], found["zero-shot"], strict=True):
        incidents = [one for one in own.incidents if one["kind"] == "backbone"]
        told += own.status == "failed" or bool(incidents)
        if own.status == "failed":
            assert own.error is not None
            assert "left the backbone changed" in own.error["message"]
        else:
            assert own.metrics == pytest.approx(zero.metrics, abs=1e-4)
    assert told


# Replaces what hands in the result of a cell, in the worker that computes it.
HANDS_IN = """
        import gc
        from fewshot_bench.api.spec import RunSpec
        found = {type(one).__name__: one for one in gc.get_objects()}
        labels, engine = found["RemoteExaminer"], found["_Engine"]
        def ask(operation, body=b"", **values):
            if operation == "settle":
                record = {**values["record"], "metrics": {"top1": 100.0}}
                HAND_IN
            return type(labels).ask(labels, operation, body, **values)
        labels.ask = ask
"""
TO_LABELS = "body, values = b'', {'shape': None, 'record': record}"
UNKNOWN = "values['record'] = {**record, 'status': 'inapplicable'}"
TO_ENGINE = "engine.send('failed', record=record); os._exit(0)"
NOTHING = "engine.send('finished', key=RunSpec.from_dict(record['spec']).key()); os._exit(0)"
NOT_TRUE = "engine.send('idle'); __import__('time').sleep(9)"
ENDING = "engine.send('fatal', message='it is over', exit_code=3); os._exit(0)"


def test_what_a_method_hands_in_by_itself_is_no_result(tmp_path: Path) -> None:
    names = []
    for number, hand_in in enumerate((TO_LABELS, UNKNOWN, TO_ENGINE, NOTHING, NOT_TRUE, ENDING)):
        (tmp_path / str(number)).mkdir()
        in_fit = HANDS_IN.replace("HAND_IN", hand_in)
        names.append(write(tmp_path / str(number), in_fit=in_fit, name=f"foreign-{number}"))
    found = run(tmp_path / "store", ",".join(names), "--seeds", "1")
    results = [(record.status, record.metrics) for (record,) in found.values()]
    assert results == [("failed", {})] * len(names)


def test_lines_in_the_channel_to_the_engine_that_are_no_events_are_passed_over(
    tmp_path: Path, clean: dict[str, list[Record]]
) -> None:
    sent = "engine.send('progress'); engine.send('failed', record=[]); engine.send('fatal')"
    name = write(tmp_path, in_fit=HANDS_IN.replace("HAND_IN", sent))
    found = run(tmp_path / "store", name, "--seeds", "1")
    assert_equal_numbers(found["foreign"], clean["zero-shot"])


def test_lines_in_the_channel_to_the_command_are_blamed_on_their_file(tmp_path: Path) -> None:
    writing = "for n in range(3, 20):\n    try: os.write(n, b'{\"value\": 1}\\n')\n"
    name = write(tmp_path, writing + "    except OSError: pass")
    done = fsbench("run", "-m", name, *FEW, "--seeds", "1", "--store", tmp_path / "store")
    assert done.code == 2
    assert "foreign.py' wrote into the channel to fsbench" in done.err


def test_no_plug_in_registers_the_class_of_a_file_that_is_not_its_own() -> None:
    with pytest.raises(PluginError, match="names a class in a file"):
        Catalog("method", "methods").register("rival.py:Rival", "evil:Evil")


@pytest.mark.parametrize("name", [OWN, f"{OWN}:fake"])
def test_metadata_that_state_our_name_are_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "fake-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (folder / "entry_points.txt").write_text(f"[{GROUP}]\nbuiltin_fake = fake\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (found,) = (one for one in foreign_plugins() if one.name == "builtin_fake")
    assert not is_own(found.full_name)
