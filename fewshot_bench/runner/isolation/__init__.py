"""Isolation of plug-in code: changes that it leaves in the process are found and named."""

from fewshot_bench.runner.isolation.guard import guarded
from fewshot_bench.runner.isolation.interruption import own_interruptions
from fewshot_bench.runner.isolation.output import Printed, contained

__all__ = ["Printed", "contained", "guarded", "own_interruptions"]
