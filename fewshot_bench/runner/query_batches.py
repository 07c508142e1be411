"""How many queries a method gets at once."""

from __future__ import annotations

from fewshot_bench.api.record import Incidents

OUT_OF_MEMORY = "out-of-memory"


class QueryBatches:
    """The batches that a classifier asks for, divided by `parts` where memory is short.

    asked: True once it asked for any.
    """

    def __init__(self, method: str, parts: int) -> None:
        self.parts = parts
        self.asked = False
        self._method = method

    def limit(self, size: int, incidents: Incidents) -> int:
        """How many queries come at once where a method asks for `size`."""
        self.asked = True
        smaller = max(1, size // self.parts)
        if smaller < size:
            text = f"batches of {smaller} queries instead of {size}, since memory was short"
            incidents.add(OUT_OF_MEMORY, f"{self._method}.logits was given {text}")
        return smaller
