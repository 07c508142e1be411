"""What a plug-in may leave changed in the process: found, put back, and named."""

from fewshot_bench.runner.isolation.guard import guarded
from fewshot_bench.runner.isolation.interruption import own_interruptions
from fewshot_bench.runner.isolation.output import Printed, contained

__all__ = ["Printed", "contained", "guarded", "own_interruptions"]
