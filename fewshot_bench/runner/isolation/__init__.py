"""Detects, reports and undoes changes that a plug-in leaves in the process.

`guarded` is the entry point. A change that cannot be undone makes the process untrusted: a fresh
one takes over.
"""

from fewshot_bench.runner.isolation.guard import Printed, collected, contained, guarded
from fewshot_bench.runner.isolation.settings import CHANGED, Settings, kernel_state
from fewshot_bench.utils.plugin_code import own_interruptions

__all__ = [
    "CHANGED",
    "Printed",
    "Settings",
    "collected",
    "contained",
    "guarded",
    "kernel_state",
    "own_interruptions",
]
