"""Named random streams, and a guard around all global generators."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fewshot_bench.utils.devices import list_generators
from fewshot_bench.utils.errors import ContractError

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for stream `names` under `seed`; distinct names are independent."""
    text = "\x1f".join(["fsbench", str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for the named stream."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def seed_of_fit(train_seed: int, dataset: str, shots: object) -> int:
    """The seed of a fit.

    Own data has a path in its name, which does not count: the same images give the same numbers
    wherever they lie.
    """
    return derive(train_seed, "" if ":" in dataset else dataset, shots)


def named_generator(seed: int, name: object, where: str) -> torch.Generator:
    """`generator` for a name that a method gave; ContractError, with `where`, for no name."""
    if not isinstance(name, str) or not name:
        raise ContractError(f"{where}({name!r}): expected the name of a stream, such as 'init'")
    return generator(seed, name)


@contextmanager
def isolate(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators inside, and restore all of them after.

    Also restores torch's gradient mode, default dtype and thread count. Needed because parts of
    torch (such as dropout) accept no generator.
    """
    import numpy as np
    import torch

    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    threads = torch.get_num_threads()
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    kind, indices = list_generators()
    with torch.random.fork_rng(devices=indices, device_type=kind):
        random.seed(derive(seed, "python"))
        np.random.seed(derive(seed, "numpy") % 2**32)
        torch.manual_seed(derive(seed, "torch"))
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.set_grad_enabled(grad)
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
