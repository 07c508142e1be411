"""`fsbench export`: a kept model as one program from pixels to logits."""

from __future__ import annotations

from pathlib import Path

import click

from fewshot_bench.cli.options import Finite, PathName
from fewshot_bench.cli.output import say, warn
from fewshot_bench.cli.working import working
from fewshot_bench.plugins.models.inputs import list_images
from fewshot_bench.store.hub import PREFIX
from fewshot_bench.utils.text import size_text


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
    help="cpu, cuda:N or auto: where a torch program computes. ONNX runs anywhere.",
)
def command(
    model: Path,
    form: str,
    precision: str,
    output: Path | None,
    images: tuple[str, ...],
    tolerance: float | None,
    device: str,
) -> None:
    """Write the model in the folder MODEL, or hub:USER/NAME@REVISION, as one program.

    The program needs no fewshot_bench. It takes uint8 pixels of any number of images and gives
    logits; how to make pixels stands in program.json beside it, with class names and temperature.
    Nothing is written unless it answers as the model does.
    """
    paths = list(list_images(images)) if images else None
    from fewshot_bench.plugins.models.export import export

    with working("export"):
        done = export(
            model,
            form,
            output or _place(model, form),
            precision=precision,
            images=paths,
            tolerance=tolerance,
            device=device,
            warn=warn,
        )
    say(f"compared on {done.parity}")
    say(f"wrote {done.folder / done.program} ({size_text(done.bytes)}, {done.precision})")


def _place(model: Path, form: str) -> Path:
    """Default output: beside the model; in the working directory for a model on a hub."""
    if str(model).startswith(PREFIX):
        return Path(f"{model.name.partition('@')[0]}-{form}")
    whole = model.resolve()
    return whole.with_name(f"{whole.name}-{form}")
