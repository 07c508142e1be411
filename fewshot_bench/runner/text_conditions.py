"""Which texts describe the classes of a cell: what the run allows, and what its method needs.

`ChosenTexts` is what a request asks for; a cell of a method that knows no prompts has the default
of both conditions, and a method that cannot take the texts is refused before anything trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.class_texts import (
    WAFFLE,
    ClassTexts,
    find,
    list_oddities,
    read_texts,
)
from fewshot_bench.api.file_texts import split_texts
from fewshot_bench.api.method_card import TEXT_KNOWLEDGE
from fewshot_bench.api.option_files import open_files
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import BY_TEMPLATES, CONDITIONS, POOLING, RunSpec
from fewshot_bench.utils.errors import UsageError, unknown

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset
    from fewshot_bench.runner.variants import Variant

# What `MethodCard.text` says of methods that read no prompt.
NO_PROMPTS = TEXT_KNOWLEDGE[:2]
# Poolings that a method takes unless its class attribute `poolings` says otherwise: one vector of a
# class, of any length.
ONE_VECTOR = POOLING[:2]


@dataclass(frozen=True)
class ChosenTexts:
    """Texts of a request: `templates`, `waffle`, or what a file says; and their pooling."""

    texts: str = BY_TEMPLATES
    pooling: str = POOLING[0]
    file: ClassTexts | None = None

    @classmethod
    def of(cls, texts: str, pooling: str | None) -> ChosenTexts:
        """The texts of two options; UsageError for a wrong value or an unusable file.

        pooling: None for the usual one, which for random texts is their mean, as in WaffleCLIP.
        """
        if pooling is not None and pooling not in POOLING:
            raise unknown("pooling", pooling, POOLING, "fsbench run --help")
        if texts == BY_TEMPLATES:
            if pooling not in (None, POOLING[0]):
                raise UsageError(
                    f"--pooling {pooling} pools texts, and prompts of templates describe the "
                    "classes: add --texts FILE, or leave it out"
                )
            return PROMPTS
        if texts == WAFFLE:
            return cls(WAFFLE, pooling or "mean")
        file = read_texts(texts)
        return cls(file.text, pooling or POOLING[0], file)

    def describe(self, variant: Variant) -> bool:
        """True if texts describe the classes of a method's cells: it reads prompts otherwise."""
        return self.texts != BY_TEMPLATES and variant.card.text not in NO_PROMPTS

    def needed_by(self, variant: Variant) -> dict[str, Any]:
        """The two conditions of the cells of a method."""
        if self.describe(variant):
            return {"texts": self.texts, "pooling": self.pooling}
        return {name: CONDITIONS[name].default for name in ("texts", "pooling")}

    def find_lack(self, variant: Variant) -> str:
        """The reason why a method can take neither texts nor this pooling; empty if it can."""
        if not self.describe(variant):
            return ""
        method: Any = registry().method_class(variant.method)(**open_files(variant.options))
        if reason := str(getattr(method, "cannot_take_texts", "") or ""):
            return f"takes no texts of classes, as {reason}: leave it out, or --texts"
        taken = tuple(getattr(method, "poolings", ONE_VECTOR))
        if self.pooling not in taken:
            other = f"expected --pooling {' or '.join(taken)}, or leave it out"
            return f"takes no texts with --pooling {self.pooling}: {_reason(self.pooling)}; {other}"
        return ""

    def check(self, datasets: Mapping[str, Dataset]) -> None:
        """UsageError for a class of a data set that the file has no text for."""
        if self.file is not None:
            for dataset in datasets.values():
                card = dataset.card()
                self.file.of(card.name, card.classnames)


# Prompts of templates describe the classes.
PROMPTS = ChosenTexts()


def _reason(pooling: str) -> str:
    if pooling == "max":
        return "it starts from one vector of each class, and the closest text of many is none"
    return "it brings its class vectors to unit length, as unit-mean does"


def note_texts(cells: Iterable[RunSpec], datasets: Mapping[str, Dataset]) -> Iterator[str]:
    """What is odd about the texts of files that cells state, one line each."""
    used: dict[tuple[str, str], dict[str, None]] = {}
    for cell in cells:
        if split_texts(cell.texts)[0]:
            names = used.setdefault((cell.texts, cell.backbone), {})
            names |= dict.fromkeys(filter(None, (cell.dataset, cell.target)))
    for (text, backbone), names in used.items():
        from fewshot_bench.backbones.shape import too_long

        texts, cards = find(text), [datasets[name].card() for name in names]
        every = [one for card in cards for of in texts.of(card.name, card.classnames) for one in of]
        classes = {card.name: card.classnames for card in cards}
        yield from list_oddities(texts, classes, too_long(backbone, every))
