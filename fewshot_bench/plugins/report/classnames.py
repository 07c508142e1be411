"""Names of classes: those of the record, else the folders of the images, else numbers."""

from __future__ import annotations

from collections.abc import Sequence

from fewshot_bench.analysis.table import per_class as classes
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report import text
from fewshot_bench.store.predictions import Outcome


def class_names(record: Record, outcome: Outcome) -> tuple[list[str], str]:
    """A name per class, and where they are from; old records have no names."""
    numbers = [f"class {label}" for label in range(outcome.classes)]
    names = classes.class_names([record], outcome.classes)
    if names != numbers:
        return list(map(text.name, names)), "the records"
    folders = _from_folders(outcome)
    if folders:
        return list(map(text.name, folders)), "the folders of the images"
    return numbers, "their numbers"


def _from_folders(outcome: Outcome) -> list[str]:
    """The folder that all images of a class lie in, if each class has one of its own."""
    found: dict[int, str] = {}
    for name, label in zip(outcome.ids, outcome.labels.tolist(), strict=True):
        parts: Sequence[str] = name.split("/")
        folder = parts[-2] if len(parts) > 1 else ""
        if not folder or found.setdefault(label, folder) != folder:
            return []
    if len(set(found.values())) < len(found):
        return []
    return [found.get(label, f"class {label}") for label in range(outcome.classes)]
