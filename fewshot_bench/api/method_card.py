"""`MethodCard`: facts of a method that stand beside its numbers; the class attribute `card`.

A card says what a method may use and how its official code differs; it changes no number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fewshot_bench.utils.mistyped import one_of, texts

OTHER_TEXTS = "other texts"
TEXT_KNOWLEDGE = ("none", "class names", "templates", OTHER_TEXTS)
# The schedule of a method that computes nothing ahead.
UNTRAINED = "none"


@dataclass(frozen=True)
class MethodCard:
    """Schedule, knowledge and deviations of a method.

    schedule: name of the training schedule of the default options (`coop-50/100/200`, `closed
        form`), equal for methods that train equally long. text: what is known of a class besides
        images: `none`, `class names`, `templates` (the data set's or an ensemble), `other texts`
        (written by people or language models). at_test: what is known of queries besides the image
        itself and the list of classes; empty for nothing.
    official: settings that the official code chooses per data set, by name of the setting; here one
        value serves all data sets. deviations: differences to the official code, a line each.
    """

    schedule: str
    text: str = "templates"
    at_test: str = ""
    official: Mapping[str, str] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """ContractError for values of another kind."""
        texts("MethodCard.deviations", self.deviations)
        texts("MethodCard.official", tuple(self.official.values()))
        texts("MethodCard", (self.schedule, self.text, self.at_test))
        one_of("MethodCard.text", self.text, TEXT_KNOWLEDGE)

    def to_dict(self) -> dict[str, Any]:
        """The facts that a record keeps, JSON-able."""
        return {
            "schedule": self.schedule,
            "text": self.text,
            "at_test": self.at_test,
            "official": dict(self.official),
        }

    def lines(self) -> Iterator[str]:
        """For `fsbench show`."""
        yield f"schedule: {self.schedule}"
        yield f"knowledge of classes: {self.text}"
        yield f"knowledge at test time: {self.at_test or 'the image and the list of classes'}"
        yield from self.differences()

    def differences(self, *, by_dataset: bool = True) -> Iterator[str]:
        """Lines on the official code; by_dataset: its settings per data set among them."""
        for name, value in self.official.items() if by_dataset else ():
            yield f"chosen per data set by the official code: {name}: {value}"
        for line in self.deviations:
            yield f"differs from the official code: {line}"


def card_of(method: object) -> MethodCard | None:
    """The card of a method, of a class that of its default options; None where it has none."""
    card = getattr(method, "card", None)
    if isinstance(method, type) and isinstance(card, property):
        card = method().card
    return card if isinstance(card, MethodCard) else None
