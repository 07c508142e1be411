"""Small records for tests of the store itself, written with logits of ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.store import Store
from tests.support.answers import put_answers


def make(seed: int = 1, status: Any = "done", **spec: Any) -> Record:
    """Make a record without storing it."""
    values = {"method": "m", "dataset": "d", "shots": 1, "split_seed": seed, "train_seed": seed}
    return Record(RunSpec(**{**values, **spec}), status, metrics={"top1": 50.0})


def put(store: Store, record: Record, n: int = 4) -> str:
    """Store a record with the logits of n queries; return its key."""
    return written(store, record, n).spec.key()


def written(store: Store, record: Record, n: int = 4) -> Record:
    """Store a record with the logits of n queries; return the record as stored."""
    return put_answers(
        store, record, np.ones((n, 3)), np.arange(n) % 3, [f"q{i}" for i in range(n)]
    )
