"""Statements of records, as columns of a frame that all checks of an audit share.

`load_stated` loads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.frame import Computed, decode, encode, load
from fewshot_bench.api.method_card import (
    OTHER_TEXTS,
    UNTRAINED,
    default_schedule,
    knowledge_at_test,
    schedule_with,
)
from fewshot_bench.api.plugins import OWN
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS, Condition
from fewshot_bench.utils.text import digest_of

if TYPE_CHECKING:
    import pandas as pd

_OF_MACHINE = ("determinism", "device_name", "threads", "fewshot_bench", "commit", "python")
# Facts usually equal in all cells, shown once in that case: name of the fact to its column.
SHARED: Mapping[str, str] = {
    "protocol": "protocol",
    "val_policy": "val",
    **{name: name for name in ("prompts", "backbone", "precision", "device", "limit")},
    "own_data": "own data",
    **{name: f"environment.{name}" for name in _OF_MACHINE},
}
ORDER = ("evaluated", "label", "shots", "split_seed", "train_seed")


def text(value: Any) -> str:
    """The value as text; empty for None."""
    return "" if value is None else str(value)


def number(value: object) -> int | None:
    """The value if it is an int (bool excluded), else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_mapping(stated: str | None) -> Mapping[str, Any]:
    """The object that a column holds as JSON; empty for anything else."""
    try:
        value = decode(stated)
    except (TypeError, ValueError):
        return {}
    return value if isinstance(value, Mapping) else {}


def read_kit(stated: object) -> Mapping[str, Any]:
    """The recorded result of the conformance kit for a cell's code; empty if malformed."""
    kit = stated if isinstance(stated, Mapping) else {}
    version, passed, failed = (kit.get(name) for name in ("version", "passed", "failed"))
    expected = kit.get("expected", {})
    is_whole = number(version) is not None and number(passed) is not None
    if not is_whole or not isinstance(failed, list | tuple) or not isinstance(expected, Mapping):
        return {}
    names = [str(name) for name in failed]
    return {"version": version, "passed": passed, "failed": names, "expected": dict(expected)}


def _kit_mark(stated: str | None) -> str:
    """`v3` if that version of the kit was passed, else `2 broken`; empty if never checked."""
    kit = read_kit(read_mapping(stated))
    if kit.get("failed"):
        return f"{len(kit['failed'])} broken"
    return f"v{kit['version']}" if kit else ""


def _kit_text(stated: str | None, is_stated: bool) -> str:
    """Clause to follow a method's name: the kit result that a cell's record states for its code."""
    kit = read_kit(read_mapping(stated))
    if not kit and not is_stated:
        return "does not tell whether the conformance kit checked it"
    if not kit:
        return "never checked by the conformance kit"
    failed, expected = kit["failed"], kit["expected"]
    total = kit["passed"] + len(failed) + len(expected)
    which = f"version {kit['version']} of the kit in this state of its code"
    said = f"passed {which} ({kit['passed']} of {total} rules)"
    if failed:
        said = f"breaks {len(failed)} of {total} rules of {which} ({', '.join(failed)})"
    return said + "".join(f"; breaks {rule} as declared: {why}" for rule, why in expected.items())


def _picks_word(digest: Any, train: Any, verified: Any) -> str | None:
    """True if the picks are the published ones; None without a split."""
    words = {True: "yes", False: "no", None: "n/a"}
    return words.get(verified) if {digest, train, verified} != {None} else None


def _schedule(card: str | None, overrides: str) -> str:
    schedule = schedule_with(default_schedule(read_mapping(card)), read_mapping(overrides))
    return "" if schedule == UNTRAINED else schedule


def _texts_known(card: str | None) -> str:
    """Merge templates and class names, which the task provides; other texts are extra knowledge."""
    stated = text(read_mapping(card).get("text"))
    return stated if stated in ("", OTHER_TEXTS) else "the task's own"


def _test_knowledge(card: str | None) -> str:
    facts = read_mapping(card)
    return knowledge_at_test(*(text(facts.get(n)) for n in ("at_test", "sees"))) if facts else ""


