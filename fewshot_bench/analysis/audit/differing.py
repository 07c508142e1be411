"""Findings on cells of one comparison that were made under other conditions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fewshot_bench.analysis.audit.findings import Finding, Level, some
from fewshot_bench.analysis.conditions import (
    IMAGES_ADVICE,
    ONE_PROMPTS,
    ONE_SPLIT,
    OTHER_IMAGES,
    STALE_ADVICE,
)
from fewshot_bench.analysis.record_columns import (
    FACTS as CONDITION_FACTS,
)
from fewshot_bench.analysis.record_columns import (
    LEGACY_TEST_SET as ONE_TEST_SET,
)
from fewshot_bench.analysis.record_columns import (
    Facts,
    Joint,
    Place,
    RecordColumns,
    Rule,
    Shared,
    templates_text,
)
from fewshot_bench.api.condition import Condition
from fewshot_bench.api.method_card import OTHER_TEXTS, UNTRAINED, default_schedule, schedule_with
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS, canonical_json
from fewshot_bench.utils.text import digest_of

EVERYWHERE = ""
_Groups = Mapping[Place, Mapping[str, Sequence[Record]]]


class Same(NamedTuple):
    """A fact that must be equal.

    place: columns that group the records to compare; the first is shown in the finding. value: the
    column of the fact, empty for records that do not state it. why: text appended after the values.
    """

    hazard: int
    kind: str
    what: str
    place: tuple[str, ...]
    value: str
    why: str = ""
    level: Level = "finding"

    @property
    def rule(self) -> Rule:
        """The rule, restricted to records that state the fact."""
        return Rule(self.what, self.place, self.value, (self.value,))


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _of_package(name: str) -> Shared:
    def version(packages: Any) -> str:
        return _text(packages.get(name)) if isinstance(packages, dict) else ""

    return Shared("environment.packages", version)


def _condition(about: Condition) -> Callable[[Any], str]:
    # `Rule` skips empty values, but here an empty value counts as one: show it as ''.
    return lambda value: about.text(value) or "''"


def _limit(limit: int | None) -> str:
    return "all" if limit is None else f"{limit} images"


def _card(stated: Any) -> Mapping[str, Any]:
    return stated if isinstance(stated, Mapping) else {}


def _schedule(default: str, overrides: Mapping[str, Any]) -> str:
    found = schedule_with(default, overrides)
    return "" if found == UNTRAINED else found


def _texts_known(card: Mapping[str, Any]) -> str:
    """Merge templates and class names, which the task provides; other texts are extra knowledge."""
    found = _text(card.get("text"))
    return found if found in ("", OTHER_TEXTS) else "the task's own"


def _known_at_test(card: Mapping[str, Any]) -> str:
    return (_text(card.get("at_test")) or "the image and the list of classes") if card else ""


def _weights(done: bool, loaded: Any, named: str) -> str:
    # Only finished cells state the loaded weights: their digest is not that of the named file.
    return _text(loaded or named)[:12] if done else ""


# Entries of the environment that must be equal, compared verbatim.
_OF_MACHINE = (
    *("device_name", "threads", "determinism", "method_origin", "fewshot_bench", "python"),
)
FACTS: Facts = {
    **CONDITION_FACTS,
    "everywhere": Shared("status", lambda _: EVERYWHERE),
    "policy": Shared("val", "val {}".format),
    "validation labels": Shared("split.val", _text),
    "templates": Shared("template texts", templates_text),
    "texts": Shared("card", _texts_known),
    "card": Shared("footprint.card", _card),
    "default schedule": Shared("card", default_schedule),
    "schedule": Joint(("default schedule", "overrides"), _schedule),
    "mirrored": Shared("split.mirrored", _text),
    "at test": Shared("card", _known_at_test),
    "limit text": Shared("limit", _limit),
    "weights start": Joint(("done", "environment.weights_digest", "weights"), _weights),
    "code of done": Joint(("done", "code"), lambda done, code: code if done else ""),
    "options digest": Shared("options", lambda found: digest_of(canonical_json(dict(found)), 12)),
    "commit": Shared("environment.commit", lambda found: _text(found)[:12]),
    **{name: Shared(f"environment.{name}", _text) for name in _OF_MACHINE},
    **{f"condition {name}": Shared(name, _condition(about)) for name, about in CONDITIONS.items()},
}
_ALL, _DATASET = ("everywhere",), ("dataset",)
_IMAGES = ("evaluated", "shots", "split_seed")
_POLICY = (*_IMAGES, "val")
# The inputs of a split: digests are only comparable where all of these are equal.
_SPLIT = (*_POLICY, "protocol", "limit", "revision", "own data")
_LABEL = ("everywhere", "label", "method_version")
_METHOD = ("everywhere", "method")
_OTHER = f"{OTHER_IMAGES}; {IMAGES_ADVICE}"
_MORE = "some methods know more than others"
_TIMES = "times cannot be compared"
SAME = (
    Same(3, "validation", "validation labels", _IMAGES, "policy"),
    Same(3, "validation", "numbers of validation labels", _POLICY, "validation labels"),
    Same(4, "templates", "template sets", _DATASET, "prompts"),
    Same(4, "templates", "prompts under one name", ONE_PROMPTS, "templates"),
    Same(4, "text-knowledge", "texts on classes", _ALL, "texts", _MORE),
    Same(5, "sampling", "sampling protocols", _DATASET, "protocol"),
    Same(5, "split", "splits", _SPLIT, "split start"),
    Same(5, "images", "images of one split", ONE_SPLIT, "images start", _OTHER),
    Same(5, "images", "test images", ONE_TEST_SET, "test images start", _OTHER),
    Same(8, "schedule", "schedules", _ALL, "schedule", "", "note"),
    Same(9, "augmentation", "mirroring", _DATASET, "mirrored"),
    Same(12, "precision", "precisions", _ALL, "precision"),
    Same(14, "revision", "lists of images", _DATASET, "revision"),
    Same(14, "own-data", "names, templates or hold-out", _DATASET, "own data"),
    Same(0, "test-knowledge", "knowledge at test time", _ALL, "at test", _MORE, "note"),
    Same(0, "limit", "numbers of test images", _ALL, "limit text"),
    Same(0, "backbone", "backbones", _ALL, "backbone"),
    Same(0, "weights", "weights", ("everywhere", "backbone"), "weights start"),
    Same(0, "device", "devices", _ALL, "device", _TIMES),
    Same(0, "machine", "machines", ("everywhere", "device"), "device_name", _TIMES),
    Same(0, "threads", "numbers of threads", _ALL, "threads", _TIMES, "note"),
    Same(0, "determinism", "modes of determinism", _ALL, "determinism"),
    Same(0, "method-version", "versions of one method", _METHOD, "method_version"),
    Same(0, "method-origin", "packages with one method", _METHOD, "method_origin"),
    Same(
        0, "method-code", "code of one method", (*_METHOD, "method_version"), "code of done",
        STALE_ADVICE,
    ),
    Same(0, "options", "defaults under one name", _LABEL, "options digest"),
    Same(0, "versions", "versions of fewshot_bench", _ALL, "fewshot_bench"),
    Same(0, "versions", "commits", _ALL, "commit"),
    Same(0, "versions", "versions of Python", _ALL, "python"),
)  # fmt: skip
# Conditions already covered by `SAME`; all others must be equal everywhere.
_ABOVE = ("protocol", "val", "prompts", "backbone", "precision", "device", "limit", "weights")


# Columns that `differences` reads.
READ = ("environment.packages", *(name for same in SAME for name in same.rule.columns))


def differences(columns: RecordColumns) -> Iterator[Finding]:
    """A finding for every fact that differs where it must be equal. columns: of `FACTS`."""
    packages = columns["environment.packages"].values
    names = sorted({name for found in packages if isinstance(found, dict) for name in found})
    wanted = [*SAME, *_other_conditions()]
    wanted += [
        Same(0, "versions", f"versions of {name}", _ALL, f"version of {name}") for name in names
    ]
    columns.add({f"version of {name}": _of_package(name) for name in names})
    for same in wanted:
        yield from _differing(_grouped(same.rule, columns), same)


def _other_conditions() -> Iterator[Same]:
    for name, about in CONDITIONS.items():
        if name not in _ABOVE:
            yield Same(0, name, f"values of {about.title}", _ALL, f"condition {name}")


def _grouped(rule: Rule, columns: RecordColumns) -> _Groups:
    """Records by place and value, where a place has several values."""
    groups: defaultdict[Place, defaultdict[str, list[Record]]]
    groups = defaultdict(lambda: defaultdict(list))
    for record, place, value in rule.conflicts(columns):
        groups[place][value].append(record)
    return groups


def _differing(groups: _Groups, same: Same) -> Iterator[Finding]:
    """One finding for all places where the same methods differ in the same way."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    cells: defaultdict[str, list[Record]] = defaultdict(list)
    for place, values in groups.items():
        text = _described(values, same)
        places[text].append(str(place[0]))
        cells[text] += [record for found in values.values() for record in found]
    for text, where in places.items():
        on = f" on {some(where)}" if where[0] else ""
        why = f": {same.why}" if same.why else ""
        line = f"different {same.what}{on}: {text}{why}"
        yield Finding(same.level, same.kind, line, same.hazard, cells[text])


def _described(values: Mapping[str, Sequence[Record]], same: Same) -> str:
    """Text such as `v1 (coop), v2 (clip-lora)`; values cut to 60 characters, none for splits."""
    parts = []
    for value in sorted(values):
        labels = some(sorted({record.spec.label for record in values[value]}), 4)
        # Split digests differ between places; showing them would give a line for every place.
        shown = "" if same.kind == "split" else f"{value:.60} "
        parts.append(f"{shown}({labels})")
    return ", ".join(parts)
