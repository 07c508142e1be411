"""Register the built-in data sets; a reader is imported only when its data set is used."""

from __future__ import annotations

from collections.abc import Callable

from fewshot_bench import hookimpl
from fsbench_datasets.catalog import PUBLIC_SETS

DEMO = ("digits", "letters", "shapes")


@hookimpl
def register_datasets(register: Callable[..., None]) -> None:
    """Register the demo suite, the public sets, a set from PyPI, and prefixes for user data."""
    for name in DEMO:
        register(name, f"fsbench_datasets.embedded:{name}", suites=("demo",))
    for entry in PUBLIC_SETS:
        register(entry.name, entry.open, suites=entry.suites)
    register("coop:", "fsbench_datasets.coop_layout:open_coop")
    register("folder:", "fsbench_datasets.folder:open_folder")
    register("manifest:", "fsbench_datasets.manifest:open_manifest")
    register("hf:", "fsbench_datasets.huggingface:open_hub")
    register("wds:", "fsbench_datasets.shards:open_shards")
    register("textile", "fsbench_datasets.textile:textile")