def _weights(done: bool, loaded: Any, named: str) -> str:
    # Only finished cells state the loaded weights: their digest is not that of the named file.
    return text(loaded or named)[:12] if done else ""


def _condition(about: Condition) -> Callable[[Any], str]:
    # An empty value counts as one: show it as ''.
    return lambda value: about.text(value) or "''"


def _of(column: str, compute: Callable[[Any], Any]) -> Computed:
    return Computed((column,), compute)


# Whether the labels were held apart from the method's code.
HELD = "environment.labels"
OF_CONDITIONS = tuple(f"condition {name}" for name in CONDITIONS)
STATED: Mapping[str, Computed] = {
    "kit": _of("environment.kit", _kit_mark),
    "kit text": Computed(("environment.kit", "kit stated"), _kit_text),
    "own code": _of("environment.code", lambda code: read_mapping(code).get("distribution") == OWN),
    # Finished cells of foreign code that the conformance kit never saw.
    "unchecked": Computed(
        ("done", "own code", "kit stated", "kit"),
        lambda done, own, is_stated, kit: bool(done and is_stated and not (own or kit)),
    ),
    # Configurations compared, validation labels used for that, and images encoded, as pixels or as
    # features, including the evaluated ones (`images_seen` counts pixels only, so it is 0 for a
    # method that trains on features).
    "tried": _of("footprint.selection.configurations", number),
    "labels used": _of("footprint.selection.labels", number),
    "labels uncounted": Computed(
        ("footprint.selection.labels_read", "footprint.selection.labels"),
        lambda are_read, used: bool(are_read and not used),
    ),
    "images billed": _of("footprint.work.billed.images", number),
    "allowed": _of("split.val", number),
    "trained": _of("footprint.trained", number),
    "steps": _of("footprint.steps", number),
    "published picks": Computed(("split.digest", "split.train", "split.verified"), _picks_word),
    "policy": _of("val", "val {}".format),
    "validation labels": _of("split.val", text),
    "templates": _of("split.templates", lambda stated: "" if stated == "[]" else text(stated)),
    "texts known": _of("footprint.card", _texts_known),
    "schedule": Computed(("footprint.card", "overrides"), _schedule),
    "mirrored": _of("split.mirrored", text),
    "at test": _of("footprint.card", _test_knowledge),
    "limit text": _of("limit", lambda limit: "all" if limit is None else f"{limit} images"),
    "weights start": Computed(("done", "environment.weights_digest", "weights"), _weights),
    "code of done": Computed(("done", "code"), lambda done, code: code if done else ""),
    "options digest": _of("options", lambda options: digest_of(options, 12)),
    **{name: _of(f"environment.{name}", text) for name in (*_OF_MACHINE, "method_origin")},
    "commit": _of("environment.commit", lambda commit: text(commit)[:12]),
    **{
        f"condition {name}": _of(about.column, _condition(about))
        for name, about in CONDITIONS.items()
    },
}
# Entries of records that are read as they are.
_READ = (
    *("environment.kit", HELD, "environment.load", "environment.cpus", "environment.dirty"),
    *("environment.packages", "split.digest", "footprint.trained_source", "footprint.metered"),
    *("footprint.violations", "footprint.card.sees", "footprint.moved"),
    *("footprint.depends_on_queries", "split.overlap", "split.test", "split.verified"),
    *("status", "incidents", "target", "val", "prompts", "overrides", "revision"),
)
_ABSENT = object()


def load_stated(data: pd.DataFrame, others: Iterable[str] = ()) -> pd.DataFrame:
    """Load what an audit reads, and other columns, so that each record is read once for both."""
    kits = Record.entries(data["record"].tolist(), "environment", "kit", absent=_ABSENT)
    data["kit stated"] = encode([kit is not _ABSENT for (kit,) in kits])
    names = (*ORDER, "done", "code", "split", "dataset", *SHARED.values(), *_READ, *STATED, *others)
    return load(data, *names, declared=STATED)
