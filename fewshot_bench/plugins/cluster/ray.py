"""The engine `ray`: actors that claim cells, each with a worker process that keeps its backbone.

Needs `pip install 'fewshot-bench[ray]'`, and a store that every node sees.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot_bench.engines.base import EngineError, EngineSetup
from fewshot_bench.engines.distributed import DistributedEngine, Job, State, System
from fewshot_bench.store.store import Store
from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import FsbenchError, UsageError, require

# How often Ray itself restarts a lost actor, on another node if there is one.
RESTARTS = 3
CONNECT_SECONDS = 5.0


class Host:
    """The actor: takes part in a job until no cell is left."""

    def take_part(self, store: str, job: str) -> str:
        """Work on the job; returns why it gave up, or an empty text."""
        try:
            Job.read(Store(Path(store)), job).compute()
        except FsbenchError as error:
            return str(error)
        return ""


@dataclass
class Ray(System):
    """Workers of one job as actors; address: of a running cluster, empty to find or start one."""

    store: Store
    gpus: float = 0.0
    cpus: float = 1.0
    address: str = ""
    name: str = "ray"
    # The future of each actor's result, to the actor.
    _actors: dict[Any, Any] = field(default_factory=dict)
    _trouble: list[str] = field(default_factory=list)
    _ours: bool = False

    def start(self, job: Job, workers: int) -> Job:
        """Start actors; EngineError if the cluster cannot be reached or lacks the resources."""
        ray = self._connect()
        have = ray.cluster_resources()
        for name, asked in (("GPU", self.gpus), ("CPU", self.cpus)):
            if asked > have.get(name, 0):
                raise EngineError(
                    f"the Ray cluster has {have.get(name, 0):g} {name}s, a worker asks for "
                    f"{asked:g}; see --gpus, --cpus and --threads"
                )
        self._end_actors()
        actor = ray.remote(Host).options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_restarts=RESTARTS,
            max_task_retries=RESTARTS,
        )
        for _ in range(workers):
            host = actor.remote()
            self._actors[host.take_part.remote(str(self.store.path), job.name)] = host
        return job

    def state(self) -> State:
        """The number of actors at work, and the errors of the others."""
        ray = self._connect()
        results = list(self._actors)
        done, left = [], results
        if results:
            done, left = ray.wait(results, num_returns=len(results), timeout=0, fetch_local=False)
        for result in done:
            try:
                said = str(ray.get(result))
            except Exception as error:
                said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if said and said not in self._trouble:
                self._trouble.append(said)
            # An idle actor would keep its resources from others.
            with suppress(Exception):
                ray.kill(self._actors.pop(result))
        text = f"{len(left)} workers" if left else ""
        return State(len(left), text, tuple(self._trouble))

    def cancel(self) -> None:
        """End the actors, and Ray where this process started it."""
        self._end_actors()
        if self._ours:
            import ray

            ray.shutdown()
            self._ours = False

    def _end_actors(self) -> None:
        if self._actors:
            import ray

            for actor in self._actors.values():
                with suppress(Exception):
                    ray.kill(actor)
            self._actors.clear()

    def _connect(self) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = require("ray", "ray", "--engine ray")
        if not ray.is_initialized():
            self._initialize(ray)
        return ray

    def _initialize(self, ray: Any) -> None:
        # Nodes must import the same modules as this process.
        paths = os.pathsep.join(dict.fromkeys(path for path in sys.path if path))
        options: dict[str, Any] = {
            "log_to_driver": False,
            "runtime_env": {"env_vars": {"PYTHONPATH": paths}},
        }
        address = self.address or os.environ.get("RAY_ADDRESS", "")
        try:
            if address:
                # Raises OSError if nothing listens there; Ray itself would try for minutes.
                host, _, port = address.removeprefix("ray://").rpartition(":")
                if host and port.isdigit():
                    socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
                ray.init(address=address, **options)
                return
            with suppress(ConnectionError):
                ray.init(address="auto", **options)
                return
            ray.init(include_dashboard=False, **options)
            self._ours = True
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            raise EngineError(
                f"cannot reach Ray{f' at {address}' if address else ''} ({type(error).__name__}: "
                f"{said}); check --ray-address, or leave it out to start Ray here"
            ) from error


def build(setup: EngineSetup) -> DistributedEngine:
    """The engine of these options; UsageError under --offline."""
    if offline.is_on():
        raise UsageError("--engine ray talks over the network, which --offline forbids")
    require("ray", "ray", "--engine ray")
    given = setup.options
    cpus = float(given["cpus"] or setup.settings.threads or 1)
    system = Ray(setup.store, given["gpus"], cpus, given["ray_address"])
    return DistributedEngine(setup, system, given["array"], int(cpus))
