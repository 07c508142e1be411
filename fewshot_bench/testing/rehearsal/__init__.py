"""A device type of its own for tests without a card: tensors of `rehearsal:0`, `rehearsal:1`.

It lies on host memory and computes with the CPU's kernels, so its numbers are the CPU's; but like
on an accelerator, tensors of two devices do not mix, generators belong to a device, and launches,
reads on the host, blocking copies and bytes are counted (`torch.rehearsal`). It needs a C++
compiler and ninja, and is compiled once per machine, in about half a minute.

    from fewshot_bench.testing.rehearsal import load
    rehearsal = load()
    x = torch.ones(3, device="rehearsal")
    with rehearsal.forbid_waits():
        x.sum().item()  # RuntimeError: the host waits for rehearsal:0: read by ...
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import torch

from fewshot_bench.testing.rehearsal.build import KIND, PACKAGE, build, find_missing
from fewshot_bench.utils.errors import UsageError

__all__ = ["KIND", "PACKAGE", "build", "find_missing", "load"]


def load() -> Any:
    """Make the device known in this process and its later children; returns `torch.rehearsal`.

    UsageError without a compiler, or where torch has another private device type.
    """
    if PACKAGE not in sys.modules:
        name = torch._C._get_privateuse1_backend_name()
        if name != "privateuseone":
            raise UsageError(
                f"torch has the device type '{name}' here, and can have one such type at a time: "
                "rehearse without it, such as with TORCH_DEVICE_BACKEND_AUTOLOAD=0"
            )
        folder = str(build())
        sys.path.append(folder)
        others = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (others, folder)))
        importlib.import_module(PACKAGE).register()
    return sys.modules[PACKAGE]
