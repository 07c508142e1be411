"""Trackers: the data they receive, no network access, and no effect on results."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.trackers import plugin as trackers
from fewshot_bench.plugins.trackers.backends import contents
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError
from tests.support.compare_records import inapplicable, make
from tests.support.helpers import PATIENCE, command, environment, fsbench
from tests.support.tracking import told

RUN = ("--dataset", "digits", "--shots", "1", "--seeds", "1", "--limit", "20", "--jobs", "1")


def record(top1: float | None = 50.0) -> Record:
    made = make("coop", top1=top1, options={"lr": 0.1, "init": None}, overrides={"lr": 0.1})
    return dataclasses.replace(made, environment={"weights_digest": "ab", "commit": "c" * 40})


def test_contents_are_all_that_one_looks_for() -> None:
    cell = contents(record())
    assert cell.parameters["option.lr"] == 0.1
    assert cell.parameters["option.init"] == "none"
    assert cell.parameters["dataset"] == "dtd"
    assert cell.metrics["top1"] == 50.0
    assert cell.metrics["time.billed_seconds"] == 2.0
    assert cell.metrics["footprint.trained"] == 184320
    assert cell.tags["signature"].startswith("fsbench:1|m:coop@1[lr=0.1]|b:test#ab|d:dtd|k:1|s:1|")
    assert cell.tags["split_digest"] == "dtd-1-1"
    assert cell.tags["status"] == "done"
    failed = contents(record(None))
    assert (failed.tags["error_type"], failed.tags["error_message"]) == ("RuntimeError", "m")
    assert contents(inapplicable("coop")).tags["status"] == "inapplicable"
    odd = dataclasses.replace(record(), metrics={"top1": float("nan"), "n": True, "x": "text"})
    assert not {"top1", "n", "x"} & set(contents(odd).metrics)


def test_tensorboard_shows_scalars_by_shots(
    tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # The second entry replaces the first.
    told(monkeypatch, "tensorboard", record(10.0), record(), record(None))
    (place,) = (tracking / "tensorboard").glob("*/*")
    assert place.parent.name == "coop_lr=0.1"
    told(monkeypatch, "tensorboard", record())
    events = EventAccumulator(str(place)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("top1")] == [(1, 50.0)]
    assert "fsbench:1|m:coop" in str(events.Tensors("record/text_summary")[0].tensor_proto)
    assert "_hparams_/experiment" in events.summary_metadata


CURVES = {"loss": {"steps": [1, 3, 9], "values": [3.0, 2.0, 1.0]}}
LIVE: Sequence[tuple[Sequence[tuple[int, dict[str, float]]], ...]] = (
    # Nothing live; all but the last one, and one that is thinned out later; a second try.
    (),
    ([(1, {"loss": 3.0}), (2, {"loss": 2.5})], [(3, {"loss": 2.0})]),
    ([(1, {"loss": 7.0}), (4, {"loss": 6.0})], [(1, {"loss": 3.0})]),
)


STEPS = ([1, 3, 9], [1, 2, 3, 9], [1, 3, 9])


@pytest.mark.parametrize(("live", "steps"), [*zip(LIVE, STEPS, strict=True)])
def test_curves_are_written_live_and_completed_by_the_record(
    live: Any, steps: list[int], tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    mlflow = pytest.importorskip("mlflow")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read() -> list[tuple[int, float]]:
        (place,) = (tracking / "tensorboard").glob("*/*")
        events = EventAccumulator(str(place)).Reload()
        return [(event.step, event.value) for event in events.Scalars("fit/loss")]

    made = dataclasses.replace(record(), curves=CURVES)
    monkeypatch.setenv(trackers.VARIABLE, "tensorboard,mlflow")
    for points in live:
        registry().hooks.points_logged(spec=made.spec, points=points)
        assert read()[-len(points) :] == [(step, values["loss"]) for step, values in points]
    told(monkeypatch, "tensorboard,mlflow", made)
    assert trackers.list_problems() == []
    assert [step for step, _ in read()] == steps
    assert {*zip(CURVES["loss"]["steps"], CURVES["loss"]["values"], strict=True)} <= {*read()}
    client = mlflow.MlflowClient((tracking / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("fewshot-bench").experiment_id])
    history = client.get_metric_history(run.info.run_id, "fit/loss")
    assert [(point.step, point.value) for point in history] == read()
    assert run.info.status == "FINISHED"


def test_a_tracker_that_fails_live_has_the_curve_in_the_end(
    tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    tracking.mkdir()
    (tracking / "tensorboard").write_text("in the way")
    made = dataclasses.replace(record(), curves=CURVES)
    monkeypatch.setenv(trackers.VARIABLE, "tensorboard")
    for step in (1, 2):
        registry().hooks.points_logged(spec=made.spec, points=[(step, {"loss": 3.0})])
    assert trackers.list_problems() == []
    (tracking / "tensorboard").unlink()
    told(monkeypatch, "tensorboard", made)
    assert list((tracking / "tensorboard").glob("*/*/events*"))


def test_a_fit_is_followed_from_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv(trackers.FOLDER_VARIABLE, raising=False)
    words = ("-m", "clip-adapter", "-o", "epochs=5", *RUN, "--store", tmp_path)
    done = fsbench("run", *words, "--track", "tensorboard")
    assert done.code == 0, done.err
    (found,) = Store(tmp_path).records()
    assert {*found.curves} >= {"loss", "rate"}
    (place,) = (tmp_path / "tracking" / "tensorboard").glob("*/*")
    assert place.name.startswith("clip-adapter_epochs=5_digits_1-shot_seed-1_")
    events = EventAccumulator(str(place)).Reload()
    for name, series in found.curves.items():
        values = [event.value for event in events.Scalars(f"fit/{name}")]
        assert values == pytest.approx(series["values"])


def test_mlflow_keeps_runs_in_files(tracking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    told(monkeypatch, "mlflow", record(), record(None))
    assert trackers.list_problems() == []
    client = mlflow.MlflowClient((tracking / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("fewshot-bench")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED", "FAILED"}
    done = next(run for run in runs if run.info.status == "FINISHED")
    assert done.data.metrics["top1"] == 50.0
    assert done.data.params["option.lr"] == "0.1"
    assert done.data.tags["split_digest"] == "dtd-1-1"


@pytest.mark.slow
def test_wandb_stays_on_this_machine(tracking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("FSBENCH_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "online")
    live = record()
    monkeypatch.setenv(trackers.VARIABLE, "wandb")
    registry().hooks.points_logged(spec=live.spec, points=[(1, {"loss": 3.0})])
    told(monkeypatch, "wandb", live, record(None))
    assert trackers.list_problems() == []
    runs = sorted((tracking / "wandb" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 2
    assert any(b"billed_seconds" in run.read_bytes() for run in runs)
    assert sum(b"fit/loss" in run.read_bytes() for run in runs) == 1


def test_one_that_fails_is_noted_and_stops_no_other(
    tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    tracking.mkdir()
    (tracking / "mlflow").write_text("in the way")
    told(monkeypatch, "mlflow,tensorboard", record())
    (line,) = trackers.list_problems()
    assert line.startswith("mlflow: FileExistsError")
    assert record().spec.key()[:12] in line
    assert list((tracking / "tensorboard").glob("*/*"))


@pytest.mark.parametrize(
    ("variables", "words", "said"),
    [
        ({}, ["--track", "tensorbord"], "error: unknown tracker 'tensorbord': did you mean"),
        ({"FSBENCH_TRACK": "nothing"}, [], "error: unknown tracker 'nothing'"),
        ({}, ["--track", "wandb"], "pip install 'fewshot-bench[wandb]'"),
        (
            {"FSBENCH_OFFLINE": "1", "MLFLOW_TRACKING_URI": "http://me:secret@other:5000"},
            ["--track", "mlflow"],
            "MLFLOW_TRACKING_URI names another machine (other), and --offline",
        ),
        (
            {"FSBENCH_OFFLINE": "1", "MLFLOW_TRACKING_URI": "databricks"},
            ["--track", "mlflow"],
            "MLFLOW_TRACKING_URI names another machine (Databricks), and --offline",
        ),
        (
            {"WANDB_MODE": "ofline"},
            ["--track", "wandb"],
            "unknown WANDB_MODE 'ofline': did you mean 'offline'? (unset it for offline)",
        ),
        (
            {"WANDB_MODE": "online"},
            ["--track", "wandb"],
            "WANDB_MODE=online needs a key of Weights & Biases, and there is none: run 'wandb ",
        ),
        (
            {"FSBENCH_TRACK_DIR": f"{__file__}/tracking"},
            ["--track", "tensorboard"],
            "is not a folder; name another folder with FSBENCH_TRACK_DIR",
        ),
    ],
)
def test_what_cannot_be_tracked_is_said_before_anything_runs(
    variables: dict[str, str],
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # W&B is not installed, but there is a folder with its name, as W&B creates it.
    wandb = "__init__.py" if "WANDB_MODE" in variables else None
    found = (("mlflow", "__init__.py"), ("tensorboard", "__init__.py"), ("wandb", wandb))
    installed = {name: ModuleSpec(name, None, origin=origin) for name, origin in found}
    monkeypatch.setattr(trackers, "find_spec", lambda name: installed.get(name))
    monkeypatch.setenv(trackers.VARIABLE, "")
    # Enforcing offline mode cannot be undone, and other tests of this process use servers.
    monkeypatch.setattr("fewshot_bench.utils.offline.enforce", lambda: None)
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, value)
    shown = fsbench("run", "-m", "zero-shot", *RUN, "--store", tmp_path / "store", *words)
    assert shown.code == 2
    assert said in shown.err
    assert not (tmp_path / "store").exists()


def test_a_key_of_wandb_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: ModuleSpec(name, None, origin="x.py"))
    monkeypatch.delenv("FSBENCH_OFFLINE", raising=False)
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UsageError, match="needs a key"):
        trackers.check(["wandb"], tmp_path)
    netrc, settings = tmp_path / "mine", tmp_path / ".config/wandb/settings"
    netrc.write_text("machine api.wandb.ai\n  login user\n  password 0123\n")
    for name, value in (("WANDB_API_KEY", "0123"), ("NETRC", str(netrc))):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert trackers.check(["wandb"], tmp_path)["WANDB_MODE"] == "online"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\napi_key = 0123\n")
    assert trackers.check(["wandb"], tmp_path)["WANDB_MODE"] == "online"


@pytest.mark.slow
def test_all_cells_are_tracked_from_workers_and_offline(tmp_path: Path) -> None:
    for name in trackers.NAMES:
        pytest.importorskip(name)
    names = environment(FSBENCH_TRACK=",".join(trackers.NAMES))
    for name in ("WANDB_MODE", "FSBENCH_TRACK_DIR"):
        names.pop(name, None)
    run = command("--offline", "run", "-m", "zero-shot", *RUN, "--store", tmp_path)
    done = subprocess.run(run, env=names, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "not tracked" not in done.stderr
    tracked = tmp_path / "tracking"
    for files in ("tensorboard/*/*", "wandb/wandb/offline-run-*", "mlflow/*/*/metrics"):
        assert len(list(tracked.glob(files))) == 1, files


def test_a_tracker_that_fails_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.delenv("FSBENCH_TRACK_DIR", raising=False)
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "tensorboard").write_text("in the way")
    done = fsbench("run", "-m", "zero-shot", *RUN, "--store", tmp_path, "--track", "tensorboard")
    assert done.code == 0, done.err
    assert "warning: 1 cell was not tracked: tensorboard: FileExistsError" in done.err
    assert {record.status for record in Store(tmp_path).records()} == {"done"}


def test_jobs_on_other_machines_know_the_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewshot_bench.engines.asking import ChosenEngine, hook_environment, read_request
    from fewshot_bench.engines.base import Settings, StoreSnapshot
    from fewshot_bench.engines.distributed import Job

    store = Store(tmp_path)
    store.create()
    monkeypatch.setattr(trackers, "find_spec", lambda name: ModuleSpec(name, None, origin="x"))
    request = read_request({"methods": (), "datasets": ()}, {"track": "tensorboard,mlflow"})
    variables = ChosenEngine(request).worker_environment(store.path)
    job = Job.create(StoreSnapshot.of(store, []), [], Settings(variables=variables))
    again = Job.read(store, job.name).settings
    assert again == job.settings
    assert (
        again.variables["fewshot-bench:builtin_trackers"][trackers.VARIABLE] == "tensorboard,mlflow"
    )
    monkeypatch.setenv(trackers.FOLDER_VARIABLE, "")
    with hook_environment(store.path, again.variables):
        assert trackers.list_enabled() == ("tensorboard", "mlflow")
        assert trackers.folder_of_trackers() == tmp_path / "tracking"
    assert trackers.list_enabled() == ()


def test_workers_know_the_folder_and_the_servers_of_the_command(
    tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: ModuleSpec(name, None, origin="x"))
    monkeypatch.chdir(tracking.parent)
    given = {"WANDB_PROJECT": "mine", trackers.MLFLOW_VARIABLE: "http://other:5000"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(trackers.FOLDER_VARIABLE, "tracking")
    variables = trackers.check(("mlflow", "wandb"), tracking / "store")
    assert variables == given | {
        trackers.VARIABLE: "mlflow,wandb",
        trackers.FOLDER_VARIABLE: str(tracking),
    }
    monkeypatch.setenv(trackers.MLFLOW_VARIABLE, "http://me:secret@other:5000")
    assert "secret" not in str(trackers.check(("mlflow",), tracking / "store"))
    assert trackers.check((), tracking / "store") == {}


def test_a_database_in_a_file_is_no_other_machine(
    tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: ModuleSpec(name, None, origin="x"))
    monkeypatch.setenv("FSBENCH_OFFLINE", "1")
    for address in ("sqlite:///runs.db", "file:///runs", "/runs"):
        monkeypatch.setenv(trackers.MLFLOW_VARIABLE, address)
        variables = trackers.check(("mlflow",), tracking / "store")
        assert variables[trackers.MLFLOW_VARIABLE] == address


def test_options_named_by_greek_letters_are_tracked(
    tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    told(monkeypatch, "mlflow", make("coop", options={"α": 1.0, "β": 5.5}))
    assert trackers.list_problems() == []
    client = mlflow.MlflowClient((tracking / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("fewshot-bench")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.data.params["option.α"], run.data.params["option.β"]) == ("1.0", "5.5")


def test_a_server_of_wandb_that_does_not_answer_is_not_waited_for(
    tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def init(**values: Any) -> None:
        asked.append((values["mode"], os.environ["WANDB_INIT_TIMEOUT"]))
        raise OSError("no answer")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))
    for name in ("WANDB_INIT_TIMEOUT", "WANDB_ERROR_REPORTING"):
        # So that what the tracker sets is removed after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for mode in ("online", ""):
        monkeypatch.setenv("WANDB_MODE", mode)
        told(monkeypatch, "wandb", record())
    assert asked == [("online", "15"), ("offline", "15")]
    assert [line[:24] for line in trackers.list_problems()] == ["wandb: OSError: no answe"] * 2
