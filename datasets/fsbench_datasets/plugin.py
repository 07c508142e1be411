"""Registers the built-in data sets; nothing is imported before a data set is used."""

from __future__ import annotations

from collections.abc import Callable

from fewshot_bench import hookimpl

DEMO = ("digits", "letters", "shapes")
# In the order of the CoOp paper.
PUBLIC = (
    "caltech101",
    "oxford_pets",
    "stanford_cars",
    "oxford_flowers",
    "food101",
    "sun397",
    "dtd",
    "eurosat",
    "ucf101",
)


@hookimpl
def register_datasets(register: Callable[..., None]) -> None:
    """The embedded demo suite, the public sets, and image folders."""
    for name in DEMO:
        register(name, f"fsbench_datasets.embedded:{name}", suites=("demo",))
    for name in PUBLIC:
        register(name, f"fsbench_datasets.coop_layout:{name}", suites=("all",))
    register("coop:", "fsbench_datasets.coop_layout:open_coop")
    register("folder:", "fsbench_datasets.folder:open_folder")
