"""What a fit asks of the encoders, told ahead, so that a plan can say what sharing saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Demand:
    """How often a cell has each of its images encoded.

    queries, support, validation: whether frozen features of these images are used. fixed: number of
    own views per support image by a name of their crop. adapted: images through an encoder that
    this fit changes, which nobody shares.
    """

    queries: bool = True
    support: bool = False
    validation: bool = False
    fixed: Mapping[str, int] = field(default_factory=dict)
    adapted: int = 0


@runtime_checkable
class Demanding(Protocol):
    """A method that tells its demand."""

    def demand(self, shots: int, classes: int) -> Demand:
        """What one fit and its prediction ask for, with `shots` images per class."""
        ...
