"""`is_exporting`: while `torch.export` traces code, no loop may depend on the number of images."""

from __future__ import annotations


def is_exporting() -> bool:
    """True while `torch.export` runs the code."""
    import torch

    # torch 2.6 does not distinguish export from compilation.
    is_traced = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(is_traced())
