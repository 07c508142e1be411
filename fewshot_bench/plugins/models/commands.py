"""The commands that make and use kept models: parse the options, call, print."""

from __future__ import annotations

import csv
import io
import ipaddress
import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource

from fewshot_bench.analysis.formats.tidy import field
from fewshot_bench.api.metrics import METRICS, PERCENT
from fewshot_bench.api.spec import AUTO, DEFAULT_STORE, EXIF, PRECISIONS
from fewshot_bench.cli.completion import backbones, datasets, methods, one_of
from fewshot_bench.cli.options import (
    NUMBER,
    SIZE,
    Finite,
    PathName,
    device_option,
    format_option,
    output_option,
)
from fewshot_bench.cli.output import refuse_image, refuse_kept, replaced, say, warn
from fewshot_bench.cli.working import working
from fewshot_bench.plugins.models.budget import BUDGET, KEPT
from fewshot_bench.plugins.models.inputs import iterate_images, list_images
from fewshot_bench.runner.own_data import name_own, read_own_data
from fewshot_bench.store.hub import PREFIX
from fewshot_bench.store.kept_models import CONFIG, MEASURES, TOP1
from fewshot_bench.utils.errors import UsageError, require
from fewshot_bench.utils.processes import interrupt_on_signals
from fewshot_bench.utils.progress import Work
from fewshot_bench.utils.text import encodable, printable, size_text

if TYPE_CHECKING:
    from fewshot_bench.analysis.model import Model, Prediction

WIDEST = 40
"""Maximum characters of a class name in a table."""
Row = dict[str, str | float | bool | None]
Line = Callable[[Row], str]


code_option = click.option(
    "--method",
    metavar="FILE.py:CLASS",
    help="The code of a method that no plug-in registers; it runs.",
)


@click.command("adapt", short_help="Choose and fit a method on your images, and keep the model.")
@click.option(
    "--dataset",
    "-d",
    help="A folder or table of images, or a data set; its test images are left alone.",
    shell_complete=one_of(datasets),
)
@click.option(
    "--output",
    "-O",
    type=PathName(path_type=Path),
    metavar="DIR",
    help="Folder of the model, which is made; with --add, by default MODEL.",
)
@click.argument("model", type=PathName(path_type=Path), metavar="[MODEL]", required=False)
@click.option(
    "--add",
    multiple=True,
    metavar="FOLDER",
    help="Fit MODEL anew, by its method and options, with more images or classes (repeatable).",
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
    "--metric",
    type=click.Choice(MEASURES),
    default=TOP1,
    show_default=True,
    help="Choose by and state right answers, or the mean recall of the classes.",
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
    type=Finite(0, 1, min_open=True, max_open=True),
    is_flag=False,
    flag_value=KEPT,
    metavar="[SHARE]",
    help="Find a probability below which an image belongs to no class: the one that this share of "
    f"right held-out images reaches (alone: {KEPT}).",
)
@click.option(
    "--negatives",
    type=PathName(path_type=Path),
    metavar="FOLDER",
    help="Images of none of the classes: they set that probability, and tell how many it catches.",
)
@click.option("--shots", type=NUMBER, help="Use at most so many images of each class.")
@click.option(
    "--relabel",
    type=PathName(path_type=Path),
    metavar="FILE.csv",
    help="Correct labels by rows with x in the column accept, such as of a model's suspects.csv.",
)
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
@device_option
@click.option("--classnames", type=PathName(path_type=Path), help="Own class names.")
@click.option("--templates", multiple=True, help="Own prompt with {}, or a file of prompts.")
@click.option(
    "--exif",
    type=click.Choice([AUTO, *EXIF]),
    default=AUTO,
    show_default=True,
    help="EXIF orientations; auto rotates your own images.",
)
@click.option("--keep-contradictions", is_flag=True, help="Count pictures under two labels, too.")
@click.option("--skip-damaged", is_flag=True, help="Skip damaged images and empty classes.")
@click.option(
    "--keep-support",
    is_flag=True,
    help="Put small pictures of the images into the folder, for fsbench app to show.",
)
@click.option("--force", is_flag=True, help="Replace the model in the folder.")
def adapt(**values: Any) -> None:
    """Choose and fit a method on your images, and keep the model.

    Methods are compared on images that are held out in turn, from cheap to expensive, within the
    budget; the best one is fitted on all images. Interrupted, it goes on with the best so far.
    With --add, an earlier model takes more images; --dataset is where those of then are now.
    """
    from fewshot_bench.plugins.models import adapt as adapting
    from fewshot_bench.plugins.models import extend as extending
    from fewshot_bench.plugins.models.summary import summarize

    add = bool(values["add"])
    if add != (values["model"] is not None):
        raise UsageError("name MODEL and --add for more images in a model, or images by --dataset")
    context, default = click.get_current_context(), ParameterSource.DEFAULT
    given = {k: v for k, v in values.items() if context.get_parameter_source(k) is not default}
    for option in context.command.params:
        if not add and option.name in {"dataset", "output"} - given.keys():
            raise click.MissingParameter(ctx=context, param=option)
    interrupt_on_signals()
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        say(line)

    with working("adapt", "reading images"):
        adapted = (extending.extend if add else adapting.adapt)(**given, say=tell)
    for line in summarize(adapted, said):
        say(line)


