"""The local engine, registered through the same hook as third-party engines."""

from __future__ import annotations

from fewshot_bench.api.plugins import Register, hookimpl


@hookimpl
def register_engines(register: Register) -> None:
    """Register `local`."""
    register("local", "fewshot_bench.engines.local:build")
