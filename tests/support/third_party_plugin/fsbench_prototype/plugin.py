"""The entry point: names, and where to find what they stand for."""

from collections.abc import Callable

from fewshot_bench import hookimpl


@hookimpl
def register_methods(register: Callable[..., None]) -> None:
    """One method."""
    register("prototype", "fsbench_prototype.method:Prototype")


@hookimpl
def register_datasets(register: Callable[..., None]) -> None:
    """One data set."""
    register("blobs", "fsbench_prototype.blobs:Blobs")
