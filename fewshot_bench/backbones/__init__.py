"""Public API for methods that adapt the encoders; calling the module lists backbone names.

A method gets its towers from a `Backbone`; the names here serve to annotate and adapt them
(docs/plugins.md). The module is callable, since the library's function `fewshot_bench.backbones()`
has the same name.
"""

from __future__ import annotations

import sys
from types import ModuleType

from fewshot_bench.api.backbone import (
    Adapter,
    FusedAdapter,
    ImageTower,
    LoadedBackbone,
    PackedPrompts,
    ProjectingBackbone,
    PromptPart,
    Site,
    TextTower,
)
from fewshot_bench.api.edits import Branch, Edits, Tokens
from fewshot_bench.backbones.papers import papers_of_weights
from fewshot_bench.utils.memory import free_memory

__all__ = [
    "Adapter",
    "Branch",
    "Edits",
    "FusedAdapter",
    "ImageTower",
    "LoadedBackbone",
    "PackedPrompts",
    "ProjectingBackbone",
    "PromptPart",
    "Site",
    "TextTower",
    "Tokens",
    "free_memory",
    "papers_of_weights",
]


class _CallableModule(ModuleType):
    """A module that can be called."""

    def __call__(self) -> list[str]:
        """The names of registered backbones."""
        from fewshot_bench.api.registry import registry

        return registry().backbones.names()


sys.modules[__name__].__class__ = _CallableModule
