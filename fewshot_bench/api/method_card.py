"""`MethodCard`: facts of a method shown beside its results, from the class attribute `card`.

A card lists what a method may use and how it differs from the official code; it changes no number.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fewshot_bench.api.dataset import TEMPLATE_SETS
from fewshot_bench.api.paper import Paper, as_papers
from fewshot_bench.utils.errors import ContractError, one_of, texts, whole_number

OTHER_TEXTS = "other texts"
# Whom a method answers a query with: nobody, its own views, its group, those before it.
SEES = ("query", "views", "batch", "stream")
# Those that depend on other queries, and on which.
COMPANY = {"batch": "the other queries of its batch", "stream": "the queries before it"}
IN_COMPANY = tuple(COMPANY)
TEXT_KNOWLEDGE = ("none", "class names", "templates", OTHER_TEXTS)
# Of methods that read no prompt: whatever texts describe the classes, their cells are the same.
NO_PROMPTS = TEXT_KNOWLEDGE[:2]
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


def knowledge_at_test(at_test: str, sees: str) -> str:
    """The things that a method knows of a query, in words; the arguments are those of a card."""
    company = COMPANY.get(sees, "")
    others = [company] if company not in at_test else []
    return ", ".join(filter(None, [at_test, *others])) or "the image and the list of classes"


# What a fit on encoded features runs: a formula, steps on features, steps through an encoder (or
# many trainings), or the prompts of all classes for every image.
COSTS = ("closed form", "seconds", "minutes", "hours")


@dataclass(frozen=True)
class Sizes:
    """Sizes by which the number of trained parameters differs: of a task, and of a CLIP.

    features: width of the features. vision, text: widths of the towers, of `layers` blocks each.
    patch: pixels across a patch. patches: number of patches of an image.
    """

    classes: int
    shots: int
    features: int
    vision: int
    text: int
    layers: int
    patch: int
    patches: int

    @property
    def blocks(self) -> int:
        """The widths of all blocks of both towers, added up."""
        return self.layers * (self.vision + self.text)

    @property
    def image_tower(self) -> int:
        """Parameters of the image tower: its blocks, projection, embeddings and outer norms."""
        blocks = self.layers * (12 * self.vision**2 + 13 * self.vision)
        ends = 3 * self.patch**2 + self.patches + 6
        return blocks + self.vision * (self.features + ends)


LISTED = Sizes(100, 16, features=512, vision=768, text=512, layers=12, patch=16, patches=196)
LISTED_AS = "ViT-B/16, 100 classes, 16 shots"


class FitSetting(NamedTuple):
    """The part of a cell that decides its published values; base_to_new: on half of the classes."""

    dataset: str
    shots: int
    base_to_new: bool


@dataclass(frozen=True)
class Published:
    """Options and prompts of the authors' own runs, where they differ from the defaults.

    values: by option. datasets, shots: where they hold; empty for all. base_to_new: True for runs
    on half of the classes alone, False for those on all classes alone, None for both. schedule:
    name of the training schedule with these values, if another one. source: file of the authors.
    prompts: the template set (`--prompts`) of these runs; empty for that of the run.

    Example: `Published({"lr": 2e-4}, datasets=("imagenet",))`.

    >>> Published({"rank": 2}, datasets=("eurosat",), source="paper, table 5")
    """

    values: Mapping[str, Any]
    datasets: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    base_to_new: bool | None = None
    schedule: str = ""
    source: str = ""
    prompts: str = ""

    def __post_init__(self) -> None:
        """ContractError for values of another type."""
        _refuse_other("Published.values", self.values, Mapping, "values by name of an option")
        texts("Published.values", tuple(self.values))
        texts("Published.datasets", self.datasets)
        texts("Published", (self.schedule, self.source))
        _refuse_other("Published.shots", self.shots, tuple, "a tuple of ints", int)
        if self.prompts:
            one_of("Published.prompts", self.prompts, tuple(TEMPLATE_SETS))

    def holds(self, setting: FitSetting) -> bool:
        """True if the values are those of a cell in this setting."""
        return (
            (not self.datasets or setting.dataset in self.datasets)
            and (not self.shots or setting.shots in self.shots)
            and self.base_to_new in (None, setting.base_to_new)
        )

    @property
    def stated(self) -> dict[str, Any]:
        """The values by option, and `prompts` if it is stated."""
        return {**self.values, **({"prompts": self.prompts} if self.prompts else {})}

    @property
    def place(self) -> str:
        """The settings in which the values hold: `eurosat, dtd at 8, 16 shots, base-to-new`."""
        where = ", ".join(self.datasets) or "all data sets"
        if self.shots:
            where += f" at {', '.join(map(str, self.shots))} shots"
        halves = {None: "", True: ", base-to-new", False: ", all classes"}
        return where + halves[self.base_to_new]


def _refuse_other(where: str, value: Any, kind: Any, expected: str, parts: type = object) -> None:
    """ContractError for a value of another kind, or with parts of another kind."""
    if not isinstance(value, kind) or not all(isinstance(part, parts) for part in value):
        raise ContractError(f"{where} is {value!r:.80}, expected {expected}")


def no_own_values(datasets: Collection[str]) -> str:
    """A note on data sets without published values of their own; empty without such sets."""
    if not datasets:
        return ""
    return f"no values are published for {', '.join(datasets)} alone, the general ones are taken"


@dataclass(frozen=True)
class MethodCard:
    """Schedule, knowledge and deviations of a method, and the facts that lists of methods show.

    schedule: name of the training schedule of the default options (`coop-50/100/200`, `closed
        form`), equal for methods that train equally long.
    text: knowledge of a class besides images: `none`, `class names`, `templates` (the data set's
        or an ensemble), `other texts` (written by people or language models).
    at_test: knowledge of queries besides the image itself and the list of classes; empty for none.
    sees: whom a query is answered with, one of `SEES`: nobody (`query`), more encoded `views` of
        it, the whole group of queries that `logits` gets (`batch`), those before it (`stream`).
    views_per_query: most encoded views of a query, the plain one included.
    official: settings that the official code chooses per data set, by setting name (several are
        joined by commas), which are no options; here one value serves all data sets.
    deviations: differences from the official code, one per line.
    family: the kind of method.
    paper: what to cite for it, one `Paper` or a tuple of several, the first one before others; a
        baseline without a paper of its own names that of the model (`backbones.papers_of_weights`).
    cost: what a fit on encoded features runs, one of `COSTS`.
    trained: function from `Sizes` to the number of trained parameters of the default options.
    published: options and prompts of the authors' own runs, which `fsbench run --published` takes;
        of several that hold for a cell, later ones win.

    >>> MethodCard("no training", family="cache", cost="seconds")
    """

    schedule: str
    text: str = "templates"
    at_test: str = ""
    sees: str = "query"
    views_per_query: int = 1
    official: Mapping[str, str] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()
    family: str = ""
    paper: Paper | tuple[Paper, ...] = ()
    cost: str = ""
    trained: Callable[[Sizes], int] | None = None
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        """ContractError for values of another type, or an unknown `text` or `cost`."""
        _refuse_other("MethodCard.official", self.official, Mapping, "texts by name of a setting")
        texts("MethodCard.deviations", self.deviations)
        texts("MethodCard.official", (*self.official, *self.official.values()))
        texts("MethodCard", (self.schedule, self.text, self.at_test, self.family))
        as_papers("MethodCard.paper", self.paper)
        if self.cost:
            one_of("MethodCard.cost", self.cost, COSTS)
        one_of("MethodCard.text", self.text, TEXT_KNOWLEDGE)
        one_of("MethodCard.sees", self.sees, SEES)
        whole_number("MethodCard.views_per_query", self.views_per_query, 1)
        where, expected = "MethodCard.published", "a tuple of Published"
        _refuse_other(where, self.published, tuple, expected, Published)

    @property
    def seen(self) -> str:
        """The things that the answer to a query may depend on, in words."""
        own = "the query", f"up to {self.views_per_query} views of the query"
        return (*own, COMPANY["batch"], f"{COMPANY['stream']} in a stream")[SEES.index(self.sees)]

    @property
    def papers(self) -> tuple[Paper, ...]:
        """The papers to cite for the method; empty if the card does not say."""
        return as_papers("MethodCard.paper", self.paper)

    def published_in(self, setting: FitSetting) -> dict[str, Any]:
        """The authors' values of options in a setting, where they differ from the defaults."""
        return {
            name: value
            for published in self.published
            if published.holds(setting)
            for name, value in published.values.items()
        }

    def prompts_in(self, setting: FitSetting) -> str:
        """The template set of the authors' runs in a setting; empty for that of the run."""
        named = [each.prompts for each in self.published if each.holds(setting) and each.prompts]
        return named[-1] if named else ""

    @property
    def varied(self) -> frozenset[str]:
        """Names of what is published for some setting: options, and `prompts`."""
        return frozenset(name for published in self.published for name in published.stated)

    def without_own_values(self, datasets: Iterable[str]) -> tuple[str, ...]:
        """The data sets for which no values of their own are published."""
        own = {name for published in self.published for name in published.datasets}
        return tuple(name for name in datasets if name not in own)

    def to_dict(
        self, changed: Mapping[str, Any] | None = None, setting: FitSetting | None = None
    ) -> dict[str, Any]:
        """The JSON-able facts stored in a record.

        changed: options of the run that differ from the defaults. With any, `schedule` includes
        them and `default_schedule` is the card's own. setting: of a run with published values.
        """
        schedule, official = self.schedule, dict(self.official) | self._by_option()
        facts: dict[str, Any] = {}
        if setting is not None:
            named = [published.schedule for published in self.published if published.holds(setting)]
            schedule = next(filter(None, reversed(named)), schedule)
            official = dict(self.official)
            values = self.published_in(setting).items()
            facts["published"] = {name: str(value) for name, value in values}
            facts["published_note"] = no_own_values(self.without_own_values([setting.dataset]))
        facts |= {"schedule": schedule_with(schedule, changed or {}), "text": self.text}
        facts |= {"at_test": self.at_test, "sees": self.sees, "official": official}
        return facts | ({"default_schedule": schedule} if changed and schedule else {})

    def _by_option(self) -> dict[str, str]:
        """The published values of each option with their places, as text."""
        return {
            name: "; ".join(
                f"{published.stated[name]} on {published.place}"
                for published in self.published
                if name in published.stated
            )
            for name in sorted(self.varied)
        }

    @property
    def parameters(self) -> str:
        """Trained parameters at the `LISTED` sizes; empty if the card does not say, or fails to."""
        try:
            return "" if self.trained is None else f"{self.trained(LISTED):,}"
        except Exception:
            # A function of a plug-in.
            return ""

    def lines(self) -> Iterator[str]:
        """The lines of `fsbench show`."""
        if self.family:
            yield f"family: {self.family}"
        for paper in self.papers:
            yield from paper.lines()
        if self.cost:
            yield f"cost of a fit: {self.cost}"
        if self.parameters:
            yield f"trained parameters: {self.parameters} ({LISTED_AS})"
        yield f"schedule: {self.schedule}"
        yield f"knowledge of classes: {self.text}"
        yield f"knowledge at test time: {knowledge_at_test(self.at_test, self.sees)}"
        if self.sees != SEES[0]:
            yield f"an answer depends on: {self.seen}"
        for published in self.published:
            values = ", ".join(f"{name}={value}" for name, value in published.stated.items())
            source = f" ({published.source})" if published.source else ""
            yield f"published (--published) for {published.place}: {values}{source}"
        yield from self.differences(but=self.varied)

    def differences(self, but: Collection[str] = ()) -> Iterator[str]:
        """Lines on deviations. but: per-data-set settings that match the official code."""
        for name, value in (dict(self.official) | self._by_option()).items():
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


def read_card(method: object) -> MethodCard:
    """The card of a method or class; one that declares nothing if none can be read."""
    try:
        return card_of(method) or MethodCard("")
    except ContractError:
        return MethodCard("")
