"""Entry points of installed distributions."""

from __future__ import annotations

import sys
from pathlib import Path

from fewshot_bench.api.registry import registry
from tests.fuzzing.commands import run
from tests.fuzzing.subject import Seed, Subject

POINTS = b"""[fewshot_bench]
one = fsbench_fuzz_plugin
two = fsbench_fuzz_plugin:Nothing

[console_scripts]
x = a:b
"""
METADATA = b"Metadata-Version: 2.1\nName: fsbench-fuzz\nVersion: 1.0\nSummary: x\n\nText\n"


def _plugins(folder: Path) -> list[Seed]:
    info = folder / "fsbench_fuzz-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "fsbench_fuzz_plugin.py").write_text("x = 1\n")
    return [
        Seed(f"{info.name}/entry_points.txt", POINTS, "ini"),
        Seed(f"{info.name}/METADATA", METADATA, "txt"),
    ]


def _list_plugins(folder: Path, file: Path) -> bool:
    """List plug-ins with only the changed distribution on the path; it is not imported."""
    for seed in _plugin_files(folder):
        if not (folder / seed.path).exists():
            (folder / seed.path).write_bytes(seed.content)
    before, sys.path[:] = list(sys.path), [str(folder)]
    registry.cache_clear()
    try:
        return run("list", "plugins")
    finally:
        sys.path[:] = before
        sys.modules.pop("fsbench_fuzz_plugin", None)
        registry.cache_clear()


def _plugin_files(folder: Path) -> list[Seed]:
    name = "fsbench_fuzz-1.0.dist-info"
    return [Seed(f"{name}/entry_points.txt", POINTS), Seed(f"{name}/METADATA", METADATA)]


SUBJECTS = (Subject("plug-in metadata", 1, _plugins, _list_plugins),)
