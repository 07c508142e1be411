"""The engines of this machine, registered through the same hook as third-party ones."""

from __future__ import annotations

from fewshot_bench.api.plugins import Register, hookimpl


@hookimpl
def register_engines(register: Register) -> None:
    """Register `local` and `here`."""
    register("local", "fewshot_bench.engines.local:build")
    register("here", "fewshot_bench.engines.here:build")
