"""A kept model: a folder with tensors, their config and a model card.

`config_of`, `write_model` and `read_model` are the entry points. Reading executes nothing from the
folder, and returns the model as it was written or raises a one-line StoreError: config and tensors
have digests.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from fewshot_bench.api.keeping import packed
from fewshot_bench.api.method import configuration
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import canonical_json
from fewshot_bench.utils.errors import ModelMissingError, StoreError
from fewshot_bench.utils.files import open_regular, read_regular, write_whole
from fewshot_bench.utils.memory import free_host_memory
from fewshot_bench.utils.text import plain_text, size_text
from fewshot_bench.utils.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_bench.api.backbone import LoadedBackbone
    from fewshot_bench.api.task import Vocabulary

FORMAT = 1
CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
SUPPORT = "support.safetensors"
"""Training images for display, if requested (`support_files`)."""
MODEL_FILES = (TENSORS, SUPPORT, CARD, CONFIG)
"""All files of a model in the order of writing: a folder without a config is not a model."""
IMAGES, DIGITS = "image_digests", 16
"""Entry of a config's `data`: the first hex digits of the SHA-256 of each image file, joined."""
OPTIONAL = ("support", "settings")
"""Entries that a config may lack."""
DEPTH = 16
"""Maximum depth of lists and objects in a value of a config."""
MOST_NAMES = 100_000
"""Maximum classes, and maximum prompts, of a model."""
MOST_IMAGES = 2_000_000
"""Of more images no digests are kept, since the config would be too long."""


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that defines a model besides its tensors.

    classifier: the name of its class (`api/keeping.name_of_class`).
    method: the registered name, with `method_version`, `method_origin` (distribution and version)
        and `method_code` (digest of its source); options: all its hyper-parameters.
    backbone: the name, with `weights_digest`, `precision` and `image_size` (height, width), and
        `settings`: digest of its activation, preprocessing and tokenizer, empty (and left out of
        the config file) if it states none.
    exif: as in the conditions of a run; classnames: by column of the logits; templates: the prompt
        templates of the fit.
    data: training data (`dataset` without its path, `revision`, `split`: digest of the lists of
        images, `shots`, `images`: counts per class, `validation`: number of validation images,
        `seed`; for a cell also `cell`, `split_seed`, `protocol`, `val` and `prompts`; may lack
        `image_digests`: see `image_digests`).
    notes: choices of the method.
    accuracy: out-of-fold results, empty if there are none: `mean`, `low`, `high`, `level`,
        `folds`, `repeats`, `calibration_error`.
    temperature: logits are divided by it before the softmax. reject: the calibrated probability
        below which a query is assigned to no class; None for never.
    tensors: SHA-256 of the tensor file, set when the model is written; support: SHA-256 of the
        file of training images to be shown, empty (and left out of the config file) without one.
    """

    method: str
    method_version: str
    backbone: str
    weights_digest: str
    classnames: Annotated[tuple[str, ...], Meta(min_length=1)]
    templates: Annotated[tuple[str, ...], Meta(min_length=1)]
    options: Mapping[str, str | int | float | bool | None] = {}
    classifier: str = ""
    method_origin: str = ""
    method_code: str = ""
    precision: str = "fp32"
    image_size: tuple[int, int] = (224, 224)
    exif: str = "ignore"
    data: Mapping[str, Any] = {}
    notes: Mapping[str, Any] = {}
    accuracy: Mapping[str, float] = {}
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    reject: float | None = None
    tensors: str = ""
    support: str = ""
    settings: str = ""
    fsbench: str = __version__
    format: int = FORMAT

    @property
    def fitted_images(self) -> frozenset[str]:
        """Each `image_digest` of the images of the fit; empty if they are not stated."""
        listed = self.data.get(IMAGES, "")
        return frozenset(listed[at : at + DIGITS] for at in range(0, len(listed), DIGITS))

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, with a `digest` of all of them."""
        plain: dict[str, Any] = json.loads(canonical_json(msgspec.structs.asdict(self)))
        for name in OPTIONAL:
            if not plain[name]:
                del plain[name]
        return plain | {"digest": _digest(plain)}


