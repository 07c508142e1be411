"""`open_clip_config.json`: what it may say, checked before a model is built of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fewshot_bench.utils.errors import DataMissingError, UsageError

CONFIG = "open_clip_config.json"
# Above any published model; a vocabulary may have a million words.
LARGEST, MOST_LAYERS = 1 << 20, 512
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".pt.gz", ".npz")


def read_config(path: Path) -> dict[str, Any]:
    """The config with the objects `model_cfg` and `preprocess_cfg`, checked (`check_config`).

    DataMissingError when it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataMissingError(
            f"backbone config {path} cannot be read as JSON ({error}): fetch it again"
        ) from None
    content = content if isinstance(content, dict) else {"model_cfg": content}
    config = {key: content.get(key, {}) for key in ("model_cfg", "preprocess_cfg")}
    for key, value in config.items():
        if not isinstance(value, dict):
            raise DataMissingError(
                f"backbone config {path}: {key} is no object; expected {CONFIG} as open_clip "
                "writes it, with model_cfg and preprocess_cfg"
            )
    check_config(config["model_cfg"], str(path))
    return config


def check_config(model: Any, where: str) -> None:
    """UsageError for a model config that would run code of others, or take all memory."""
    for key, value in _values(model):
        if key == "trust_remote_code" and value:
            raise UsageError(
                f"backbone config {where} asks to run code that comes with it "
                "(trust_remote_code): that is never done; take it out, or use another backbone"
            )
        most = MOST_LAYERS if key == "layers" else LARGEST
        if isinstance(value, int | float) and not abs(value) <= most:
            raise UsageError(
                f"backbone config {where}: {key} is {value!r:.40}, expected at most {most:,}"
            )


def _values(config: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with the key that it stands under."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _values(value, str(key))
    elif isinstance(config, list):
        for value in config:
            yield from _values(value, name)
    else:
        yield name, config


def check_room(model: Mapping[str, Any], folder: Path) -> None:
    """UsageError when the weights in a folder are far too small for the model of the config.

    Such a model would take memory for nothing: not a byte per parameter is there to fill it.
    """
    sizes = [path.stat().st_size for path in folder.iterdir() if path.name.endswith(WEIGHTS)]
    least = sum(_parameters(model.get(part)) for part in ("text_cfg", "vision_cfg"))
    if sizes and least > max(sizes):
        raise UsageError(
            f"backbone config {folder / CONFIG} is of a model of more than {least:,} parameters, "
            f"the weights beside it have {max(sizes):,} bytes: expected those of this model"
        )


def _parameters(tower: Any) -> int:
    """A lower bound of the parameters of a transformer; 0 where the config is of another kind."""
    if not isinstance(tower, Mapping) or {"timm_model_name", "hf_model_name"} & set(tower):
        return 0
    given = [tower.get(key) for key in ("width", "layers", "vocab_size", "context_length")]
    width, layers, words, length = (v if type(v) is int and v > 0 else 0 for v in given)
    return 4 * width * width * layers + width * (words + length)
