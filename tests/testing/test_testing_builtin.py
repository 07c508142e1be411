"""All built-in methods pass the conformance kit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from fewshot_bench.api.registry import registry
from fewshot_bench.testing import parametrize_with_checks, quick

# Few steps: the rules concern conduct. CoOp starts from words, as the toy's text encoder is random
# and sixteen random tokens would hide the class name.
SHORTER: dict[str, dict[str, Any]] = {
    "clip-lora": {"iterations": 2},
    "coop": {"epochs": 40, "context_init": "a photo of a"},
    "tip-adapter-f": {"epochs": 5},
}


def _builtin() -> list[Any]:
    catalog = registry().methods
    names = [name for name in catalog.names() if catalog.find(name).origin.startswith("fewshot")]
    return [_short(name) for name in names]


def _short(name: str) -> Any:
    method = registry().method_class(name)()
    if hasattr(method, "quick"):
        return quick(method)
    return dataclasses.replace(method, **SHORTER.get(name, {}))


@parametrize_with_checks(_builtin())
def test_builtin_method(method: Any, check: Callable[[Any], None]) -> None:
    check(method)
