"""What a plug-in may leave changed in the process: found, put back, and named."""

from fewshot_bench.containment.guard import guarded
from fewshot_bench.containment.interruption import own_interruptions
from fewshot_bench.containment.output import Printed, contained

__all__ = ["Printed", "contained", "guarded", "own_interruptions"]
