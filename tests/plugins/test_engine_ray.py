"""The Ray engine on a local cluster of two nodes, one of which dies."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.record import Record
from tests.support.clusters import DEMO, TRACK, require, run_and_kill, same_as, tracked
from tests.support.helpers import fsbench


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with one core each."""
    require("" if find_spec("ray") else "not installed: ray")
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        started = Cluster(initialize_head=True, head_node_args=options)
        started.doomed = started.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        yield started
        started.shutdown()


@pytest.mark.slow
def test_a_node_is_killed(cluster: Any, local: dict[str, Record], tmp_path: Path) -> None:
    ray = ("--engine", "ray", "--ray-address", cluster.address, "--array", "2", "--lease", "5")

    def kill() -> None:
        cluster.remove_node(cluster.doomed, allow_graceful=False)

    run_and_kill((*DEMO, *TRACK, *ray, "--device", "cpu", "--store", tmp_path), tmp_path, kill, {})
    same_as(local, tmp_path)
    tracked(tmp_path)


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    require("" if find_spec("ray") else "not installed: ray")
    done = fsbench(
        *(*DEMO, "--engine", "ray", "--ray-address", "127.0.0.1:1", "--store", tmp_path),
        *("--device", "cpu"),
    )
    assert done.code == 1
    assert "cannot reach Ray at 127.0.0.1:1" in done.err


def test_gpus_are_a_number(tmp_path: Path) -> None:
    for value, expected in (("a100:1", "a number"), ("-1", "at least 0"), ("nan", "at least 0")):
        done = fsbench(*DEMO, "--engine", "ray", "--gpus", value, "--store", tmp_path)
        assert (done.code, f"--gpus '{value}': expected {expected}" in done.err) == (2, True), done
