"""Provisional API for third-party engines (`register_engines`), imported on first use.

An engine is a function from `EngineSetup` to an `Engine`. One whose workers claim cells of a `Job`
from the store is a `DistributedEngine` with a `System` that starts them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewshot_bench.engines.base import (
        Engine,
        EngineError,
        EngineSetup,
        Progress,
        Settings,
        StoreSnapshot,
        lost,
    )
    from fewshot_bench.engines.distributed import (
        DistributedEngine,
        Job,
        State,
        System,
        take_part,
    )
    from fewshot_bench.engines.local import LocalEngine

__all__ = [
    "DistributedEngine",
    "Engine",
    "EngineError",
    "EngineSetup",
    "Job",
    "LocalEngine",
    "Progress",
    "Settings",
    "State",
    "StoreSnapshot",
    "System",
    "lost",
    "take_part",
]

_MODULES = {
    **dict.fromkeys(("DistributedEngine", "Job", "State", "System", "take_part"), "distributed"),
    "LocalEngine": "local",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'base')}")
    return getattr(module, name)
