"""Findings on cells of one comparison that were made under other conditions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from fewshot_bench.analysis.audit.findings import Finding, Level, some
from fewshot_bench.analysis.conditions import (
    IMAGES_ADVICE,
    OTHER_IMAGES,
    STALE_ADVICE,
    code,
    code_of,
    condition,
    digest,
    own_data,
)
from fewshot_bench.analysis.formats.tidy import finite
from fewshot_bench.api.image_facts import images, images_scope, test_images, test_scope
from fewshot_bench.api.method_card import OTHER_TEXTS, UNTRAINED
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS, canonical_json
from fewshot_bench.utils.text import digest_of

EVERYWHERE = ""
Scope = Callable[[Record], tuple[str, ...]]
_Groups = defaultdict[tuple[str, ...], defaultdict[str, list[Record]]]


class Same(NamedTuple):
    """A fact that must be equal. scope: the records concerned; its first part is the place shown.

    value: text, empty where a record does not say; `why` follows the values.
    """

    hazard: int
    kind: str
    what: str
    scope: Scope
    value: Callable[[Record], str]
    why: str = ""
    level: Level = "finding"


def _all(record: Record) -> tuple[str, ...]:
    return (EVERYWHERE,)


def _dataset(record: Record) -> tuple[str, ...]:
    return (record.spec.dataset,)


def _images(record: Record) -> tuple[str, ...]:
    spec = record.spec
    return (spec.evaluated, str(spec.shots), str(spec.split_seed))


def _policy(record: Record) -> tuple[str, ...]:
    return (*_images(record), record.spec.val)


def _split(record: Record) -> tuple[str, ...]:
    """The inputs of a split: where these differ, digests differ too."""
    spec = record.spec
    return (*_policy(record), spec.protocol, str(spec.limit), spec.revision, own_data(spec))


def _images_of(record: Record) -> tuple[str, ...]:
    return (record.spec.evaluated, str(images_scope(record)))


def _test_images_of(record: Record) -> tuple[str, ...]:
    return (record.spec.evaluated, str(test_scope(record)))


def _prompts(record: Record) -> tuple[str, ...]:
    return (record.spec.evaluated, record.spec.prompts, own_data(record.spec))


def _device(record: Record) -> tuple[str, ...]:
    return (EVERYWHERE, record.spec.device)


def _method(record: Record) -> tuple[str, ...]:
    return (EVERYWHERE, record.spec.method)


def _label(record: Record) -> tuple[str, ...]:
    return (EVERYWHERE, record.spec.label, record.spec.method_version)


def _done_method(record: Record) -> tuple[str, ...]:
    return (EVERYWHERE, code_of(record))


def _code(record: Record) -> str:
    return code(record) if record.status == "done" else ""


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _of_split(name: str) -> Callable[[Record], str]:
    return lambda record: _text(record.split.get(name))


def _of_machine(name: str) -> Callable[[Record], str]:
    return lambda record: _text(record.environment.get(name))


def _templates(record: Record) -> str:
    found = record.split.get("templates")
    return canonical_json(finite(found)) if found else ""


def _limit(record: Record) -> str:
    return "all" if record.spec.limit is None else f"{record.spec.limit} images"


def _options(record: Record) -> str:
    return digest_of(canonical_json(dict(record.spec.options)), 12)


def _schedule(record: Record) -> str:
    return "" if record.schedule == UNTRAINED else record.schedule


def _texts_known(record: Record) -> str:
    """Templates and class names are the task's; other texts are knowledge from elsewhere."""
    found = _text(record.card.get("text"))
    return found if found in ("", OTHER_TEXTS) else "the task's own"


def _known_at_test(record: Record) -> str:
    card = record.card
    return (_text(card.get("at_test")) or "the image and the list of classes") if card else ""


def _weights(record: Record) -> str:
    return _text(record.environment.get("weights_digest") or record.spec.weights)[:12]


