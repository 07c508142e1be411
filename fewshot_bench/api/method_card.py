"""`MethodCard`: facts of a method shown beside its results, from the class attribute `card`.

A card lists what a method may use and how it differs from the official code; it changes no number.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fewshot_bench.utils.errors import ContractError, one_of, texts

OTHER_TEXTS = "other texts"
# What `at_test` says of a method whose logits for a query depend on the other ones.
OTHER_QUERIES = "other queries"
TEXT_KNOWLEDGE = ("none", "class names", "templates", OTHER_TEXTS)
# The schedule of a method without training.
UNTRAINED = "none"


def schedule_with(schedule: str, changed: Mapping[str, Any]) -> str:
    """The name of a schedule with the changed options appended; empty without a name."""
    if not schedule or not changed:
        return schedule
    return f"{schedule} with {', '.join(f'{name}={value}' for name, value in changed.items())}"


def default_schedule(stated: Mapping[str, Any]) -> str:
    """The schedule of a method's default options, from a record's card; empty without a card."""
    return str(stated.get("default_schedule") or stated.get("schedule") or "")


@dataclass(frozen=True)
class MethodCard:
    """Schedule, knowledge and deviations of a method.

    schedule: name of the training schedule of the default options (`coop-50/100/200`, `closed
        form`), equal for methods that train equally long.
    text: knowledge of a class besides images: `none`, `class names`, `templates` (the data set's
        or an ensemble), `other texts` (written by people or language models).
    at_test: knowledge of queries besides the image itself and the list of classes; empty for none.
        Contains `other queries` if the logits for a query depend on the other ones.
    official: settings that the official code chooses per data set, by setting name (several are
        joined by commas); here one value serves all data sets.
    deviations: differences from the official code, one per line.
    """

    schedule: str
    text: str = "templates"
    at_test: str = ""
    official: Mapping[str, str] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """ContractError for values of another type, or an unknown `text`."""
        if not isinstance(self.official, Mapping):
            raise ContractError(
                f"MethodCard.official is {self.official!r:.80}, expected texts by name of a setting"
            )
        texts("MethodCard.deviations", self.deviations)
        texts("MethodCard.official", (*self.official, *self.official.values()))
        texts("MethodCard", (self.schedule, self.text, self.at_test))
        one_of("MethodCard.text", self.text, TEXT_KNOWLEDGE)

    def to_dict(self, changed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON-able facts stored in a record.

        changed: options of the run that differ from the defaults. With any, `schedule` includes
        them and `default_schedule` is the card's own.
        """
        found: dict[str, Any] = {
            "schedule": self.schedule,
            "text": self.text,
            "at_test": self.at_test,
            "official": dict(self.official),
        }
        if not changed or not self.schedule:
            return found
        return found | {
            "schedule": schedule_with(self.schedule, changed),
            "default_schedule": self.schedule,
        }

    def lines(self) -> Iterator[str]:
        """The lines of `fsbench show`."""
        yield f"schedule: {self.schedule}"
        yield f"knowledge of classes: {self.text}"
        yield f"knowledge at test time: {self.at_test or 'the image and the list of classes'}"
        yield from self.differences()

    def differences(self, but: Collection[str] = ()) -> Iterator[str]:
        """Lines on deviations. but: per-data-set settings that match the official code."""
        for name, value in self.official.items():
            if not {*name.split(", ")} <= {*but}:
                yield f"chosen per data set by the official code: {name}: {value}"
        for line in self.deviations:
            yield f"differs from the official code: {line}"


def card_of(method: object) -> MethodCard | None:
    """The card of a method, or of a class with its default options; None if it has none.

    ContractError if `card` is no MethodCard or cannot be read: a property runs its author's code.
    """
    cls = method if isinstance(method, type) else type(method)
    try:
        stated = inspect.getattr_static(cls, "card", None)
        if stated is None:
            return None
        owner: Any = method if isinstance(stated, MethodCard) or method is not cls else cls()
        card = owner.card
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        raise ContractError(
            f"the card of {cls.__name__} cannot be read: {kind}: {error}"
        ) from error
    if not isinstance(card, MethodCard):
        raise ContractError(f"{cls.__name__}.card is {card!r:.80}, expected a MethodCard")
    return card
