"""Backbones by name: registered ones, open_clip models and tags, local files (imports open_clip).

Names: `tiny` or any registered name; `ViT-B-16/openai` (model/tag); `ViT-B-16/openai@FILE` (a local
checkpoint that was trained like that tag); `ViT-B-16@FILE` with an `open_clip_config.json` beside
the file; `hf-hub:ORG/NAME`; `local-dir:FOLDER`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.api.defaults import full_name
from fewshot_bench.api.registry import registry
from fewshot_bench.backbones.checkpoints import FACTS, check_file, check_positions, checkpoint_in
from fewshot_bench.backbones.open_clip import OpenClipBackbone, import_library
from fewshot_bench.backbones.registered import identity_of_registered, load_registered
from fewshot_bench.backbones.weights import (
    CONFIG,
    HUB,
    LOCAL,
    Source,
    check_config,
    check_repository,
    check_room,
    check_same_model,
    check_source,
    check_text_packages,
    check_whole,
    is_here,
    local_folder,
    read_config,
    source_of,
)
from fewshot_bench.utils import offline
from fewshot_bench.utils.devices import choose
from fewshot_bench.utils.errors import (
    DataMissingError,
    FsbenchError,
    UsageError,
    suggestion,
)


@dataclass(frozen=True, slots=True)
class Name:
    """A backbone name in its parts."""

    model: str
    tag: str | None = None
    file: Path | None = None


def parse(name: str) -> Name:
    """Split `MODEL[/TAG][@FILE]`; OpenAI's `ViT-B/16` is `ViT-B-16`, and no tag is `openai`."""
    model, at, file = full_name(name).partition("@")
    model, slash, tag = model.partition("/")
    if not slash and not at:
        return Name(model, "openai")
    return Name(model, tag or None, Path(file).expanduser()) if at else Name(model, tag)


def check(name: str) -> None:
    """Reject a name that cannot be loaded, without loading its weights."""
    registry().backbones.refuse_conflict(name)
    if name in registry().backbones.entries:
        return
    if name.startswith(HUB):
        check_repository(name)
        return
    folder = local_folder(name)
    if folder:
        _require(folder / CONFIG)
        model = read_config(folder / CONFIG)["model_cfg"]
        check_whole(model, folder / CONFIG)
        check_text_packages(model, name)
        check_room(model, folder)
        check_file(checkpoint_in(folder))
        return
    parsed = parse(name)
    if parsed.file is not None:
        _require(parsed.file)
        check_file(parsed.file)
    _check_model(name, parsed)


def _check_model(name: str, parsed: Name) -> None:
    open_clip = import_library()
    models = open_clip.list_models()
    if parsed.model not in models:
        names = [*models, *registry().backbones.entries]
        raise UsageError(
            f"unknown backbone '{name}'{suggestion(parsed.model, names)} (fsbench list backbones)"
        )
    tags = open_clip.list_pretrained_tags_by_model(parsed.model)
    if parsed.tag is not None and parsed.tag not in tags:
        hint = suggestion(parsed.tag, tags) or f": expected one of {', '.join(tags)}"
        raise UsageError(
            f"backbone '{parsed.model}' has no pretrained tag '{parsed.tag}'{hint} "
            "(fsbench list backbones)"
        )
    check_text_packages(model_config(parsed.model), name)


def model_config(model: str) -> dict[str, Any] | None:
    """open_clip's configuration of one of its models; None for an unknown name."""
    open_clip = import_library()
    config: dict[str, Any] | None = open_clip.get_model_config(model)
    return config


def identity(name: str) -> str:
    """Identity of weights before loading: files' SHA-256 or a registered one's own; else empty."""
    if name in registry().backbones.entries:
        return identity_of_registered(name)
    folder = local_folder(name)
    if folder:
        return _sha256(*sorted(path for path in folder.iterdir() if path.is_file()))
    parsed = parse(name)
    if name.startswith(HUB) or parsed.file is None:
        return ""
    # Without a tag, the config says what the weights compute.
    beside = _config_beside(parsed.file) if parsed.tag is None else None
    return _sha256(parsed.file, *([beside] if beside else []))


def file_of(name: str) -> Path | None:
    """The file or folder that a name says to take weights from; None for other names."""
    if name in registry().backbones.entries or name.startswith((HUB, LOCAL)):
        return local_folder(name)
    return parse(name).file


def with_file(name: str, file: Path) -> str:
    """The same backbone with its weights in another file or folder."""
    return f"{LOCAL}{file}" if name.startswith(LOCAL) else f"{name.partition('@')[0]}@{file}"


def check_weights(name: str) -> None:
    """DataMissingError, after one request, if weights are not here and cannot be fetched."""
    source = _source(name)
    if source is not None:
        check_source(name, source)


def needs_fetching(name: str) -> bool:
    """True if weights would be downloaded; makes no request."""
    source = _source(name)
    return source is not None and not is_here(source)


def repository_of(name: str) -> str:
    """The repository on the Hub that weights come from; empty for files and other places."""
    source = _source(name)
    return source.repository if source else ""


