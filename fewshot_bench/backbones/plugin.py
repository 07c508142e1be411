"""Registers the backbone that ships with the package."""

from __future__ import annotations

from collections.abc import Callable

from fewshot_bench.api.paper import THIS_TOOL
from fewshot_bench.api.plugins import hookimpl


@hookimpl
def register_backbones(register: Callable[..., None]) -> None:
    """`tiny`: the embedded toy CLIP, for trying and testing the tool offline."""
    register("tiny", "fewshot_bench.backbones.embedded:load_tiny", paper=THIS_TOOL)