def config_of(
    name: str, method: Any, backbone: LoadedBackbone, vocabulary: Vocabulary, **more: Any
) -> ModelConfig:
    """The config of a fitted method registered as `name`; more: other fields of the config."""
    code = registry().code(name)
    return ModelConfig(
        method=name,
        method_version=str(getattr(method, "version", "1")),
        method_origin=f"{code['distribution']} {code['version']}".strip(),
        method_code=str(code["digest"]),
        options=configuration(method),
        backbone=backbone.name,
        weights_digest=backbone.weights_digest,
        precision=getattr(backbone, "precision", "fp32"),
        image_size=backbone.image_size,
        settings=getattr(backbone, "settings", ""),
        classnames=vocabulary.classnames,
        templates=vocabulary.templates,
        **more,
    )


def image_digest(sha: bytes) -> str:
    """A SHA-256 of an image file as models state it."""
    return sha.hex()[:DIGITS]


def image_digests(shas: Iterable[bytes]) -> dict[str, str]:
    """The entry of `ModelConfig.data` that states the image files of a fit, train and validation.

    shas: the SHA-256 of each. Sorted, so that the text says nothing about classes. Empty for more
    than MOST_IMAGES.
    """
    digests = sorted({image_digest(sha) for sha in shas})
    return {IMAGES: "".join(digests)} if len(digests) <= MOST_IMAGES else {}


def without_path(dataset: str) -> str:
    """Strip parent folders from the name of a data set, since models are shared with others.

    The path of a folder becomes `folder:photos`, and several paths `wds:train=*.tar;test=*.tar`.
    Names that are not local paths stay as they are.
    """
    family, colon, argument = dataset.partition(":")
    whole = os.path.exists(os.path.expanduser(argument))
    parts = [argument] if whole else argument.split(";")
    return f"{family}:{';'.join(map(_last, parts))}" if colon else dataset


def _last(path: str) -> str:
    """The last part of a path, or of the path in `split=path`; other texts unchanged."""
    name, equals, inner = path.partition("=")
    if path.startswith(("~", "/")) or os.path.exists(path):
        return Path(path).name
    return f"{name}={_last(inner)}" if equals else path


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(plain).encode()).hexdigest()


def write_model(
    folder: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    card: str,
    support: bytes = b"",
) -> str:
    """Write a model, creating its folder; returns the digest of its config.

    The config is written last: a folder without a config is not a model. card: the text of
    README.md. support: content of the file of training images to be shown. ContractError for
    tensors that cannot be stored, StoreError for too many classes; may raise OSError.
    """
    content = packed(tensors)
    shown = hashlib.sha256(support).hexdigest() if support else ""
    tensor_digest = hashlib.sha256(content).hexdigest()
    plain = msgspec.structs.replace(config, tensors=tensor_digest, support=shown).as_json()
    _refuse_many(plain, folder / CONFIG)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    (folder / SUPPORT).unlink(missing_ok=True)
    write_whole(folder / TENSORS, content)
    if support:
        write_whole(folder / SUPPORT, support)
    write_whole(folder / CARD, card.encode())
    write_whole(folder / CONFIG, (json.dumps(plain, indent=2, sort_keys=True) + "\n").encode())
    return str(plain["digest"])


