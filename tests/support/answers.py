"""Helpers that write synthetic logits to stores and read them back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fewshot_bench.api.metrics import Answers
from fewshot_bench.api.record import Record
from fewshot_bench.store.store import Store


def put_answers(
    store: Store, record: Record, logits: Any, labels: Any, ids: Iterable[str], keep: str = ""
) -> Record:
    """Store a record with the answers from logits (n, classes); return the record as stored."""
    return store.write(record, answers_of(logits, labels), [str(name) for name in ids], keep)


def answers_of(logits: Any, labels: Any) -> Answers:
    """Answers from logits and labels of any array type."""
    return Answers.of(np.asarray(logits, dtype=np.float32), np.asarray(labels, dtype=np.int64))


def stored_arrays(store: Store, key: str) -> Mapping[str, Any]:
    """Stored `logits` (rounded to 16 bits), `labels`, `ids` and full-precision `predictions`."""
    stored = store.answers(key)
    answers = stored.answers
    return {
        "logits": answers.logits,
        "labels": answers.labels,
        "ids": np.array(stored.ids, dtype=np.str_),
        "predictions": answers.predictions,
    }


def fields(rows: np.ndarray, **changed: Any) -> np.ndarray:
    """Copy of structured rows with some fields replaced."""
    found = rows.copy()
    for name, value in changed.items():
        found[name] = value
    return found
