"""The face for methods that adapt the encoders; called, it lists the names of backbones.

A method gets its towers from a `Backbone`; the names here are what it types and adapts them with
(docs/plugins.md). The room's name is that of a function of the library's face,
`fewshot_bench.backbones()`.
"""

from __future__ import annotations

import sys
from types import ModuleType

from fewshot_bench.api.backbone import (
    Adapter,
    FusedAdapter,
    ImageTower,
    PackedPrompts,
    PromptPart,
    Site,
    TextTower,
)
from fewshot_bench.api.edits import Branch, Edits, Tokens
from fewshot_bench.utils.memory import free_memory

__all__ = [
    "Adapter",
    "Branch",
    "Edits",
    "FusedAdapter",
    "ImageTower",
    "PackedPrompts",
    "PromptPart",
    "Site",
    "TextTower",
    "Tokens",
    "free_memory",
]


class _CallableModule(ModuleType):
    """A module that can be called."""

    def __call__(self) -> list[str]:
        """The names of registered backbones."""
        from fewshot_bench.api.registry import registry

        return registry().backbones.names()


sys.modules[__name__].__class__ = _CallableModule
