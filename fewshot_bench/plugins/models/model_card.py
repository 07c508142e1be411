"""The model card of an adapted model: README.md with the metadata that model hubs read.

`card` is the entry point; its numbers come from the config, the table of methods and the notes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from fewshot_bench.plugins.models.budget import duration
from fewshot_bench.plugins.models.rejection import describe
from fewshot_bench.store.kept_models import MACRO, TOP1, ModelConfig
from fewshot_bench.utils.text import printable, shortened

LIBRARY = "fewshot_bench"
# License names on model hubs, by prefix of the open_clip tag of the weights.
LICENSES = {"openai": "mit", "laion": "mit", "datacomp": "mit", "dfn": "apple-amlr"}
UNKNOWN = "other"
ROWS = 200
"""Maximum lines of the table of classes."""
MEASURED = {TOP1: "Accuracy", MACRO: "Mean recall of the classes"}


def license_of(backbone: str) -> str:
    """License of a backbone's weights; `other` if it is not known here."""
    if backbone == "tiny":
        return "apache-2.0"
    tag = backbone.partition("/")[2].partition("@")[0]
    return next((name for start, name in LICENSES.items() if tag.startswith(start)), UNKNOWN)


_CARD = """\
---
{metadata}---

# {title}

{opening}

## Use

```
fsbench predict FOLDER_OF_THIS_MODEL photo.jpg
```

```python
import fewshot_bench as fb

model = fb.load_model("FOLDER_OF_THIS_MODEL")
model.predict(["photo.jpg"])
```

## Classes

{classes}

## Methods that were tried

{methods}

{notes}

## Limits

- {foreign}
- Copies that look different (bursts, frames of a film) make the stated accuracy too good.
- The accuracy is that of methods fitted on a part of the images; other places, cameras or shares \
of classes give other numbers.
"""
_ALL_ANSWERED = "It answers with one of its classes, whatever an image shows."


def card(config: ModelConfig, tried: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """README.md of a model. tried: rows of `Adapted.tried`; notes: on images and search."""
    return _CARD.format(
        metadata=yaml.safe_dump(_metadata(config), sort_keys=False, allow_unicode=True),
        title=f"{_plain(config.data['dataset'])}: {config.method} on {config.backbone}",
        opening="\n\n".join(_introduce(config)),
        classes="\n".join(shortened(list(_table(_list_classes(config))), ROWS)),
        methods="\n".join(_table(list_methods(tried))),
        notes="\n".join(f"- {_plain(note)}" for note in notes),
        foreign=describe(config) or _ALL_ANSWERED,
    )


def list_methods(tried: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table of methods as texts: its heads, and a line for each row of `Adapted.tried`."""
    lines = [["method", "accuracy", "interval", "time", "folds", "note"]]
    for row in tried:
        stated = _state(row["accuracy"], row["low"], row["high"])
        took = [duration(row["seconds"]), str(row["folds"])] if row["folds"] else ["–", "–"]
        note = ": ".join(filter(None, ("chosen" * row["chosen"], row["note"])))
        lines.append([row["method"], *stated, *took, note])
    return lines


def _state(mean: float | None, low: float, high: float) -> list[str]:
    """A share and its interval in percent; dashes for None or NaN."""
    if mean is None or math.isnan(mean):
        return ["–", "–"]
    return [f"{100 * mean:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"]


def _list_classes(config: ModelConfig) -> list[list[str]]:
    """The table of classes as texts, with results if there are any."""
    lines = [["class", "images", "held out", "recall", "interval", "most often taken for"]]
    lines += [[name, f"{count:,}"] for name, count in config.data["images"].items()]
    for line, row in zip(lines[1:], config.classes, strict=False):
        stated = _state(row["recall"], row["low"], row["high"])
        line += [f"{row['images']:,}", *stated, row["most_confused_with"] or "–"]
    return lines if config.classes else [line[:2] for line in lines]


def _table(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table in Markdown; the first is its head."""
    for cells in (lines[0], ["---"] * len(lines[0]), *lines[1:]):
        yield f"| {' | '.join(_plain(text).replace('|', '/') for text in cells)} |"


def _metadata(config: ModelConfig) -> dict[str, Any]:
    from fewshot_bench.backbones.loading import repository_of

    task = "zero-shot-image-classification"
    facts: dict[str, Any] = {
        "license": license_of(config.backbone),
        "library_name": LIBRARY,
        "pipeline_tag": task if config.method == "zero-shot" else "image-classification",
        "tags": ["clip", "few-shot", config.method, LIBRARY],
    }
    base = repository_of(config.backbone)
    if base:
        facts["base_model"] = base
    if config.accuracy:
        value = round(100 * config.accuracy["mean"], 2)
        kind = "recall" if config.accuracy["metric"] == MACRO else "accuracy"
        metric = {"type": kind, "name": f"out-of-fold {kind}", "value": value}
        data = {"name": _plain(config.data["dataset"]), "type": "imagefolder"}
        result = {"task": {"type": "image-classification"}, "dataset": data, "metrics": [metric]}
        facts["metrics"] = [kind]
        facts["model-index"] = [{"name": config.method, "results": [result]}]
    return facts


def _introduce(config: ModelConfig) -> Iterator[str]:
    """The paragraphs of the opening."""
    license = license_of(config.backbone)
    weights = "licence not known here" if license == UNKNOWN else f"licence {license}"
    total, chosen_by = sum(config.data["images"].values()), config.data.get("validation")
    more = f" {chosen_by:,} more images chose its settings." if chosen_by else ""
    yield (
        f"`{config.method}` (version {config.method_version}) was fitted on {total:,} images of "
        f"{len(config.classnames):,} classes. The folder holds what it adds to the backbone "
        f"`{config.backbone}` ({weights}), not the backbone.{more}"
    )
    if not config.accuracy:
        yield "No accuracy is stated: no image was held out."
        return
    a = config.accuracy
    corrected = "It holds"
    if (methods := a.get("methods", 1)) > 1:
        corrected = f"It is corrected for the choice among {methods:.0f} methods, and holds"
    yield (
        f"{MEASURED[a['metric']]} on images that were held out: **{100 * a['mean']:.1f} %** "
        f"({100 * a['level']:.0f} % interval {100 * a['low']:.1f} to {100 * a['high']:.1f} %; "
        f"{a['folds']:.0f} folds, dealt {a['repeats']:.0f} times). {corrected} for images that "
        "come as these did."
    )
    yield (
        f"Probabilities are calibrated (temperature {config.temperature:.4g}); their calibration "
        f"error is {100 * a['calibration_error']:.1f} points."
    )


def _plain(text: str) -> str:
    """An arbitrary name on one line, with Markdown and HTML markup escaped."""
    shown = printable(text)
    return "".join(f"\\{sign}" if sign in "<>[]`*_" else sign for sign in shown)