def read_model(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Load a model's config and its tensors, on the CPU; one-line StoreError if unusable."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    config = read_config(folder)
    with _open_tensors(folder, config) as (file, size):
        free = free_host_memory()
        if size > free:
            raise StoreError(
                f"{folder / TENSORS} has {size_text(size)}, and {size_text(free)} of memory are "
                "free; read it when less runs on this machine"
            )
        content = file.read()
    try:
        return config, load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise StoreError(f"{folder / TENSORS} is no safetensors file: {error}") from None


def verify_config(folder: Path) -> ModelConfig:
    """The config of a model, after checking size and digest of its tensor file."""
    config = read_config(folder)
    with _open_tensors(folder, config):
        return config


@contextmanager
def _open_tensors(folder: Path, config: ModelConfig) -> Iterator[tuple[BufferedReader, int]]:
    """The open tensor file of a model, and its bytes; StoreError unless it is the one it states.

    Nothing of a file that is longer than its header says is read.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / TENSORS
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            with safe_open(path, "numpy"):
                pass
            if hashlib.file_digest(file, "sha256").hexdigest() == config.tensors:
                file.seek(0)
                yield file, size
                return
            problem = f"its digest is not the one in {CONFIG}"
    except SafetensorError:
        problem = f"its header is not that of a file of {size_text(size)}"
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    raise StoreError(f"{path} is damaged: {problem}; copy the folder again")


def read_config(folder: Path) -> ModelConfig:
    """Read and validate the config alone; one-line StoreError if it is unusable.

    ModelMissingError if there is none.
    """
    path = folder / CONFIG
    try:
        text = read_regular(path)
    except FileNotFoundError:
        lack = f"holds no model: there is no {CONFIG} in it" if folder.exists() else "is not there"
        raise ModelMissingError(
            f"{folder} {lack}; expected a folder that 'fsbench adapt' or 'fsbench run "
            "--keep-models' wrote"
        ) from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict):
        raise StoreError(f"{path} is damaged: it is no JSON object")
    if plain.get("format") != FORMAT:
        raise StoreError(
            f"{path} has format {plain.get('format')!r:.20}, this version reads {FORMAT}; "
            "update fewshot_bench"
        )
    _refuse_many(plain, path)
    stated = plain.pop("digest", None)
    try:
        digest = _digest(plain)
    except (ValueError, RecursionError):
        digest = ""
    if not digest or stated != digest:
        raise StoreError(f"{path} is damaged: its values do not have the digest that it states")
    return _as_config(plain, path)


def _refuse_many(plain: Mapping[str, Any], path: Path) -> None:
    """StoreError for more classes or prompts than can be encoded, before all else is checked."""
    for name in ("classnames", "templates"):
        names = plain.get(name)
        if isinstance(names, list) and len(names) > MOST_NAMES:
            count = f"{len(names):,} {name}, expected at most {MOST_NAMES:,}"
            raise StoreError(f"{path} has {count}")


def _as_config(plain: dict[str, Any], path: Path) -> ModelConfig:
    """The validated config; StoreError with the first value that is of another kind."""
    # Every entry is written, so that a default never stands in for one that was lost.
    missing = sorted({*ModelConfig.__struct_fields__} - {*OPTIONAL} - {*plain})
    try:
        if missing:
            raise ValueError(f"Object missing required field `{missing[0]}`")
        config = msgspec.convert(plain, ModelConfig)
        _check_values(config)
    except (ValueError, OverflowError) as error:
        raise StoreError(f"{path} is no config of a model: {error}") from None
    return config


def _check_values(config: ModelConfig) -> None:
    """ValueError for what a type does not say: names, digests of images, depth of free values."""
    names = config.classnames
    if len({*names}) < len(names) or not all(map(plain_text, names)):
        raise ValueError("classnames: expected different names without control characters")
    if not re.fullmatch(rf"([0-9a-f]{{{DIGITS}}})*", str(config.data.get(IMAGES, ""))):
        raise ValueError(f"data.{IMAGES}: expected {DIGITS} hex digits of each image")
    if not (_is_shallow(config.data) and _is_shallow(config.notes)):
        raise ValueError(f"data and notes: expected at most {DEPTH} levels")


def _is_shallow(value: Any, depth: int = DEPTH) -> bool:
    """True if lists and objects are nested at most `depth` deep."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_shallow(part, depth - 1) for part in inner)
