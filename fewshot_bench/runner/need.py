"""The rule of need: a cell holds what its method needs, not what its run allows.

So a method that answers each query by itself has one cell, whatever other methods of a run may use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.class_texts import WAFFLE, find, read_texts
from fewshot_bench.api.file_texts import split
from fewshot_bench.api.method_card import NO_PROMPTS
from fewshot_bench.api.option_files import open_files
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import ALONE, BY_TEMPLATES, CONDITIONS, POOLING, RunSpec
from fewshot_bench.runner.variants import Variant
from fewshot_bench.splits.groups import is_stream
from fewshot_bench.utils.errors import UsageError

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset

# Poolings that a method takes unless its class attribute `poolings` says otherwise: one vector of a
# class, of any length.
ONE_VECTOR = POOLING[:2]


def settle_texts(texts: str, pooling: str | None) -> dict[str, Any]:
    """The conditions `texts` and `pooling` of two options; UsageError for unusable ones.

    pooling: None for the usual one, which for random texts is their mean, as in WaffleCLIP.
    """
    if texts == BY_TEMPLATES and pooling not in (None, POOLING[0]):
        raise UsageError(
            f"--pooling {pooling} pools texts, and prompts of templates describe the classes: add "
            "--texts FILE, or leave it out"
        )
    stated = texts if texts in (BY_TEMPLATES, WAFFLE) else read_texts(texts).text
    return {"texts": stated, "pooling": pooling or POOLING[texts == WAFFLE]}


def reads_texts(variant: Variant, allowed: Mapping[str, Any]) -> bool:
    """True if texts describe the classes of a method's cells: it reads prompts otherwise."""
    return allowed["texts"] != BY_TEMPLATES and variant.card.text not in NO_PROMPTS


def check_texts(text: str, datasets: Mapping[str, Dataset]) -> None:
    """UsageError for a class of a data set that a file of texts has none for."""
    for dataset in datasets.values() if split(text)[0] else ():
        find(text).describe(dataset.card().name, dataset.card().classnames)


def note_texts(cells: Iterable[RunSpec], datasets: Mapping[str, Dataset]) -> Iterator[str]:
    """Oddities of the texts of files that cells state, one line each."""
    used: defaultdict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for cell in cells:
        if split(cell.texts)[0]:
            used[cell.texts, cell.backbone] |= {cell.dataset: None, cell.target: None}
    for (text, backbone), names in used.items():
        from fewshot_bench.backbones.shape import too_long

        cards = [datasets[name].card() for name in names if name]
        classes = {card.name: card.classnames for card in cards}
        yield from find(text).list_oddities(classes, partial(too_long, backbone))


def conditions_of(variant: Variant, allowed: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions that a method's cells hold by what it needs of those that a run allows."""
    needs = dict.fromkeys(("queries", "bystanders"), variant.card.sees in ("batch", "stream"))
    needs |= dict.fromkeys(("texts", "pooling"), reads_texts(variant, allowed))
    return {"views": variant.card.views_per_query} | {
        name: allowed[name] if needed else CONDITIONS[name].default
        for name, needed in needs.items()
    }


def find_lack(variant: Variant, allowed: Mapping[str, Any]) -> str:
    """The first need of a method that a run does not allow, in words; empty without one."""
    card, company = variant.card, allowed["queries"]
    if card.sees == "batch" and (company == ALONE or is_stream(company)):
        return f"uses the other queries of a batch, and --queries is {company}: add --queries all"
    if card.sees == "stream" and not is_stream(company):
        return f"uses the queries before one, and --queries is {company}: add --queries stream"
    if card.views_per_query > allowed["views"]:
        views = f"{card.views_per_query} views of a query, and --views is {allowed['views']}"
        return f"encodes {views}: add --views {card.views_per_query}"
    if not reads_texts(variant, allowed):
        return ""
    method: Any = registry().method_class(variant.method)(**open_files(variant.options))
    if reason := getattr(method, "cannot_take_texts", ""):
        return f"takes no texts of classes, as {reason}: leave it out, or --texts"
    taken, pooling = getattr(method, "poolings", ONE_VECTOR), allowed["pooling"]
    if pooling in taken:
        return ""
    other = f"expected {' or '.join(taken)}, the forms of class vectors that it starts from"
    return f"takes no texts with --pooling {pooling}: {other}; or leave it out"


def choose_runnable(
    variants: Iterable[Variant],
    allowed: Mapping[str, Any],
    named: Collection[str],
    left_out: dict[str, str],
) -> list[Variant]:
    """The variants that need no more than the run allows by its conditions.

    named: methods that were asked for by their own names: UsageError for one that needs more.
    Others, of `all` or of a suite, are `left_out`: name to lack.
    """
    runnable = []
    for variant in variants:
        lack = find_lack(variant, allowed)
        if not lack:
            runnable.append(variant)
        elif variant.method not in named:
            left_out[variant.method] = lack
        else:
            raise UsageError(f"method '{variant.method}' {lack} (docs/reference/protocols.md)")
    return runnable


def tell_left_out(left_out: Mapping[str, str]) -> Iterator[str]:
    """A text for each lack, with the methods that were left out for it."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for method, lack in left_out.items():
        alike[lack].append(method)
    for lack, methods in alike.items():
        each = f"{', '.join(methods)}: each " if len(methods) > 1 else f"{methods[0]} "
        yield f"{each}{lack}"
