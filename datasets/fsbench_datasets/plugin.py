"""Register the built-in data sets; a reader is imported only when its data set is used."""

from __future__ import annotations

from collections.abc import Callable

from fewshot_bench import Paper, hookimpl
from fewshot_bench.api.sources import THIS_TOOL
from fsbench_datasets.catalog import PUBLIC_SETS, read_table

DEMO = ("digits", "letters", "shapes")


@hookimpl
def register_datasets(register: Callable[..., None]) -> None:
    """Register the demo suite, the public sets, a set from PyPI, and prefixes for user data."""
    table = read_table("papers.toml").items()
    papers = {name: [Paper(**facts) for facts in entries] for name, entries in table}
    for name in DEMO:
        opener = f"fsbench_datasets.embedded:{name}"
        register(name, opener, suites=("demo",), paper=papers.get(name, THIS_TOOL))
    for entry in PUBLIC_SETS:
        register(entry.name, entry.open, suites=entry.suites, paper=papers[entry.name])
    register("coop:", "fsbench_datasets.coop_layout:open_coop")
    register("folder:", "fsbench_datasets.folder:open_folder")
    register("manifest:", "fsbench_datasets.manifest:open_manifest")
    register("hf:", "fsbench_datasets.huggingface:open_hub")
    register("wds:", "fsbench_datasets.shards:open_shards")
    register("textile", "fsbench_datasets.textile:textile", paper=papers["textile"])
