"""The Slurm engine on two real nodes with fake GPUs, one of which dies."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines import distributed as cluster_engine
from fewshot_bench.engines.base import EngineError, EngineSetup, Settings, StoreSnapshot, lost
from fewshot_bench.engines.distributed import DistributedEngine, Job
from fewshot_bench.plugins.cluster import slurm
from fewshot_bench.plugins.cluster.slurm import Slurm
from fewshot_bench.store.store import Store
from tests.support.clusters import DEMO, TRACK, require, results, run_and_kill, same_as, tracked
from tests.support.helpers import PATIENCE, cells, fsbench, start, wait_until
from tests.support.slurm_cluster import SlurmCluster, missing

SLURM = ("--engine", "slurm", "--device", "cpu", "--gpus", "1", "--time", "10", "--array", "2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """A cluster of two nodes."""
    require(missing())
    started = SlurmCluster.somewhere()
    yield started
    started.stop()
    shutil.rmtree(started.folder.parent, ignore_errors=True)


@pytest.mark.slow
def test_a_node_is_killed(cluster: SlurmCluster, local: dict[str, Record], tmp_path: Path) -> None:
    arguments = (*DEMO, *TRACK, *SLURM, "--partition", "debug", "--lease", "5", "--store", tmp_path)
    run_and_kill(arguments, tmp_path, lambda: cluster.kill_node("n2"), cluster.environment)
    same_as(local, tmp_path)
    tracked(tmp_path)
    (job,) = (tmp_path / "jobs").iterdir()
    assert (job / "job.sh").read_text().startswith("#!/bin/sh\n#SBATCH --job-name=fsbench-")
    assert any(path.name.startswith("worker-") for path in job.iterdir())


@pytest.mark.slow
def test_a_parent_that_is_gone_and_one_that_is_stopped(
    cluster: SlurmCluster, methods: object, tmp_path: Path
) -> None:
    matrix = ("--dataset", "digits", "--shots", "1", "--seeds", "1-4", "--limit", "20")
    store, ending = tmp_path / "store", tmp_path / "ending"
    # A claim of a worker that was killed lasts as long as the lease.
    slow = ("run", "-m", "slow", "-o", "seconds=0", *matrix, "--store", store, *SLURM)
    slow += ("--lease", "8", "--array", "1")
    gates = {"FSBENCH_TEST_FITS": str(tmp_path / "fits"), "FSBENCH_TEST_ENDING": str(ending)}
    environment = dict(os.environ) | cluster.environment | gates
    ending.write_text("1")
    first = start(*slow, env=environment)
    wait_until(lambda: len(results(store)) >= 1)
    first.kill()
    first.communicate()
    jobs = [path.name for path in (store / "jobs").iterdir()]
    queued = cluster.ask("squeue", "-h", "-o", "%j").split()
    assert f"fsbench-{jobs[0]}" in queued
    second = start(*slow, env=environment)
    assert second.stdout is not None
    lines = [second.stdout.readline()]
    while lines[-1] and not lines[-1].startswith("["):
        if lines[-1].startswith("4 cells: "):
            assert "1 done already" in lines[-1]
            ending.write_text("2")
        lines.append(second.stdout.readline())
    assert lines[-1].startswith("[1/"), lines
    # The run continues with the existing workers.
    assert set(cluster.ask("squeue", "-h", "-o", "%j").split()) <= set(queued)
    second.send_signal(signal.SIGINT)
    out, err = second.communicate(timeout=PATIENCE)
    assert second.returncode == 130, (out, err)
    assert "run the same command again to continue" in err
    wait_until(lambda: not cluster.ask("squeue", "-h", "-o", "%j").split())
    ending.write_text("1000")
    third = start(*slow, env=environment)
    out, err = third.communicate(timeout=PATIENCE)
    assert third.returncode == 0, (out, err)
    assert len(results(store)) == 4


FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >> "$FAKE/calls"
case "$(basename "$0")" in
  sbatch) echo 7;;
  squeue) if [ -e "$FAKE/fails" ]; then echo "Unable to contact slurm controller" >&2; exit 1; fi
          echo "RUNNING|None";;
esac
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fake Slurm commands that run nothing; they fail while a file `fails` exists."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(cluster_engine, "POLL_SECONDS", 0.05)
    return folder


def follow(
    store: Path, specs: list[RunSpec], directives: Sequence[str], told: Callable[[str], None]
) -> list[Record]:
    """Run cells through Slurm; `told` receives messages about its jobs."""
    opened = Store(store)
    opened.create()
    setup = EngineSetup(opened, say=told)
    with DistributedEngine(setup, Slurm(opened, directives)) as engine:
        return list(engine.run(specs, lambda *_: None))


def test_the_controller_is_away_for_a_while(fake: Path, tmp_path: Path) -> None:
    (cell,), store = cells("zero-shot"), Store(tmp_path / "s")
    (fake / "fails").touch()

    def told(text: str) -> None:
        if "not known" in text:
            (fake / "fails").unlink()
        else:
            store.write(lost(cell, "elsewhere"))

    (record,) = follow(store.path, [cell], [], told)
    assert record.spec == cell
    calls = (fake / "calls").read_text()
    assert calls.count("sbatch") == calls.count("scancel") == 1


def test_the_controller_is_gone(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.3)
    (fake / "fails").touch()
    with pytest.raises(EngineError, match="the same command again follows it"):
        follow(tmp_path / "s", cells("zero-shot"), [], lambda text: None)
    # Workers that cannot be observed may still be running.
    assert "scancel" not in (fake / "calls").read_text()


@pytest.mark.parametrize("partition", ["", "short", "short,long"])
def test_a_job_that_would_wait_without_end(fake: Path, tmp_path: Path, partition: str) -> None:
    """More time than the partition allows: the controller accepts it and never starts it."""
    (cell,), store = cells("zero-shot"), Store(tmp_path / "s")
    answer = '#!/bin/sh\necho "PENDING|PartitionTimeLimit"\n'
    (fake / "squeue").write_text(answer)

    def told(text: str) -> None:
        store.write(lost(cell, "elsewhere"))

    if "," in partition:
        # The reason is that of one of them.
        follow(store.path, [cell], [f"--partition={partition}"] * bool(partition), told)
        return
    with pytest.raises(EngineError, match=r"without end \(PartitionTimeLimit\) and was cancelled"):
        follow(store.path, [cell], [f"--partition={partition}"] * bool(partition), told)
    assert "scancel 7" in (fake / "calls").read_text()


@pytest.mark.parametrize("other", ["", "alive", "partition"])
def test_whose_workers_are_gone_on_with(fake: Path, tmp_path: Path, other: str) -> None:
    (cell,), store = cells("zero-shot"), Store(tmp_path / "s")
    store.create()
    job = Job.create(StoreSnapshot.of(store, [cell]), [cell], Settings())
    Slurm(store).start(job, 1)
    if other != "alive":
        job.leave()

    def told(text: str) -> None:
        store.write(lost(cell, "elsewhere"))

    follow(store.path, [cell], ["--partition=gpu"] if other == "partition" else [], told)
    assert (fake / "calls").read_text().count("sbatch") == (2 if other else 1)
    assert (store.path / "jobs" / job.name).is_dir()
    assert len(list((store.path / "jobs").iterdir())) == (2 if other else 1)


def test_the_script_is_shown(tmp_path: Path) -> None:
    asked = ("--partition", "gpu", "--mem", "32G", "--sbatch", "--nice=10")
    done = fsbench(*DEMO, *SLURM, *asked, "--store", tmp_path, "--dry-run")
    assert done.code == 0, done
    for line in (
        "#SBATCH --array=0-1",
        "#SBATCH --gpus=1",
        "#SBATCH --time=10",
        "#SBATCH --mem=32G",
        "#SBATCH --nice=10",
        "#SBATCH --requeue",
    ):
        assert line in done.out.splitlines()
    assert not list(tmp_path.iterdir())


PRICED = ("run", "-m", "clip-lora,coop,zero-shot", "-d", "digits", "--shots", "4")
ON_CARDS = ("--engine", "slurm", "--gpus", "1", "--precision", "bf16")


def dry(folder: Path, *words: str) -> tuple[float, list[str]]:
    """Hours that a dry run states, and the lines of its script that ask for cores."""
    backbone = ("--backbone", "ViT-B-16/openai")
    done = fsbench(*PRICED, *backbone, *ON_CARDS, *words, "--store", folder / "none", "--dry-run")
    assert done.code == 0, done
    (said,) = re.findall(r"time: about (.+?) in (\d+) worker", done.out)
    assert int(said[1]) == int(dict(itertools.pairwise(words)).get("--array", 1))
    units = {"h": 1.0, "min": 1 / 60, "s": 1 / 3600}
    hours = sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+) ?(h|min|s)", said[0]))
    return hours, [line for line in done.out.splitlines() if "--cpus-per" in line]


def test_a_dry_run_prices_the_workers_and_their_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, (asked,) = dry(tmp_path)
    cores = int(asked.removeprefix("#SBATCH --cpus-per-task="))
    assert 1 < cores <= 8
    # Cards wait for one core each, and for no more than are asked for.
    assert dry(tmp_path, "--cpus", "1")[0] > 1.2 * alone
    assert dry(tmp_path, "--cpus", "64")[0] == alone
    assert dry(tmp_path, "--array", "4")[0] == pytest.approx(alone / 4, rel=0.1)
    # The cores of the machine that submits say nothing.
    monkeypatch.setattr(os, "cpu_count", lambda: 500)
    assert dry(tmp_path) == (alone, [asked])
    assert dry(tmp_path, "--cpus", "3")[1] == ["#SBATCH --cpus-per-task=3"]
    for own in ("--cpus-per-task=5", "--cpus-per-gpu=6"):
        assert dry(tmp_path, "--sbatch", own)[1] == [f"#SBATCH {own}"]


def test_a_worker_without_a_card_has_a_core_per_thread(tmp_path: Path) -> None:
    words = (*DEMO, "--engine", "slurm", "--store", tmp_path / "s", "--dry-run")
    done = fsbench(*words, "--threads", "3", "--jobs", "2")
    assert "#SBATCH --cpus-per-task=6" in done.out.splitlines(), done


def test_nothing_gets_into_the_script(tmp_path: Path) -> None:
    for option, value in (
        ("--partition", "gpu\n#SBATCH --wrap=id"),
        ("--partition", "a b"),
        ("--account", "$(id)"),
        ("--qos", "x;id"),
        ("--time", "soon"),
        # A worker would stop as soon as it starts.
        ("--time", "1"),
        ("--time", "0:45"),
        ("--sbatch", "id"),
        ("--sbatch", "--comment=`id`"),
        ("--constraint", "a'b"),
    ):
        done = fsbench(*DEMO, *SLURM, option, value, "--store", tmp_path / "s", "--dry-run")
        assert (done.code, option in done.err) == (2, True), done


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = fsbench(*DEMO, *SLURM, "--store", tmp_path / "s")
    assert done.code == 1
    assert "'sbatch' is not installed here" in done.err
    assert left_behind(tmp_path / "s") == []


def left_behind(store: Path) -> list[str]:
    """Remaining jobs and claims in a store, and their folders."""
    return [path.name for name in ("jobs", "claims") for path in store.glob(f"{name}*/**")]


def test_a_refused_submission_leaves_nothing_behind(fake: Path, tmp_path: Path) -> None:
    for answer in ("echo 'invalid partition' >&2; exit 1", "echo what"):
        (fake / "sbatch").write_text(f"#!/bin/sh\n{answer}\n")
        with pytest.raises(EngineError, match=r"invalid partition|answered 'what'"):
            follow(tmp_path / "s", cells("zero-shot"), [], lambda text: None)
        assert left_behind(tmp_path / "s") == []


@pytest.mark.parametrize("name", ["slurm.txt", "job.sh", "job.json"])
def test_files_of_an_earlier_job_that_cannot_be_read_are_left_alone(
    fake: Path, tmp_path: Path, name: str
) -> None:
    (cell,), store = cells("zero-shot"), Store(tmp_path / "s")
    store.create()
    job = Job.create(StoreSnapshot.of(store, [cell]), [cell], Settings())
    Slurm(store).start(job, 1)
    job.leave()
    (job.folder / name).write_bytes(b"\xff\xfe")
    follow(store.path, [cell], [], lambda text: store.write(lost(cell, "elsewhere")))
    assert (fake / "calls").read_text().count("sbatch") == 2


def test_a_refused_submission_leaves_other_jobs_alone(fake: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.create()
    other = Job.create(StoreSnapshot.of(store, []), cells("coop"), Settings())
    (fake / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(EngineError, match="sbatch failed"):
        follow(store.path, cells("zero-shot"), [], lambda text: None)
    assert [path.name for path in (store.path / "jobs").iterdir()] == [other.name]
    assert [path.name for path in (store.path / "claims").iterdir()] == [f"job-{other.name}.1"]


def test_a_job_that_is_not_there(tmp_path: Path) -> None:
    done = fsbench("worker", "--store", tmp_path, "--job", "20260101-000000-abcdef")
    assert (done.code, "no job" in done.err) == (1, True)
    done = fsbench("worker", "--store", tmp_path, "--job", "../../etc")
    assert (done.code, "no name of a job" in done.err) == (1, True)