_OTHER = f"{OTHER_IMAGES}; {IMAGES_ADVICE}"
_MORE = "some methods know more than others"
_TIMES = "times cannot be compared"
SAME = (
    Same(3, "validation", "validation labels", _images, lambda r: f"val {r.spec.val}"),
    Same(3, "validation", "numbers of validation labels", _policy, _of_split("val")),
    Same(4, "templates", "template sets", _dataset, lambda r: r.spec.prompts),
    Same(4, "templates", "prompts under one name", _prompts, _templates),
    Same(4, "text-knowledge", "texts on classes", _all, _texts_known, _MORE),
    Same(5, "sampling", "sampling protocols", _dataset, lambda r: r.spec.protocol),
    Same(5, "split", "splits", _split, lambda r: digest(r)[:12]),
    Same(5, "images", "images of one split", _images_of, lambda r: images(r)[:12], _OTHER),
    Same(5, "images", "test images", _test_images_of, lambda r: test_images(r)[:12], _OTHER),
    Same(8, "schedule", "schedules", _all, _schedule, "", "note"),
    Same(9, "augmentation", "mirroring", _dataset, _of_split("mirrored")),
    Same(12, "precision", "precisions", _all, lambda r: r.spec.precision),
    Same(14, "revision", "lists of images", _dataset, lambda r: r.spec.revision),
    Same(14, "own-data", "names, templates or hold-out", _dataset, lambda r: own_data(r.spec)),
    Same(0, "test-knowledge", "knowledge at test time", _all, _known_at_test, _MORE),
    Same(0, "limit", "numbers of test images", _all, _limit),
    Same(0, "backbone", "backbones", _all, lambda r: r.spec.backbone),
    Same(0, "weights", "weights", lambda r: (EVERYWHERE, r.spec.backbone), _weights),
    Same(0, "device", "devices", _all, lambda r: r.spec.device, _TIMES),
    Same(0, "machine", "machines", _device, _of_machine("device_name"), _TIMES),
    Same(0, "threads", "numbers of threads", _all, _of_machine("threads"), _TIMES, "note"),
    Same(0, "determinism", "modes of determinism", _all, _of_machine("determinism")),
    Same(0, "method-version", "versions of one method", _method, lambda r: r.spec.method_version),
    Same(0, "method-origin", "packages with one method", _method, _of_machine("method_origin")),
    Same(0, "method-code", "code of one method", _done_method, _code, STALE_ADVICE),
    Same(0, "options", "defaults under one name", _label, _options),
    Same(0, "versions", "versions of fewshot_bench", _all, _of_machine("fewshot_bench")),
    Same(0, "versions", "commits", _all, lambda r: _text(r.environment.get("commit"))[:12]),
    Same(0, "versions", "versions of Python", _all, _of_machine("python")),
)  # fmt: skip
# Conditions that lines above are about; the others have to be the same everywhere.
_ABOVE = ("protocol", "val", "prompts", "backbone", "precision", "device", "limit", "weights")


def differences(records: Sequence[Record]) -> Iterator[Finding]:
    """A finding for everything that is not the same where it has to be."""
    wanted = (*SAME, *_other_conditions(), *_packages(records))
    groups: list[_Groups] = [defaultdict(lambda: defaultdict(list)) for _ in wanted]
    # Record by record, since fields are read when they are used.
    for record in records:
        for same, found in zip(wanted, groups, strict=True):
            value = same.value(record)
            if value:
                found[same.scope(record)][value].append(record)
    for same, found in zip(wanted, groups, strict=True):
        yield from _differing(found, same)


def _other_conditions() -> Iterator[Same]:
    for name, about in CONDITIONS.items():
        if name not in _ABOVE:
            yield Same(0, name, f"values of {about.title}", _all, _condition_of(name))


def _condition_of(name: str) -> Callable[[Record], str]:
    return lambda record: condition(record.spec, name)


def _packages(records: Sequence[Record]) -> list[Same]:
    found = [record.environment.get("packages") for record in records]
    names = sorted({name for packages in found if isinstance(packages, dict) for name in packages})
    return [Same(0, "versions", f"versions of {name}", _all, _version_of(name)) for name in names]


def _version_of(name: str) -> Callable[[Record], str]:
    def version(record: Record) -> str:
        packages = record.environment.get("packages")
        return _text(packages.get(name)) if isinstance(packages, dict) else ""

    return version


def _differing(groups: _Groups, same: Same) -> Iterator[Finding]:
    """One finding for all places where the same methods differ in the same way.

    groups: records by scope and value.
    """
    places: defaultdict[str, list[str]] = defaultdict(list)
    cells: defaultdict[str, list[str]] = defaultdict(list)
    for scope, values in groups.items():
        if len(values) > 1:
            text = _described(values, same)
            places[text].append(scope[0])
            cells[text] += [r.spec.key() for found in values.values() for r in found]
    for text, where in places.items():
        on = f" on {some(where)}" if where[0] else ""
        why = f": {same.why}" if same.why else ""
        line = f"different {same.what}{on}: {text}{why}"
        yield Finding(same.level, same.kind, line, same.hazard, tuple(cells[text]))


def _described(values: dict[str, list[Record]], same: Same) -> str:
    """`v1 (coop), v2 (clip-lora)`; long values and digests of splits by who has which alone."""
    parts = []
    for value in sorted(values):
        labels = some(sorted({record.spec.label for record in values[value]}), 4)
        # What differs from one place to the next would give a line for each.
        told = "" if same.kind == "split" else f"{value:.60} "
        parts.append(f"{told}({labels})")
    return ", ".join(parts)
