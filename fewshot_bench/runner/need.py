"""The rule of need: a cell holds what its method needs, not what its run allows.

So a method that answers each query by itself has one cell, whatever other methods of a run may use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from fewshot_bench.api.spec import ALONE, CONDITIONS
from fewshot_bench.runner.text_conditions import ChosenTexts
from fewshot_bench.runner.variants import Variant
from fewshot_bench.splits.groups import is_stream
from fewshot_bench.utils.errors import UsageError


def conditions_of(
    variant: Variant, allowed: Mapping[str, Any], texts: ChosenTexts
) -> dict[str, Any]:
    """The conditions that a method's cells hold by what it needs of those that a run allows."""
    needed = {"views": variant.card.views_per_query} | texts.needed_by(variant)
    sees_others = variant.card.sees in ("batch", "stream")
    return needed | {
        name: allowed[name] if sees_others else CONDITIONS[name].default
        for name in ("queries", "bystanders")
    }


def find_lack(variant: Variant, allowed: Mapping[str, Any], texts: ChosenTexts) -> str:
    """What a method needs and a run does not allow; empty if there is nothing."""
    card, company = variant.card, allowed["queries"]
    if card.sees == "batch" and (company == ALONE or is_stream(company)):
        return f"uses the other queries of a batch, and --queries is {company}: add --queries all"
    if card.sees == "stream" and not is_stream(company):
        return f"uses the queries before one, and --queries is {company}: add --queries stream"
    if card.views_per_query > allowed["views"]:
        views = f"{card.views_per_query} views of a query, and --views is {allowed['views']}"
        return f"encodes {views}: add --views {card.views_per_query}"
    return texts.find_lack(variant)


def choose_runnable(
    variants: Iterable[Variant],
    allowed: Mapping[str, Any],
    texts: ChosenTexts,
    named: Collection[str],
    left_out: dict[str, str],
) -> list[Variant]:
    """The variants that need no more than the run allows by its conditions and texts.

    named: methods that were asked for by their own names: UsageError for one that needs more.
    Others, of `all` or of a suite, are `left_out`: name to lack.
    """
    runnable = []
    for variant in variants:
        lack = find_lack(variant, allowed, texts)
        if not lack:
            runnable.append(variant)
        elif variant.method not in named:
            left_out[variant.method] = lack
        else:
            raise UsageError(f"method '{variant.method}' {lack} (docs/protocols.md)")
    return runnable


def tell_left_out(left_out: Mapping[str, str]) -> Iterator[str]:
    """A text for each lack, with the methods that were left out for it."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for method, lack in left_out.items():
        alike[lack].append(method)
    for lack, methods in alike.items():
        each = f"{', '.join(methods)}: each " if len(methods) > 1 else f"{methods[0]} "
        yield f"{each}{lack}"
