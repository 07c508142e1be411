"""The Slurm engine on two real nodes with fake GPUs, one of which dies."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fewshot_bench.record import Record
from tests.clusters import DEMO, local, require, results, run_and_kill, same_as
from tests.helpers import fsbench, start, wait_until
from tests.slurm_cluster import SlurmCluster, missing

__all__ = ["local"]
SLURM = ("--engine", "slurm", "--devices", "cpu", "--gpus", "1", "--time", "10", "--array", "2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """Two nodes."""
    require(missing())
    started = SlurmCluster.somewhere()
    yield started
    started.stop()
    shutil.rmtree(started.folder.parent, ignore_errors=True)


@pytest.mark.slow
def test_a_node_is_killed(cluster: SlurmCluster, local: dict[str, Record], tmp_path: Path) -> None:
    arguments = (*DEMO, *SLURM, "--partition", "debug", "--lease", "5", "--store", tmp_path)
    run_and_kill(arguments, tmp_path, lambda: cluster.kill_node("n2"), cluster.environment)
    same_as(local, tmp_path)
    (job,) = (tmp_path / "jobs").iterdir()
    assert (job / "job.sh").read_text().startswith("#!/bin/sh\n#SBATCH --job-name=fsbench-")
    assert any(path.name.startswith("worker-") for path in job.iterdir())


@pytest.mark.slow
def test_a_parent_that_is_gone_and_one_that_is_stopped(
    cluster: SlurmCluster, methods: object, tmp_path: Path
) -> None:
    matrix = ("--dataset", "digits", "--shots", "1", "--seeds", "1-12", "--limit", "20")
    slow = ("run", "--method", "slow", "-o", "seconds=1", *matrix, "--store", tmp_path, *SLURM)
    environment = dict(os.environ) | cluster.environment
    first = start(*slow, env=environment)
    wait_until(lambda: len(results(tmp_path)) >= 1, 90)
    first.kill()
    first.communicate()
    jobs = [path.name for path in (tmp_path / "jobs").iterdir()]
    queued = cluster.ask("squeue", "-h", "-o", "%j").split()
    assert f"fsbench-{jobs[0]}" in queued
    second = start(*slow, env=environment)
    assert second.stdout is not None
    lines = [second.stdout.readline() for _ in range(2)]
    assert lines[1].startswith("[1/"), lines
    # It goes on with the workers that are there.
    assert set(cluster.ask("squeue", "-h", "-o", "%j").split()) <= set(queued)
    second.send_signal(signal.SIGINT)
    out, err = second.communicate(timeout=30)
    assert second.returncode == 130, (out, err)
    assert "run the same command again to continue" in err
    wait_until(lambda: not cluster.ask("squeue", "-h", "-o", "%j").split(), 30)
    third = start(*slow, env=environment)
    out, err = third.communicate(timeout=120)
    assert third.returncode == 0, (out, err)
    assert len(results(tmp_path)) == 12


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


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--partition", "gpu\n#SBATCH --wrap=id"),
        ("--partition", "a b"),
        ("--account", "$(id)"),
        ("--qos", "x;id"),
        ("--time", "soon"),
        ("--sbatch", "id"),
        ("--sbatch", "--comment=`id`"),
        ("--constraint", "a'b"),
    ],
)
def test_nothing_gets_into_the_script(option: str, value: str, tmp_path: Path) -> None:
    done = fsbench(*DEMO, *SLURM, option, value, "--store", tmp_path / "s", "--dry-run")
    assert (done.code, option in done.err) == (2, True), done


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = fsbench(*DEMO, *SLURM, "--store", tmp_path / "s")
    assert done.code == 1
    assert "'sbatch' is not installed here" in done.err


def test_options_of_another_engine(tmp_path: Path) -> None:
    done = fsbench(*DEMO, "--partition", "gpu", "--store", tmp_path)
    assert (done.code, "--partition is an option of --engine slurm" in done.err) == (2, True)
    done = fsbench(*DEMO, "--engine", "slrum", "--store", tmp_path)
    assert (done.code, "did you mean 'slurm'" in done.err) == (2, True)


def test_a_job_that_is_not_there(tmp_path: Path) -> None:
    done = fsbench("worker", "--store", tmp_path, "--job", "20260101-000000-abcdef")
    assert (done.code, "no job" in done.err) == (1, True)
    done = fsbench("worker", "--store", tmp_path, "--job", "../../etc")
    assert (done.code, "no name of a job" in done.err) == (1, True)
