"""Print how far exported methods are from their models: `python -m scripts.export_table`.

Every built-in method that answers from one image is fitted on parts of scikit-learn's two
photographs, kept, exported in both formats, and compared with its kept model on 200 other parts.
Takes about 20 minutes of CPU time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.models.export import ABOUT, export
from fewshot_bench.runner.fit import Fitted, fit_within_memory
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.runner.session import Session
from fewshot_bench.store.kept_models import config_of, write_model
from fewshot_bench.utils.errors import FsbenchError

NAMES, ROWS, COLUMNS = ("building", "flower"), 10, 12
BY_STEPS = ("2sfs", "adalora", "bitfit", "clip-lora", "clip-svd", "dora", "ln-tuning")
BY_EPOCHS = ("coop", "ivlp", "mmrl", "plot++", "promptsrc", "tcp", "tip-adapter-f")
SHORT = (
    *(f"{name}.iterations=20" for name in BY_STEPS),
    *(f"{name}.epochs=2" for name in BY_EPOCHS),
)
"""Fewer steps where a fit is long: the programs are the same."""
TEST = 100
"""Parts of each photograph to compare on."""
PROGRAMS = (("torch", "fp32"), ("onnx", "fp32"), ("onnx", "fp16"))


def photographs(root: Path) -> None:
    """Write train/ and test/ with one class per photograph."""
    for name, image in zip(NAMES, map(Image.fromarray, load_sample_images().images), strict=True):
        width, height = image.width // COLUMNS, image.height // ROWS
        for number, (row, column) in enumerate(product(range(ROWS), range(COLUMNS))):
            role = "test" if number < TEST else "train"
            (root / role / name).mkdir(parents=True, exist_ok=True)
            left, top = column * width, row * height
            part = image.crop((left, top, left + width, top + height))
            part.save(root / role / name / f"{number}.png")


def kept(name: str, photos: Path, folder: Path, backbone: str) -> Path:
    """Fit a method on two parts of each photograph, keep the model, and return its folder."""
    options = tuple(one for one in SHORT if one.startswith(f"{name}."))
    data = (f"folder:{photos}",)
    request = Request((name,), data, (2,), (1,), options=options, backbone=backbone)
    (spec,) = expand(request).cells
    session = Session()
    cell = session.resolve(spec)
    fitted = fit_within_memory(cell, session, None, lambda: False)
    assert isinstance(fitted, Fitted)
    about = config_of(name, cell.method, fitted.backbone, cell.lists.fitted, exif=spec.exif)
    write_model(folder, about, fitted.classifier.tensors(), "")
    return folder


def rows(root: Path, backbone: str) -> Iterator[str]:
    """A table line per method that answers an image by itself."""
    photos = root / "photos"
    photographs(photos)
    images = [str(one) for one in sorted((photos / "test").rglob("*.png"))]
    for name in registry().methods.names():
        card = card_of(registry().method_class(name)())
        if card is None or (card.sees, card.views_per_query) != ("query", 1):
            continue
        model = kept(name, photos, root / name, backbone)
        cells = []
        for form, precision in PROGRAMS:
            output = root / f"{name}-{form}-{precision}"
            try:
                export(model, form, output, precision=precision, images=images)
            except FsbenchError as error:
                cells.append(str(error).partition("exported: ")[2] or str(error))
                continue
            parity = json.loads((output / ABOUT).read_text())["parity"]
            gap = parity["gap"] / parity["scale"]
            cells.append(f"{gap:.0e}, {parity['differing']} of {parity['images']}")
        yield f"| `{name}` | {' | '.join(cells)} |"


def main(backbone: str = "tiny") -> None:
    """Print the table, a line as soon as it is known."""
    warnings.simplefilter("ignore")
    head = ["method", *(f"{form} {precision}" for form, precision in PROGRAMS)]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    with tempfile.TemporaryDirectory() as folder:
        for line in rows(Path(folder), backbone):
            print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
