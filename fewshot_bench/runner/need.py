"""The rule of need: a cell holds what its method needs, not what its run allows.

So a method that answers each query by itself has one cell, whatever other methods of a run may use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.class_texts import WAFFLE, find, read_texts
from fewshot_bench.api.file_texts import split
from fewshot_bench.api.method_card import NO_PROMPTS
from fewshot_bench.api.option_files import open_files
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import ALONE, BY_TEMPLATES, CONDITIONS, POOLING, RunSpec
from fewshot_bench.runner.variants import Variant
from fewshot_bench.splits.groups import is_stream
from fewshot_bench.utils.errors import UsageError, unknown

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset

# Poolings that a method takes unless its class attribute `poolings` says otherwise: one vector of a
# class, of any length.
ONE_VECTOR = POOLING[:2]


@dataclass(frozen=True)
class ChosenTexts:
    """The conditions `texts` and `pooling` of a request."""

    texts: str = BY_TEMPLATES
    pooling: str = POOLING[0]

    @classmethod
    def of(cls, texts: str, pooling: str | None) -> ChosenTexts:
        """The texts of two options; UsageError for a wrong value or an unusable file.

        pooling: None for the usual one, which for random texts is their mean, as in WaffleCLIP.
        """
        if pooling not in (None, *POOLING):
            raise unknown("pooling", pooling, POOLING, "fsbench run --help")
        if texts == BY_TEMPLATES and pooling not in (None, POOLING[0]):
            raise UsageError(
                f"--pooling {pooling} pools texts, and prompts of templates describe the classes: "
                "add --texts FILE, or leave it out"
            )
        stated = texts if texts in (BY_TEMPLATES, WAFFLE) else read_texts(texts).text
        return cls(stated, pooling or POOLING[texts == WAFFLE])

    def describe(self, variant: Variant) -> bool:
        """True if texts describe the classes of a method's cells: it reads prompts otherwise."""
        return self.texts != BY_TEMPLATES and variant.card.text not in NO_PROMPTS

    def needed_by(self, variant: Variant) -> dict[str, Any]:
        """The two conditions of the cells of a method."""
        needed = self if self.describe(variant) else PROMPTS
        return {"texts": needed.texts, "pooling": needed.pooling}

    def find_lack(self, variant: Variant) -> str:
        """The reason why a method can take neither texts nor this pooling; empty if it can."""
        if not self.describe(variant):
            return ""
        method: Any = registry().method_class(variant.method)(**open_files(variant.options))
        if reason := getattr(method, "cannot_take_texts", ""):
            return f"takes no texts of classes, as {reason}: leave it out, or --texts"
        taken = getattr(method, "poolings", ONE_VECTOR)
        if self.pooling in taken:
            return ""
        other = f"expected {' or '.join(taken)}, the forms of class vectors that it starts from"
        return f"takes no texts with --pooling {self.pooling}: {other}; or leave it out"

    def check(self, datasets: Mapping[str, Dataset]) -> None:
        """UsageError for a class of a data set that the file has no text for."""
        for dataset in datasets.values() if split(self.texts)[0] else ():
            find(self.texts).describe(dataset.card().name, dataset.card().classnames)


# Prompts of templates describe the classes.
PROMPTS = ChosenTexts()


def note_texts(cells: Iterable[RunSpec], datasets: Mapping[str, Dataset]) -> Iterator[str]:
    """What is odd about the texts of files that cells state, one line each."""
    used: defaultdict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for cell in cells:
        if split(cell.texts)[0]:
            used[cell.texts, cell.backbone] |= {cell.dataset: None, cell.target: None}
    for (text, backbone), names in used.items():
        from fewshot_bench.backbones.shape import too_long

        texts, cards = find(text), [datasets[name].card() for name in names if name]
        classes = {card.name: card.classnames for card in cards}
        every = [one for own in classes.items() for of in texts.describe(*own) for one in of]
        yield from texts.list_oddities(classes, too_long(backbone, every))


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
