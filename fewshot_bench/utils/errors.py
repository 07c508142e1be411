"""Errors that a person reads: each carries the value, what was expected, and the next step."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from fewshot_bench.utils.text import LONGEST_MESSAGE, printable


class FsbenchError(Exception):
    """Base of every error that is raised on purpose; `exit_code` is what the CLI returns.

    Its text is one printable line, whatever names and values from files went into it.
    """

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__(), LONGEST_MESSAGE)


class UsageError(FsbenchError):
    """A request that cannot be carried out as it was written (unknown name, value out of range)."""

    exit_code = 2


class DataMissingError(FsbenchError):
    """Images, split files or weights that are needed and are not there, or cannot be read."""

    exit_code = 3


class UnsupportedBackboneError(FsbenchError):
    """A method needs a part (a transformer text tower, say) that the backbone does not have."""

    exit_code = 2


class ContractError(FsbenchError):
    """A plug-in broke its contract: wrong shapes, non-finite logits, a backbone left changed."""


class NumericalError(FsbenchError):
    """A loss, a gradient or a solver's result is not finite, so that a fit cannot go on."""


class InsufficientMemoryError(FsbenchError):
    """A cell does not fit into memory, and its method cannot, or could not, do with less."""


class NotApplicableError(FsbenchError):
    """The method does not apply to this cell; tables show the reason, never a number."""


class PluginError(FsbenchError):
    """A plug-in cannot be loaded, or two plug-ins claim one name."""

    exit_code = 2


class StoreError(FsbenchError):
    """A record cannot be written, or what was read back is damaged."""


def suggestion(value: str, known: Iterable[str]) -> str:
    """The closest known name as ": did you mean 'x'?", or an empty string when none is close."""
    names = sorted(set(known))
    folded = {name.casefold().replace("_", "-"): name for name in names}
    close = difflib.get_close_matches(
        value.casefold().replace("_", "-"), list(folded), n=1, cutoff=0.5
    )
    return f": did you mean '{folded[close[0]]}'?" if close else ""


def unknown(kind: str, value: str, known: Iterable[str], next_step: str) -> UsageError:
    """Error for a name that nobody registered, with a suggestion and where to look."""
    names = sorted(set(known))
    hint = suggestion(value, names)
    if not hint:
        hint = f": expected one of {', '.join(names)}" if 0 < len(names) <= 12 else ""
    return UsageError(f"unknown {kind} '{value}'{hint} ({next_step})")
