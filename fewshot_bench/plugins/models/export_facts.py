"""Facts that a user of an exported program needs, as plain values for `program.json`.

`facts` is the entry point.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fewshot_bench.plugins.models.export_formats import LOGITS, PIXELS, Format
from fewshot_bench.utils.version import __version__

if TYPE_CHECKING:
    from fewshot_bench.analysis.model import Model

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
            "steps": [_step(one) for one in getattr(model.backbone, "_steps", ())],
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


def _step(step: Any) -> dict[str, Any]:
    """Describe a step on a PIL image: a resize or crop by its sizes, any other by its name."""
    kind, size = type(step).__name__, getattr(step, "size", None)
    if kind == "Resize":
        sizes = [size] if isinstance(size, int) else list(size or ())
        what = "shortest_side" if len(sizes) == 1 else "height_width"
        resized = {what: sizes[0] if len(sizes) == 1 else sizes}
        return {"resize": resized, "interpolation": step.interpolation.value}
    if kind == "CenterCrop":
        return {
            "center_crop": {
                "height_width": [size, size] if isinstance(size, int) else list(size or ())
            }
        }
    name = getattr(step, "__name__", "")
    if name == "_convert_to_rgb" or kind == "MaybeConvertMode":
        return {"convert": "RGB"}
    return {"other": name or repr(step)}
