"""Runs by their pair of seeds: (split seed, training seed)."""

from __future__ import annotations

from collections.abc import Collection


def shared_trainings(runs: Collection[tuple[int, int]]) -> list[int]:
    """Training seeds with which all support sets were trained, sorted; runs: (split, training)."""
    splits = {split for split, _ in runs}
    return sorted(
        train
        for train in {own for _, own in runs}
        if all((split, train) in runs for split in splits)
    )
