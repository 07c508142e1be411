"""Vision-language backbones behind one protocol; called, it lists the names of those registered.

The room's name is that of a function of the library's face, `fewshot_bench.backbones()`.
"""

from __future__ import annotations

import sys
from types import ModuleType


class _Room(ModuleType):
    """A module that can be called."""

    def __call__(self) -> list[str]:
        """The names of registered backbones."""
        from fewshot_bench.api.registry import registry

        return registry().backbones.names()


sys.modules[__name__].__class__ = _Room
