"""Withhold labels from code of methods: what knows labels refuses while such code runs.

This keeps authors from mistakes; it does not stop code that wants to get around it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fewshot_bench.utils.errors import ContractError

# Set for the programs that code of a method starts.
_VARIABLE = "FSBENCH_WITHHELD"
# How many contexts withhold labels in this process.
_open = int(_VARIABLE in os.environ)


@contextmanager
def withheld() -> Iterator[None]:
    """Withhold labels inside, in all threads and in the processes that are started there."""
    global _open
    _open += 1
    os.environ[_VARIABLE] = "1"
    try:
        yield
    finally:
        _open -= 1
        if not _open:
            os.environ.pop(_VARIABLE, None)


def refuse(what: str) -> None:
    """ContractError while labels are withheld. what: would have given labels."""
    if _open:
        raise ContractError(
            f"code of a method used {what}, which knows the labels of test images: expected no "
            "data but the arguments of fit and logits; for labeled images use task.train and "
            "task.val"
        )
