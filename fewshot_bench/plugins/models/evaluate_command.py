"""`fsbench evaluate`: a kept model on the test images of a data set with the same classes."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fewshot_bench.api.metrics import METRICS, PERCENT
from fewshot_bench.api.spec import DEFAULT_STORE
from fewshot_bench.cli.completion import datasets, one_of
from fewshot_bench.cli.options import PathName, device_option, format_option
from fewshot_bench.cli.output import say, warn
from fewshot_bench.cli.working import working
from fewshot_bench.runner.own_data import read_own_data

if TYPE_CHECKING:
    from fewshot_bench.plugins.models.evaluation import Evaluation


@click.command("evaluate", short_help="Measure a kept model on a data set's test images.")
@click.argument("model", type=PathName(path_type=Path), metavar="MODEL")
@click.option(
    "-d",
    "--dataset",
    required=True,
    shell_complete=one_of(datasets),
    metavar="NAME",
    help="A data set with the classes of the model, by name.",
)
@click.option(
    "--store",
    type=PathName(path_type=Path),
    metavar="DIR",
    help="Write a record, with its answers, into this folder of results. Splits of own images "
    f"are read from it, too, and from {DEFAULT_STORE} without it.",
)
@click.option(
    "--classnames",
    type=PathName(path_type=Path),
    help="Own names for the classes of the data set, as the model was made with.",
)
@format_option(("terminal", "json"), "A table, or JSON.")
@device_option
def command(
    model: Path,
    dataset: str,
    store: Path | None,
    classnames: Path | None,
    form: str,
    device: str,
) -> None:
    """Measure the model in the folder MODEL on the test images of a data set.

    Classes are matched by their names. Metrics are those of records, and each class has its
    accuracy. With --store the result is a record like any other, of the protocol `kept`, which no
    table mixes with the cells of a run.
    """
    from fewshot_bench.analysis.model import open_model
    from fewshot_bench.plugins.models.evaluation import measure

    data = read_own_data(classnames, (), None)
    # What a method, a backbone or a data set prints goes to stderr: stdout has the result alone.
    with redirect_stdout(sys.stderr), working("evaluate"):
        opened = open_model(model, device, None, warn)
        evaluation = measure(opened, dataset, store, data)
        if store is not None:
            evaluation = evaluation.write(store)
    values, classes = evaluation.record.metrics, _classes(evaluation)
    key = evaluation.record.spec.key() if store is not None else None
    if form == "json":
        about = {"model": str(model), "dataset": dataset, "images": len(evaluation.ids)}
        about |= {"left_out": evaluation.left_out, "record": key}
        click.echo(json.dumps({**about, "metrics": dict(values), "classes": classes}))
        return
    config = opened.config
    say(f"{config.method} on {config.backbone}, {len(evaluation.ids):,} test images of {dataset}")
    if evaluation.left_out:
        say(f"  {evaluation.left_out:,} more are left out: the model was made from them")
    if evaluation.set_aside:
        say(
            f"  {evaluation.set_aside:,} other images of it are its training part; put all into "
            "test/ to use them"
        )
    if evaluation.later:
        say(f"  {evaluation.later:,} images of it are not in its stored split, and not used")
    for name, metric in METRICS.items():
        unit = " %" if metric.unit == PERCENT else ""
        say(f"  {metric.title:<40} {values[name]:.{metric.digits}f}{unit}")
    for name, value in classes.items():
        say(f"  {name[:40]:<40} {value:.2f} %")
    if key:
        say(f"record {key[:12]} in {store}")


def _classes(evaluation: Evaluation) -> dict[str, float]:
    """The accuracy of each class that has test images, in percent."""
    answers = evaluation.answers
    return {
        name: round(100 * float(answers.hits[answers.labels == label].mean()), 6)
        for label, name in enumerate(evaluation.record.split["classnames"])
        if (answers.labels == label).any()
    }
