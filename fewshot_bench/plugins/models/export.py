"""Writes a kept model as a program that needs no fewshot_bench: `torch.export` or ONNX.

`export` is the entry point. Nothing is published before the program, read back from its file, has
reproduced the model's logits on real images. `program.json` holds the facts that its user needs.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.model import Model, open_model
from fewshot_bench.plugins.models.export_formats import FORMATS, LOGITS, PIXELS, Ask, Format
from fewshot_bench.plugins.models.place import check_free, put
from fewshot_bench.utils.errors import (
    ContractError,
    DataMissingError,
    NotApplicableError,
    UsageError,
)
from fewshot_bench.utils.files import write_whole
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import few
from fewshot_bench.utils.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor


ABOUT = "program.json"
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-2}
"""Allowed gap between logits relative to their scale, by the coarser precision of the two."""
EMBEDDED = "parts of scikit-learn's two photographs"
TILES = (4, 8)
"""Rows and columns into which each of these photographs is cut."""
BATCH, ALONE = 24, 4
"""Batch size for the exported program, and number of images that are also predicted one by one."""


@dataclass(frozen=True)
class Parity:
    """Agreement of a program with its model on images.

    gap: the largest absolute difference of two logits. scale: the median absolute logit, at least
    1. tolerance: the largest gap / scale allowed. differing: images with another predicted class.
    """

    images: int
    source: str
    gap: float
    scale: float
    tolerance: float
    differing: int

    def __str__(self) -> str:
        return (
            f"{self.images} images ({self.source}): largest gap of a logit {self.gap:.1e}, allowed "
            f"{self.tolerance:g} of their scale {self.scale:.3g}; {self.differing} predictions "
            "differ"
        )


@dataclass(frozen=True)
class Exported:
    """A program that was written into `folder`."""

    folder: Path
    program: str
    bytes: int
    precision: str
    parity: Parity


def export(
    path: Path,
    form: str,
    output: Path,
    *,
    precision: str = "fp32",
    images: Iterable[str] | None = None,
    tolerance: float | None = None,
    device: str = "cpu",
    method: type | str | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Exported:
    """Write the model in the folder `path` as a program into the folder `output`.

    form: `torch` or `onnx`. precision: of the encoder, `fp32` or `fp16`. images: paths of images to
    compare on. tolerance: as in `Parity`; by default from `TOLERANCE`. method: as in `load_model`.
    UsageError if the model
    cannot be exported, or the program answers otherwise: then nothing is written.
    """
    written = FORMATS[form]
    written.require()
    refuse = partial(_refuse_other, output)
    check_free(output, refuse)
    model = open_model(path, device, method, warn)
    if unknown := [step["other"] for step in steps_of(model) if "other" in step]:
        warn(
            f"the preprocessing has steps that {ABOUT} can only name: {few(unknown)}; whoever "
            "makes pixels for the program needs code of their own for them"
        )
    exact = model
    if model.config.precision != precision:
        # Its warnings were given when the model was opened first.
        exact = open_model(model.path, device, method, lambda text: None, precision=precision)
    pictures, source = _pictures(images, model.config.exif == "rotate")
    if tolerance is None:
        tolerance = max(TOLERANCE[precision], TOLERANCE[model.config.precision])
    parities: list[Parity] = []

    def write(folder: Path) -> None:
        current().step("writing the program")
        ask = written.write(_trace(path, exact), folder / written.file)
        current().step("comparing it with the model")
        parity = _compare(model, ask, pictures, source, tolerance)
        if not parity.gap <= tolerance * parity.scale:
            raise UsageError(f"{path}: the {form} program answers otherwise on {parity}")
        about = facts(model, form, precision, written) | {"parity": asdict(parity)}
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        write_whole(folder / ABOUT, text.encode("utf-8", "backslashreplace"))
        parities.append(parity)

    names = dict.fromkeys((*_list_earlier(output), *written.files, ABOUT))
    folder = put(output, tuple(names), refuse, write)
    size = sum((folder / name).stat().st_size for name in written.files if (folder / name).exists())
    return Exported(folder, written.file, size, precision, parities[0])


def _refuse_other(output: Path, entries: list[Path]) -> str:
    """The reason why a folder that is not empty must not be filled: it holds no earlier program."""
    if (output / ABOUT).is_file():
        return ""
    return "is there and holds no program; choose another --output"


def _trace(path: Path, model: Model) -> Any:
    from fewshot_bench.images.pixel_program import trace

    try:
        return trace(model.classifier, model.backbone)
    except NotApplicableError as error:
        method = model.config.method
        raise UsageError(f"{path}: a model of {method} cannot be exported: {error}") from error


def _pictures(images: Iterable[str] | None, rotate: bool) -> tuple[list[Image.Image], str]:
    """Decoded images, and their source as text."""
    from fewshot_bench.images.decode import decode_or_explain, upright

    if images is None:
        return _tiles(), EMBEDDED
    pictures = []
    for path in images:
        try:
            picture = decode_or_explain(Path(path).read_bytes())
        except OSError as error:
            picture = f"cannot be read: {error.strerror}"
        if isinstance(picture, str):
            raise DataMissingError(f"{path} {picture}; leave it out, or mend it")
        pictures.append(upright(picture) if rotate else picture)
    return pictures, "given"


def _tiles() -> list[Image.Image]:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rows, columns = TILES
    tiles = []
    for photograph in map(Image.fromarray, load_sample_images().images):
        width, height = photograph.width // columns, photograph.height // rows
        corners = product(range(0, columns * width, width), range(0, rows * height, height))
        tiles += [photograph.crop((x, y, x + width, y + height)) for x, y in corners]
    return tiles


def _compare(
    model: Model, ask: Ask, pictures: Sequence[Image.Image], source: str, tolerance: float
) -> Parity:
    """Compare the program's logits with the model's, in batches and one by one."""
    import numpy as np
    import torch

    from fewshot_bench.images.augment import pixels_of

    expected = model.logits(pictures)
    # (n, 3, h, w) uint8, as the program takes them.
    pixels = np.stack([pixels_of(model.backbone.preprocess(picture)) for picture in pictures])
    batches = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
    alone = [pixels[index : index + 1] for index in range(min(ALONE, len(pixels)))]
    answers = torch.cat([_answer(ask, batch, len(model.classnames)) for batch in batches + alone])
    wanted = torch.cat([expected, expected[: len(alone)]])
    gap = (answers.double() - wanted.double()).abs().max()
    differing = (answers.argmax(1) != wanted.argmax(1))[: len(pixels)].sum()
    scale = max(1.0, float(expected.abs().median()))
    return Parity(len(pixels), source, float(gap), scale, tolerance, int(differing))


def _answer(ask: Ask, pixels: np.ndarray[Any, Any], classes: int) -> Tensor:
    try:
        logits = ask(pixels)
    except Exception as error:
        words = " ".join(str(error).split())
        raise NotApplicableError(
            f"the program fails on {len(pixels)} images ({type(error).__name__}: {words:.160})"
        ) from error
    if tuple(logits.shape) != (len(pixels), classes):
        raise ContractError(f"the program gives {tuple(logits.shape)} for {len(pixels)} images")
    return logits


def _list_earlier(output: Path) -> tuple[str, ...]:
    """The files that the earlier program in a folder may consist of, in either format.

    Empty if `program.json` was not written here.
    """
    try:
        about = json.loads((output / ABOUT).read_bytes())
        written = about["program"], about["kind"], about["made_by"]["fewshot_bench"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ()
    if written[:2] not in {(form.file, kind) for kind, form in FORMATS.items()}:
        return ()
    return tuple(name for form in FORMATS.values() for name in form.files)


FORMAT = 1


def facts(model: Model, form: str, precision: str, written: Format) -> dict[str, Any]:
    """Input and output of the program, classes, preprocessing, and where it comes from."""
    config, (height, width) = model.config, model.backbone.image_size
    return {
        "format": FORMAT,
        "program": written.file,
        "kind": form,
        "precision": precision,
        "input": {
            "name": PIXELS,
            "dtype": "uint8",
            "shape": ["images", 3, height, width],
            "channels": "RGB",
        },
        "output": {
            "name": LOGITS,
            "dtype": "float32",
            "shape": ["images", len(config.classnames)],
            "probabilities": "softmax(logits / temperature)",
        },
        "classes": list(config.classnames),
        "temperature": config.temperature,
        "reject": config.reject,
        "preprocessing": {
            "exif": config.exif,
            "steps": steps_of(model),
            "in_program": {
                "divide_by": 255,
                "mean": list(getattr(model.backbone, "_mean", ())),
                "std": list(getattr(model.backbone, "_std", ())),
            },
        },
        "model": {
            "method": config.method,
            "method_version": config.method_version,
            "backbone": config.backbone,
            "weights_digest": config.weights_digest,
            "precision": config.precision,
            "digest": config.as_json()["digest"],
        },
        "made_by": {"fewshot_bench": __version__}
        | {name: version(name) for name in ("torch", *written.packages)},
    }


def steps_of(model: Model) -> list[dict[str, Any]]:
    """The steps from a PIL image to pixels, in order."""
    return [_step(step) for step in getattr(model.backbone, "_steps", ())]


def _step(step: Any) -> dict[str, Any]:
    """Describe a step on a PIL image: a resize or crop by its sizes, any other by its name."""
    kind, size = type(step).__name__, getattr(step, "size", None)
    sizes = [size] if isinstance(size, int) else list(size or ())
    if kind == "Resize":
        resized = {"shortest_side": sizes[0]} if len(sizes) == 1 else {"height_width": sizes}
        return {"resize": resized, "interpolation": step.interpolation.value}
    if kind == "CenterCrop":
        return {"center_crop": {"height_width": sizes * 2 if len(sizes) == 1 else sizes}}
    name = getattr(step, "__name__", "")
    if name == "_convert_to_rgb" or kind == "MaybeConvertMode":
        return {"convert": "RGB"}
    return {"other": name or repr(step)}
