"""What the values of a record are, so that whatever reads one can rely on it.

Every value may be absent: cells that failed have few, and later versions write more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Times are differences of sums of others, rounded.
LEAST_SECONDS = -1e-3


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 1e300
        and math.isfinite(value)
    )


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18


def _amount(value: object) -> bool:
    return value is None or (_number(value) and value >= 0)  # type: ignore[operator]


def _seconds(value: object) -> bool:
    return value is None or (_number(value) and value >= LEAST_SECONDS)  # type: ignore[operator]


Kind = tuple[str, Callable[[object], bool]]
TEXT: Kind = ("a text", _text)
TEXTS: Kind = ("a list of texts", _texts)
FLAG: Kind = ("true or false", _flag)
NUMBER: Kind = ("a finite number", _number)
COUNT: Kind = ("a whole number from 0", _count)
AMOUNT: Kind = ("a number from 0", _amount)
SECONDS: Kind = ("a number of seconds", _seconds)

KINDS: Mapping[str, Mapping[str, Kind]] = {
    "split": {
        **dict.fromkeys(("digest", "protocol", "revision", "images", "test_images"), TEXT),
        **dict.fromkeys(("classes", "train", "val", "test"), COUNT),
        **dict.fromkeys(("fitted_classes", "overlap", "short_classes"), COUNT),
        **dict.fromkeys(("templates", "classnames"), TEXTS),
        "mirrored": FLAG,
    },
    "footprint": {
        **dict.fromkeys(("trained", "stored", "backbone", "steps"), AMOUNT),
        **dict.fromkeys(("peak_memory_mb", "images_seen", "images_encoded"), AMOUNT),
        "trained_source": TEXT,
    },
    "timings": dict.fromkeys(("billed_seconds", "elapsed_seconds"), SECONDS),
    "error": dict.fromkeys(("type", "message", "traceback"), TEXT),
}
# All values of these are of one kind.
WHOLE: Mapping[str, Kind] = {"metrics": NUMBER, "digests": TEXT}


def kind_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """What is of another kind than expected; values: of a record, its parts being objects."""
    for part, kinds in KINDS.items():
        inner = values.get(part) or {}
        for name, kind in kinds.items():
            if name in inner:
                yield from _problem(f"{part}.{name}", inner[name], kind)
    for part, kind in WHOLE.items():
        for name, value in values[part].items():
            yield from _problem(f"{part}.{name}", value, kind)
    for place, incident in enumerate(values["incidents"]):
        for name, value in incident.items():
            yield from _problem(f"incidents[{place}].{name}", value, TEXT)


def _problem(name: str, value: object, kind: Kind) -> Iterator[str]:
    expected, fits = kind
    if not fits(value):
        yield f"record's {name} is {value!r:.60}, expected {expected}"
