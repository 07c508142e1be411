"""`fsbench evaluate`: a kept model on the test images of a data set with the same classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.api.metrics import METRICS, PERCENT, Answers, rounded
from fewshot_bench.api.registry import registry
from fewshot_bench.cli.completion import datasets, one_of
from fewshot_bench.cli.options import device_option, format_option, store_option
from fewshot_bench.cli.output import say, warn
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.text import few

if TYPE_CHECKING:
    from fewshot_bench.analysis.model import Model
    from fewshot_bench.api.items import Item


@click.command("evaluate", short_help="Measure a kept model on a data set's test images.")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@click.option(
    "-d",
    "--dataset",
    required=True,
    shell_complete=one_of(datasets),
    metavar="NAME",
    help="A data set with the classes of the model, by name.",
)
@store_option("The store whose kept splits of own images are used.")
@format_option(("table", "json"), "A table, or JSON.")
@device_option
def command(model: Path, dataset: str, store: Path, form: str, device: str) -> None:
    """Measure the model in the folder MODEL on the test images of a data set.

    Classes are matched by their names. Metrics are those of records, and each class has its
    accuracy. Nothing is written: the numbers are of one model, and stand in no table of runs.
    """
    from fewshot_bench.analysis.model import open_model

    opened = open_model(model, device, None, warn)
    found = registry().dataset(dataset, store=store)
    names = found.card().classnames
    places = _matched(opened.classnames, names, dataset)
    items = found.items().get("test", ())
    if not len(items):
        raise DataMissingError(f"{dataset} has no test images; choose another data set")
    answers = _answers(opened, found, items, places)
    values = rounded(answers)
    correct = answers.predictions == answers.labels
    classes = {
        name: round(100 * float(correct[answers.labels == label].mean()), 6)
        for label, name in enumerate(names)
        if (answers.labels == label).any()
    }
    if form == "json":
        about = {"model": str(model), "dataset": dataset, "images": len(items)}
        click.echo(json.dumps({**about, "metrics": values, "classes": classes}))
        return
    config = opened.config
    say(f"{config.method} on {config.backbone}, {len(items):,} test images of {dataset}")
    for name, metric in METRICS.items():
        unit = " %" if metric.unit == PERCENT else ""
        say(f"  {metric.title:<40} {values[name]:.{metric.digits}f}{unit}")
    for name, value in classes.items():
        say(f"  {name[:40]:<40} {value:.2f} %")


def _matched(known: Sequence[str], asked: Sequence[str], dataset: str) -> list[int]:
    """The model's column of each class of the data set; UsageError where names differ."""
    alone, lacking = [sorted(set(a) - set(b)) for a, b in ((known, asked), (asked, known))]
    if alone or lacking:
        texts = [f"the model alone has {few(alone)}"] if alone else []
        texts += [f"{dataset} alone has {few(lacking)}"] if lacking else []
        raise UsageError(f"classes differ: {'; '.join(texts)}; names must be equal")
    return [known.index(name) for name in asked]


def _answers(model: Model, dataset: Any, items: Sequence[Item], places: list[int]) -> Answers:
    """Answers to the test images; columns in the order of the data set, over the temperature."""
    import numpy as np

    from fewshot_bench.images.given import Encoded

    images = (Encoded(item.id, partial(dataset.read, item)) for item in items)
    logits = model.logits(images).numpy()[:, places] / np.float32(model.config.temperature)
    labels = np.array([item.label for item in items], dtype=np.int64)
    return Answers.of(np.ascontiguousarray(logits), labels)
