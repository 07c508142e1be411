"""The rule of need: a cell holds what its method needs, not what its run allows.

So a method that answers each query by itself has one cell, whatever other methods of a run may use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.spec import ALONE, CONDITIONS
from fewshot_bench.runner.text_conditions import ChosenTexts
from fewshot_bench.runner.variants import Configured, Variant
from fewshot_bench.splits.groups import is_stream
from fewshot_bench.utils.errors import UsageError

if TYPE_CHECKING:
    from fewshot_bench.runner.request import Request


def conditions_of(variant: Variant, request: Request, texts: ChosenTexts) -> dict[str, Any]:
    """The conditions that a method's cells hold by what it needs."""
    needed = {"views": variant.card.views_per_query} | texts.needed_by(variant)
    if variant.card.sees in ("batch", "stream"):
        return needed | {"queries": request.queries, "bystanders": request.bystanders}
    return needed | {name: CONDITIONS[name].default for name in ("queries", "bystanders")}


def find_lack(variant: Variant, request: Request, texts: ChosenTexts) -> str:
    """What a method needs and its run does not allow; empty if there is nothing."""
    card, company = variant.card, request.queries
    if card.sees == "batch" and (company == ALONE or is_stream(company)):
        return f"uses the other queries of a batch, and --queries is {company}: add --queries all"
    if card.sees == "stream" and not is_stream(company):
        return f"uses the queries before one, and --queries is {company}: add --queries stream"
    if card.views_per_query > request.views:
        views = f"{card.views_per_query} views of a query, and --views is {request.views}"
        return f"encodes {views}: add --views {card.views_per_query}"
    return texts.find_lack(variant)


def choose_runnable(
    variants: Iterable[Variant],
    request: Request,
    texts: ChosenTexts,
    patterns: Sequence[str],
    left_out: dict[str, str],
) -> list[Variant]:
    """The variants that need no more than the run allows.

    patterns: names of several methods; those of them alone are `left_out`, name to lack. UsageError
    for any other.
    """
    asked = [m.method if isinstance(m, Configured) else m for m in request.methods]
    named = {*asked} - {*patterns}
    by_pattern = any(name in patterns for name in asked)
    runnable = []
    for variant in variants:
        lack = find_lack(variant, request, texts)
        if not lack:
            runnable.append(variant)
        elif by_pattern and variant.method not in named:
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
