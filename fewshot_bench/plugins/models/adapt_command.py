"""`fsbench adapt`: parse the options, call `adapt`, print the table of tried methods."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from fewshot_bench.api.method_code import parts
from fewshot_bench.api.spec import AUTO, EXIF, PRECISIONS
from fewshot_bench.cli.completion import backbones, datasets, methods, one_of
from fewshot_bench.cli.options import NUMBER, SIZE, PathName
from fewshot_bench.cli.output import aligned, say
from fewshot_bench.cli.working import working
from fewshot_bench.plugins.models.adapt import BUDGET, KEPT, Adapted, adapt
from fewshot_bench.utils.processes import interrupt_on_signals
from fewshot_bench.utils.text import printable


@click.command("adapt", short_help="Choose and fit a method on your images, and keep the model.")
@click.option(
    "--dataset",
    "-d",
    required=True,
    help="Data set, or FAMILY:ARG such as folder:photos; its test images are left alone.",
    shell_complete=one_of(datasets),
)
@click.option(
    "--output",
    "-O",
    type=PathName(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder of the model, which is made.",
)
@click.option(
    "--method",
    "-m",
    default=AUTO,
    show_default=True,
    help="A method; auto: chosen by cross-validation within the images.",
    shell_complete=one_of(methods),
)
@click.option(
    "--option", "-o", "options", multiple=True, metavar="NAME=VALUE", help="Hyper-parameter."
)
@click.option(
    "--budget",
    default=BUDGET,
    show_default=True,
    metavar="TIME",
    help="Time for all of it: 90s, 10m, 1h.",
)
@click.option("--memory", type=SIZE, help="Most memory of this process, such as 4GB.")
@click.option(
    "--reject",
    type=float,
    is_flag=False,
    flag_value=KEPT,
    metavar="[SHARE]",
    help="Find a probability below which an image belongs to no class: the one that this share of "
    f"right held-out images reaches (alone: {KEPT}).",
)
@click.option("--shots", type=NUMBER, help="Use at most so many images of each class.")
@click.option("--seed", type=NUMBER, default=1, show_default=True, help="Of folds and training.")
@click.option(
    "--backbone",
    default=AUTO,
    show_default=True,
    help="MODEL/TAG[@FILE] or a name.",
    shell_complete=one_of(backbones),
)
@click.option(
    "--precision", type=click.Choice([AUTO, *PRECISIONS]), default=AUTO, show_default=True
)
@click.option("--device", default=AUTO, show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--classnames", type=PathName(path_type=Path), help="Own class names.")
@click.option("--templates", multiple=True, help="Own prompt with {}, or a file of prompts.")
@click.option("--exif", type=click.Choice(EXIF), default="ignore", show_default=True)
@click.option("--skip-damaged", is_flag=True, help="Go on without images that cannot be used.")
@click.option(
    "--keep-support",
    is_flag=True,
    help="Put small pictures of the images into the folder, for fsbench app to show.",
)
@click.option("--force", is_flag=True, help="Replace the model in the folder.")
def command(**values: Any) -> None:
    """Choose and fit a method on your images, and keep the model.

    Methods are compared on images that are held out in turn, from cheap to expensive, within the
    budget; the best one is fitted on all images. Interrupted, it goes on with the best so far.
    """
    interrupt_on_signals()
    with working("adapt", "reading images"):
        adapted = adapt(**values)
    _print(adapted)


def _print(adapted: Adapted) -> None:
    heads = list(adapted.tried[0])
    numbers = [index for index, head in enumerate(heads) if head not in ("method", "note")]
    rows = [tuple(map(printable, row.values())) for row in adapted.tried]
    for line in aligned([tuple(heads), *rows], numbers):
        say(line)
    for note in adapted.notes:
        say(note)
    accuracy, config = adapted.config.accuracy, adapted.config
    text = f"{config.method} on {config.backbone}"
    if accuracy:
        text += (
            f": accuracy {100 * accuracy['mean']:.1f} % on held-out images "
            f"({100 * accuracy['level']:.0f} % interval "
            f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f} %)"
        )
    say(text)
    if config.reject is not None:
        say(f"images with a probability below {config.reject:.3f} belong to no class")
    say(f"model in {adapted.folder}; {_use(adapted)}")


def _use(adapted: Adapted) -> str:
    """The next step with the model: no command runs a file that a model names."""
    own, folder = parts(adapted.config.method), str(adapted.folder)
    if own is not None:
        return f"in Python: load_model({folder!r}, method={own[1]})"
    return f"fsbench predict {shlex.quote(folder)} IMAGES"
