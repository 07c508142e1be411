"""Errors for users: each message contains the value, the expectation, and the next step."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from fewshot_bench.utils.text import LONGEST_MESSAGE, printable


class FsbenchError(Exception):
    """Base class of all deliberate errors; `exit_code` is the exit code of the CLI.

    Its text is one printable line, even with names and values from untrusted files.
    """

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__(), LONGEST_MESSAGE)


class UsageError(FsbenchError):
    """An invalid request (unknown name, value out of range)."""

    exit_code = 2


class DataMissingError(FsbenchError):
    """Required images, split files or weights are missing or unreadable."""

    exit_code = 3


class UnsupportedBackboneError(FsbenchError):
    """A method needs a part (a transformer text tower, say) that the backbone lacks."""

    exit_code = 2


class ContractError(FsbenchError):
    """A plug-in broke its contract: wrong shapes, non-finite logits, a backbone left changed."""


class NumericalError(FsbenchError):
    """A loss, a gradient or a solver's result is not finite, so that a fit cannot continue."""


class InsufficientMemoryError(FsbenchError):
    """A cell does not fit into memory, even with `memory_parts` if its method supports them."""


class NotApplicableError(FsbenchError):
    """The method does not apply to this cell; tables show the reason, never a number."""


class PluginError(FsbenchError):
    """A plug-in cannot be loaded, or two plug-ins claim one name."""

    exit_code = 2


class StoreError(FsbenchError):
    """A record cannot be written, or a stored file is damaged."""


def suggestion(value: str, known: Iterable[str]) -> str:
    """The closest known name as ": did you mean 'x'?", or an empty string if none is close."""
    names = sorted(set(known))
    folded = {name.casefold().replace("_", "-"): name for name in names}
    close = difflib.get_close_matches(
        value.casefold().replace("_", "-"), list(folded), n=1, cutoff=0.5
    )
    return f": did you mean '{folded[close[0]]}'?" if close else ""


def unknown(kind: str, value: str, known: Iterable[str], next_step: str) -> UsageError:
    """The error for an unknown name, with a suggestion and the next step."""
    names = sorted(set(known))
    hint = suggestion(value, names)
    if not hint:
        hint = f": expected one of {', '.join(names)}" if 0 < len(names) <= 12 else ""
    return UsageError(f"unknown {kind} '{value}'{hint} ({next_step})")
