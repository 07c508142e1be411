"""The papers of the methods of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fewshot_bench.api import method_files
from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.paper import Paper
from fewshot_bench.api.registry import registry
from fewshot_bench.utils.errors import FsbenchError


def papers_of(methods: Iterable[str]) -> Mapping[str, Paper | None]:
    """The first paper of every method; None if it is not installed, or its card names none.

    A method of a file is not imported for this.
    """
    return {name: _paper(name) for name in set(methods)}


def _paper(name: str) -> Paper | None:
    if method_files.is_meant(name):
        return None
    try:
        card = card_of(registry().method_class(name))
    except FsbenchError:
        return None
    return card.papers[0] if card and card.papers else None
