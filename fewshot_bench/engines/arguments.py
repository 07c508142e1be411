"""`ARGUMENTS` of `fewshot_bench.run`, each with the kind of its values.

Only types and ranges are checked here; the plan checks names and combinations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewshot_bench.api.defaults import MOST_JOBS, MOST_THREADS
from fewshot_bench.api.spec import ALL_SHOTS, WORD
from fewshot_bench.runner.variants import Option
from fewshot_bench.store.answer_files import KEPT
from fewshot_bench.utils.arguments import (
    FLAG,
    FOLDER,
    Kind,
    names,
    number,
    optional,
    several,
    text,
    whole,
    wholes,
    word,
)
from fewshot_bench.utils.text import SIZES, read_size, split_names


def _shots(value: Any) -> int:
    return ALL_SHOTS if value in (WORD, ALL_SHOTS) else whole(1).read(value)


def _methods(value: Any) -> tuple[Any, ...]:
    given = (value,) if isinstance(value, str | type) or _is_method(value) else value
    found = tuple(
        part for one in given for part in (split_names(one) if isinstance(one, str) else (one,))
    )
    if not found:
        raise ValueError
    return found


def _is_method(value: object) -> bool:
    return callable(getattr(value, "fit", None))


def _options(value: Any) -> tuple[Option, ...]:
    name, values = text("").read, several("", lambda one: one)
    if isinstance(value, Mapping):
        return tuple((name(key), values.read(given)) for key, given in value.items())
    return tuple(several("", name, 0).read(value))


_NAME = text("a name")
# Every argument of `run` except `classnames` and options declared by engines and plug-ins.
ARGUMENTS: Mapping[str, Kind] = {
    "methods": Kind("at least one name, class or object of a method", _methods),
    "datasets": names("at least one name of a data set"),
    "shots": several(f"whole numbers from 1, or '{WORD}'", _shots),
    "seeds": wholes(0),
    "split_seed": optional(whole(0)),
    "options": Kind("a mapping such as {'rank': 4}, or texts such as 'rank=4'", _options),
    **dict.fromkeys(("backbone", "precision", "protocol", "exif", "engine"), _NAME),
    **dict.fromkeys(("val", "prompts"), optional(_NAME)),
    "classes": names("all, base or new"),
    "transfer": names("names of data sets", 0),
    "templates": several("prompts or files of them", text("").read, 0),
    "holdout": optional(number("a number between 0 and 1", lambda share: 0 < share < 1)),
    **dict.fromkeys(("published", "skip_damaged"), FLAG),
    "keep_split": word("store", "data"),
    "limit": optional(whole(1)),
    "store": FOLDER,
    "devices": names("names of devices"),
    **dict.fromkeys(("dry_run", "force", "retry_failed", "keep_stale", "traceback"), FLAG),
    "progress": optional(FLAG),
    "jobs": optional(whole(1, MOST_JOBS)),
    "threads": optional(whole(1, MOST_THREADS)),
    "timeout": optional(number("a number of seconds above 0", lambda seconds: seconds > 0)),
    "hang_after": optional(number("a number of seconds from 1", lambda seconds: seconds >= 1)),
    "lease": optional(number("a number of seconds from 3", lambda seconds: seconds >= 3)),
    "deterministic": FLAG,
    "keep_logits": optional(word(*KEPT)),
    "keep_models": FLAG,
    "feature_budget": optional(Kind(SIZES, read_size)),
}
# Arguments that are passed to `Request` unchanged.
ASKED = (
    *("datasets", "shots", "seeds", "split_seed", "options", "protocol", "val", "prompts"),
    *("limit", "classes", "transfer", "keep_split", "exif", "published", "skip_damaged"),
)
