"""The table of who needs what in docs/conditions.md, from the cards of methods."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from fewshot_bench.api.method_card import COSTS, SEES, card_of
from fewshot_bench.api.registry import registry

BEGIN, END = "<!-- who needs what: begin -->\n", "<!-- who needs what: end -->\n"
_HEAD = "| an answer sees | least `--queries` | least `--views` | of classes | a fit | methods |\n"
# What a method that sees so much needs.
_LEAST = {"query": "alone", "views": "alone", "batch": "all, or batches", "stream": "a stream"}


def with_need_table(page: str, names: Iterable[str]) -> str:
    """The page with its table written anew; ValueError without both marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"docs/conditions.md: expected {BEGIN.strip()} and {END.strip()}")
    return before + begin + need_table(names) + end + after


def need_table(names: Iterable[str]) -> str:
    """One line of Markdown for methods of equal needs, who need least first."""
    alike: defaultdict[tuple[int, int, str, int], list[str]] = defaultdict(list)
    for name in names:
        card = card_of(registry().method_class(name))
        assert card is not None, name
        need = SEES.index(card.sees), card.views_per_query, card.text, COSTS.index(card.cost)
        alike[need].append(f"[{name}](methods.md#{name.replace('+', '')})")
    lines = [
        f"| {SEES[seen]} | {_LEAST[SEES[seen]]} | {views} | {text} | {COSTS[cost]} "
        f"| {', '.join(methods)} |\n"
        for (seen, views, text, cost), methods in sorted(alike.items())
    ]
    return f"{_HEAD}|{'---|' * 6}\n{''.join(lines)}"