def _source(name: str) -> Source | None:
    """The source of weights that are not local files; None for registered and local ones."""
    if name in registry().backbones.entries or name.startswith(LOCAL):
        return None
    if name.startswith(HUB):
        return source_of(name, {})
    open_clip = import_library()
    parsed = parse(name)
    if parsed.file is not None:
        return None
    return source_of(name, open_clip.get_pretrained_cfg(parsed.model, parsed.tag))


def load(name: str, device: str = "cpu", precision: str = "fp32") -> LoadedBackbone:
    """The backbone `name` on `device`; DataMissingError if its weights are unavailable.

    PluginError for a registered one that is not usable. A numbered device becomes the current one:
    some backends create tensors there whatever device they are told.
    """
    choose(torch.device(device))
    if name in registry().backbones.entries:
        return load_registered(name, device, precision)
    open_clip = import_library()
    check(name)
    check_weights(name)
    if name.startswith((HUB, LOCAL)):
        folder = local_folder(name)
        label = f"{LOCAL}{folder}" if folder else name
        return _build(name, device, precision, model_name=label, require_pretrained=True)
    parsed = parse(name)
    tag = open_clip.get_pretrained_cfg(parsed.model, parsed.tag) if parsed.tag else {}
    quick = bool(tag.get("quick_gelu"))
    chosen: dict[str, Any] = {"model_name": parsed.model, "force_quick_gelu": quick}
    if parsed.file is None:
        return _build(name, device, precision, **chosen, pretrained=parsed.tag)
    keys = ("mean", "std", "interpolation", "resize_mode")
    preprocess = {key: tag[key] for key in keys if key in tag}
    if parsed.tag is None:
        beside = _read_config_beside(name, parsed, parsed.file)
        chosen["force_quick_gelu"] = bool(beside["model_cfg"].get("quick_gelu"))
        preprocess = beside["preprocess_cfg"]
    # The file has these weights: open_clip would fetch those of the language model first.
    chosen |= {"force_preprocess_cfg": preprocess, "pretrained_text": False}
    return _build(name, device, precision, parsed.file, **chosen)


def _read_config_beside(name: str, parsed: Name, file: Path) -> dict[str, Any]:
    """The config beside a checkpoint, of the model that the name says."""
    path = _config_beside(file)
    if path is None:
        raise UsageError(
            f"backbone '{name}': a checkpoint file does not say its activation and "
            f"preprocessing; name the tag that it was trained like "
            f"({parsed.model}/openai@{file.name}), or put {CONFIG} beside it"
        )
    beside = read_config(path)
    check_same_model(beside["model_cfg"], model_config(parsed.model) or {}, path, parsed.model)
    return beside


def _fill(model: Any, file: Path, name: str) -> None:
    """Give a model the weights of a file."""
    open_clip = import_library()
    from open_clip.factory import load_state_dict

    if file.suffix not in (".npz", ".npy"):
        state = load_state_dict(str(file), weights_only=True)
        check_positions(state, model, file, name)
        if any(key in state for key in FACTS):
            model.load_state_dict({key: state[key] for key in state if key not in FACTS})
            return
    open_clip.load_checkpoint(model, str(file), weights_only=True)


def _build(
    name: str, device: str, precision: str, file: Path | None = None, **arguments: Any
) -> OpenClipBackbone:
    """The backbone that open_clip creates with these arguments, with the weights of `file`."""
    open_clip = import_library()
    from open_clip.transform import PreprocessCfg, image_transform_v2

    with _quiet(), _weights_errors(name):
        if name.startswith((HUB, LOCAL)):
            config = open_clip.get_model_config(arguments["model_name"])
            check_config(config, name)
            check_text_packages(config, name)
        model = open_clip.create_model(**arguments, device="cpu", weights_only=True)
        if file is not None:
            _fill(model, file, name)
        transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
        tokenizer = open_clip.get_tokenizer(arguments["model_name"])
        quick = arguments.get("force_quick_gelu")
        has_quick = any(type(child).__name__ == "QuickGELU" for child in model.modules())
        if quick is not None and quick != has_quick:
            raise UsageError(
                f"backbone '{name}': its weights need {'QuickGELU' if quick else 'GELU'}, the "
                f"model has {'QuickGELU' if has_quick else 'GELU'}; choose a model name that "
                "matches the tag"
            )
        return OpenClipBackbone(
            name, model, tokenizer, transform, device=device, precision=precision
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence log lines about models without weights and about retried requests.

    A failure still raises a one-line error of this package.
    """
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)


@contextmanager
def _weights_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (FsbenchError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # What follows in torch's message advises to run code from the file.
        first = " ".join(str(error).split()).partition(" In PyTorch 2.6")[0]
        step = "check the network or the file"
        if offline.is_on():
            step = "--offline allows no download: run once without it, or check the file"
        raise DataMissingError(
            f"backbone '{name}': its weights cannot be loaded ({type(error).__name__}: "
            f"{first:.300}); {step}, or use --backbone tiny, which needs neither"
        ) from error


def _config_beside(file: Path) -> Path | None:
    candidates = (file.with_suffix(".json"), file.parent / CONFIG)
    return next((path for path in candidates if path.is_file()), None)


def _require(path: Path) -> None:
    if not path.is_file():
        below = "" if path.is_absolute() else f", which is relative to {Path.cwd()}"
        raise DataMissingError(f"backbone file {path} does not exist; check the path{below}")


def _sha256(*paths: Path) -> str:
    sha = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()