@click.command("export", short_help="Write a kept model as a torch or ONNX program.")
@click.argument("model", type=PathName(path_type=Path), metavar="MODEL")
@click.option(
    "--format",
    "form",
    type=click.Choice(("torch", "onnx")),
    required=True,
    help="torch.export (model.pt2), or ONNX (model.onnx; needs the extra [export]).",
)
@click.option(
    "--precision",
    type=click.Choice(("fp32", "fp16")),
    default="fp32",
    show_default=True,
    help="Of the encoder; the head is always fp32.",
)
@click.option(
    "-O",
    "--output",
    type=PathName(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write into this folder; by default MODEL-torch or MODEL-onnx, beside the model.",
)
@click.option(
    "--images",
    multiple=True,
    metavar="IMAGES",
    help="Compare on these files, folders or 'patterns' (repeatable); by default on parts of two "
    "photographs that scikit-learn holds.",
)
@click.option(
    "--tolerance",
    type=Finite(0, min_open=True),
    metavar="X",
    help="Allow this gap of logits, in parts of their scale; by default 1e-4, 0.02 with fp16, 0.05 "
    "with a model in bf16.",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="DEVICE",
    help="cpu, a card such as cuda, or auto: where a torch program computes. ONNX runs anywhere.",
)
@code_option
def export(
    model: Path, form: str, output: Path | None, images: tuple[str, ...], **more: Any
) -> None:
    """Write the model in the folder MODEL, or hub:USER/NAME@REVISION, as one program.

    The program needs no fewshot_bench. It takes uint8 pixels of any number of images and gives
    logits; how to make pixels stands in program.json beside it, with class names and temperature.
    Nothing is written unless it answers as the model does.
    """
    if output is None and str(model).startswith(PREFIX):
        output = Path(f"{model.name.partition('@')[0]}-{form}")
    elif output is None:
        output = model.resolve().with_name(f"{model.resolve().name}-{form}")
    from fewshot_bench.plugins.models import export as exporting

    paths = list(list_images(images)) if images else None
    with working("export"):
        done = exporting.export(model, form, output, images=paths, warn=warn, **more)
    say(f"compared on {done.parity}")
    say(f"wrote {done.folder / done.program} ({size_text(done.bytes)}, {done.precision})")


@click.command("predict", short_help="Classify images with a kept model.")
@click.argument("model", type=PathName(path_type=Path), metavar="MODEL")
@click.argument("images", nargs=-1, metavar="IMAGES...")
@format_option(("terminal", "csv", "jsonl"), "A table, CSV, or JSON lines.")
@click.option(
    "--top",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="K",
    help="Show so many classes; class and runner-up are always there.",
)
@output_option()
@click.option(
    "--sort-into",
    type=PathName(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Copy each picture into the folder of its class in DIR, those without one into rejected/ "
    "and unreadable/. Nothing is overwritten; the same command again goes on.",
)
@click.option("--link", is_flag=True, help="Link pictures in place of copying them.")
@device_option
@code_option
def predict(
    model: Path,
    images: tuple[str, ...],
    form: str,
    top: int,
    output: Path | None,
    sort_into: Path | None,
    link: bool,
    device: str,
    method: str | None,
) -> None:
    """Classify images with the model in the folder MODEL, or hub:USER/NAME@REVISION.

    IMAGES are files, folders (with all images below them, sorted), patterns such as 'new/*.jpg',
    or - for paths on standard input, one per line. An image that cannot be read has an error in
    place of a class, and the exit code is 1.
    """
    if output is not None:
        refuse_image(output)
        refuse_kept(output, "--output")
    if sort_into is not None:
        refuse_kept(sort_into / CONFIG, "--sort-into")
    elif link:
        raise UsageError("--link: expected with --sort-into, which it is about")
    paths = iterate_images(images)
    from fewshot_bench.analysis.model import columns, open_model
    from fewshot_bench.plugins.models.sorting import Sorter

    stdout, done, failed = sys.stdout, 0, 0
    # What a method or a backbone prints goes to stderr: stdout has rows alone.
    with redirect_stdout(sys.stderr), _progress("-" in images, output, stdout) as work:
        opened = open_model(model, device, method, warn)
        count = min(top, len(opened.classnames))
        line = _LINES[form](columns(count), opened)
        sorter = sort_into and Sorter(sort_into, images, opened.classnames, link)
        work.step("images")
        with _open_writer(output, stdout) as write:
            if form != "jsonl":
                write(line({name: name for name in columns(count)}))
            for prediction in _answers(opened, paths, top):
                done += 1
                failed += bool(prediction.problem)
                write(line(prediction.row(count)))
                if sorter:
                    sorter.put(prediction)
                work.advance()
            if not done:
                # Raised here, so that an earlier file stays.
                raise UsageError("no path came on standard input; write one per line")
    if sorter:
        parts = (f"{number:,} {printable(name)}" for name, number in sorter.counts.items())
        click.echo(f"sorted into {printable(str(sort_into))}: {', '.join(parts):.400}", err=True)
    if failed:
        click.echo(f"{failed:,} of {done:,} images could not be read", err=True)
        sys.exit(1)


def _answers(model: Model, paths: Iterator[str | None], top: int) -> Iterator[Prediction]:
    """Predictions in order; those of paths before a None do not wait for later paths."""
    for first in paths:
        if first is not None:
            yield from model.stream(chain((first,), iter(paths.__next__, None)), top=top)


def _csv(head: list[str], model: Model) -> Line:
    def line(row: Row) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([field(row[name]) for name in head])
        return text.getvalue()

    return line


def _table(head: list[str], model: Model) -> Line:
    """Column widths depend on the class names only, so that each row can be shown at once."""
    names = [printable(name) for name in (*model.classnames, "class")]
    width = max(len("runner_up"), min(WIDEST, max(map(len, names))))

    def line(row: Row) -> str:
        cells = []
        for name, value in zip(head[1:-2:2], head[2:-2:2], strict=True):
            shown = "-" if row[name] is None else printable(str(row[name]))
            shown = shown if len(shown) <= width else f"{shown[: width - 1]}…"
            share = row[value]
            if share == value:
                share = "share"
            elif share is not None:
                share = f"{100 * float(share):.1f} %"
            cells.append(f"{shown:<{width}}  {share or '':>7}")
        if model.config.reject is not None:
            cells.append(f"{'rejected' if row['rejected'] else '':<8}")
        error = "" if row["error"] in (None, "error") else f": {row['error']}"
        return "  ".join([*cells, printable(f"{row['image']}{error}")]) + "\n"

    return line


_LINES: dict[str, Callable[[list[str], Model], Line]] = {
    "terminal": _table,
    "csv": _csv,
    "jsonl": lambda head, model: lambda row: json.dumps(row) + "\n",
}


@contextmanager
def _open_writer(output: Path | None, stdout: TextIO) -> Iterator[Callable[[str], None]]:
    """Write lines to stdout, or to a file that is put in place only on success."""
    if output is None:
        yield lambda text: click.echo(encodable(text), file=stdout, nl=False, color=True)
        return
    with replaced(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield lambda text: click.echo(encodable(text), file=file, nl=False, color=True)


def _progress(waits: bool, output: Path | None, stdout: TextIO) -> AbstractContextManager[Work]:
    """Progress on stderr, unless a terminal shows the results or paths are waited for."""
    if waits or (output is None and stdout.isatty()):
        return nullcontext(Work())
    return working("predict")


@click.command("evaluate", short_help="Measure a kept model on a data set's test images.")
@click.argument("model", type=PathName(path_type=Path), metavar="MODEL")
@click.option(
    "-d",
    "--dataset",
    required=True,
    shell_complete=one_of(datasets),
    metavar="NAME",
    help="A folder, table or data set with the classes of the model, by name.",
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
@code_option
def evaluate(
    model: Path,
    dataset: str,
    store: Path | None,
    classnames: Path | None,
    form: str,
    device: str,
    method: str | None,
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
        opened = open_model(model, device, method, warn)
        evaluation = measure(opened, name_own(dataset), store, data)
        if store is not None:
            evaluation = evaluation.write(store)
    values, classes = evaluation.record.metrics, evaluation.list_classes()
    key = evaluation.record.spec.key() if store is not None else None
    if form == "json":
        about = {"model": str(model), "dataset": dataset, "images": len(evaluation.ids)}
        about |= {"left_out": evaluation.left_out, "unsearched": evaluation.unsearched}
        about |= {"record": key}
        click.echo(json.dumps({**about, "metrics": dict(values), "classes": classes}))
        return
    config = opened.config
    say(f"{config.method} on {config.backbone}, {len(evaluation.ids):,} test images of {dataset}")
    if evaluation.left_out:
        say(f"  {evaluation.left_out:,} more are left out: they copy images of the fit")
    if evaluation.unsearched:
        say(f"  {evaluation.unsearched}")
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


@click.command("app", short_help="Open a page that classifies images with a kept model.")
@click.argument("model", metavar="MODEL")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--max-size",
    type=SIZE,
    default="10MB",
    show_default=True,
    help="The largest file that is taken.",
)
@device_option
@code_option
def app(model: str, host: str, port: int, max_size: int, device: str, method: str | None) -> None:
    """Serve a page that classifies images with the model in the folder MODEL.

    Its address is the first line that is printed; MODEL may be hub:USER/NAME@REVISION too. Images
    are not stored. The same as an API: curl --data-binary @photo.jpg ADDRESS/predict. Ctrl-C ends
    it.
    """
    if max_size < 1:
        raise UsageError(f"--max-size {max_size}: no file fits; expected a size such as 10MB")
    for package in ("starlette", "uvicorn"):
        require(package, "app", "fsbench app")
    from fewshot_bench.analysis.model import open_model
    from fewshot_bench.plugins.models.app import application
    from fewshot_bench.plugins.models.connections import listen, serve

    with listen(host, port) as listener:
        address, taken = listener.getsockname()[:2]
        loopback = ipaddress.ip_address(address).is_loopback
        names = {"localhost", host} if loopback else {"localhost", host, socket.gethostname()}
        with working("app"):
            opened = open_model(model, device, method, warn)
        page = application(opened, max_size, names, warn)
        shown = host if host not in ("0.0.0.0", "::", "") else "127.0.0.1"
        say(f"http://{f'[{shown}]' if ':' in shown else shown}:{taken}")
        if not loopback:
            warn(f"whoever reaches {address} may ask this model: there is no password")
        serve(page, listener)


@click.command("push", short_help="Put a kept model on a hub.")
@click.argument("model", metavar="MODEL")
@click.argument("destination", metavar="hub:USER/NAME")
@click.option("--private", is_flag=True, help="Let only those with access see it.")
@click.option(
    "--revision",
    default="",
    metavar="BRANCH",
    help="Write to this branch, which is made if need be; without it, to the main one.",
)
def push(model: str, destination: str, private: bool, revision: str) -> None:
    """Put the model in the folder MODEL on a hub, as one commit.

    The files are checked first, and a model card (README.md) has to be there. The repository is
    made if need be. The hub is the one of HF_ENDPOINT, the token that of `hf auth login` or
    HF_TOKEN. Whatever takes a model takes the name that is printed.
    """
    from fewshot_bench.store import hub

    with working("push"):
        folder = hub.model_folder(model, warn)
        name = hub.push(folder, destination, private=private, branch=revision)
    say(str(name))
