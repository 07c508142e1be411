"""Engines whose workers run on clusters, with the options that they declare."""

from __future__ import annotations

from fewshot_bench.api.options import Option
from fewshot_bench.api.plugins import Register, hookimpl


def _is_some(asked: object) -> bool:
    """True if a number of GPUs such as `2`, `0.5` or `a100:2` is not zero."""
    counts = (part.rpartition(":")[2] for part in str(asked or 0).split(","))
    return any(count.strip("0. ") for count in counts)


def _asks_gpus(directives: tuple[str, ...]) -> bool:
    """True if directives of Slurm request GPUs."""
    for text in directives:
        name, _, value = text.lstrip("-").partition("=")
        parts = value.split(",")
        if name == "gres" or name.startswith("tres-per"):
            parts = [part for part in parts if "gpu" in part]
        elif not name.startswith("gpus"):
            continue
        if any(map(_is_some, parts)):
            return True
    return False


WORKERS = Option("array", "how many workers.", int, default=1, minimum=1)
CORES = Option("cpus", "cores of each worker.", int, minimum=1)
SLURM = (
    WORKERS,
    Option("gpus", "GPUs of each worker.", default="", asks_gpus=_is_some),
    Option("partition", "partition.", default=""),
    Option("time", "time limit of a worker, such as 4:00:00.", default=""),
    CORES,
    Option("mem", "memory of each worker, such as 32G.", default=""),
    Option("account", "account.", default=""),
    Option("qos", "quality of service.", default=""),
    Option("constraint", "features that a node must have.", default=""),
    Option(
        "sbatch",
        "any other directive.",
        multiple=True,
        metavar="--NAME=VALUE",
        asks_gpus=_asks_gpus,
    ),
)
RAY = (
    WORKERS,
    Option("gpus", "GPUs of each worker.", float, default=0.0, minimum=0, asks_gpus=_is_some),
    CORES,
    Option("ray-address", "address of a running cluster.", default=""),
)


@hookimpl
def register_engines(register: Register) -> None:
    """Register Slurm and Ray."""
    register("slurm", "fewshot_bench.plugins.cluster.slurm:build", options=SLURM, elsewhere=True)
    register("ray", "fewshot_bench.plugins.cluster.ray:build", options=RAY, elsewhere=True)
