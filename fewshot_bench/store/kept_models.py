"""A kept model: a folder with tensors, their config, a model card, and training images to show.

`config_of`, `write_model` and `read_model` are the entry points. Reading executes nothing from the
folder, and returns the model as it was written or raises a one-line StoreError: config and tensors
have digests. Models that runs keep are in `models/<key>/` of a store. A record states the digest of
its model (`footprint["model"]`): a folder with another digest is not its model, and a folder that
no record states is a leftover. Training images (`pack_support`) are written only on request; they
and other files beside the model (`EXTRAS`) are never pushed to a hub (`store/hub.py`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from fewshot_bench.api import own_methods
from fewshot_bench.api.file_texts import list_files
from fewshot_bench.api.keeping import packed
from fewshot_bench.api.method import configuration
from fewshot_bench.api.option_files import state_files
from fewshot_bench.api.own_methods import version_in
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import KEPT_MODEL, POOLING, canonical_json
from fewshot_bench.store.kept_files import copy_files, keep_files
from fewshot_bench.store.record_files import path_of, read_record
from fewshot_bench.utils.errors import ModelMissingError, StoreError
from fewshot_bench.utils.files import (
    Damaged,
    list_entries,
    open_regular,
    read_regular,
    write_whole,
)
from fewshot_bench.utils.memory import free_host_memory
from fewshot_bench.utils.text import plain_text, size_text
from fewshot_bench.utils.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from fewshot_bench.api.backbone import LoadedBackbone
    from fewshot_bench.api.task import Vocabulary

FORMAT = 1
CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
SUPPORT = "support.safetensors"
"""Training images for display, if requested."""
REPORT, SUSPECTS, SOURCES = "report.html", "suspects.csv", "sources.json"
EXTRAS = (SUPPORT, REPORT, SUSPECTS, SOURCES)
"""Files that a model may lack, of this machine's images and paths: they are on no hub."""
MODEL_FILES = (TENSORS, *EXTRAS, CARD, CONFIG)
"""All files of a model in the order of writing: a folder without a config is not a model."""
ASKED = frozenset(
    ("method", "options", "classnames", "templates", "metric", "relabel", "shots", "seed", "exif")
    + ("keep_contradictions", "skip_damaged", "keep_support", "reject", "negatives")
)
"""Arguments of `adapt` that decide which model is made of which pictures."""
MEASURES = TOP1, MACRO = "top1", "macro"
"""`metric` of an accuracy: the share of right answers, or the mean recall of the classes."""
IMAGES, DIGITS = "image_digests", 16
"""Entry of a config's `data`: the first hex digits of the SHA-256 of each image file, joined."""
MOST_NAMES = 100_000
"""Maximum classes, and maximum prompts, of a model."""
Names = Annotated[tuple[str, ...], Meta(min_length=1, max_length=MOST_NAMES)]
MOST_IMAGES = 2_000_000
"""Of more images no digests are kept, since the config would be too long."""
# Folder in a store; the model's facts in a footprint, and the kind of incident if it has none.
MODELS, STATED = "models", "model"
_NEXT = ".next"
_CHUNK = 2**20
FILES = (TENSORS, CARD, CONFIG)
"""The config is written last: a folder without one is not a model."""
SUPPORT_MOST = 500
"""Maximum number of images in a model."""
SUPPORT_SIDE = 96
"""Longer side of a picture in pixels."""
SUPPORT_BYTES = 32 * 2**20
"""Maximum bytes of a file."""
JPEG = b"\xff\xd8\xff"
# Features of low precision deviate from unit length by at most this.
LENGTH = 0.02


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that defines a model besides its tensors.

    classifier: the name of its class (`api/keeping.name_of_class`).
    method: the name, with `method_version`, `method_origin` (distribution and version, or file and
        class of a method in no plug-in) and `method_code` (digest of its source); options: all its
        hyper-parameters.
    backbone: the name, with `weights_digest`, `precision` and `image_size` (height, width), and
        `settings`: digest of its activation, preprocessing and tokenizer, empty if it states none.
    exif: as in the conditions of a run; classnames: by column of the logits; templates: the prompt
        templates of the fit; texts, pooling: the texts of each class, if they take their place.
    data: training data (`dataset` without its path, `revision`, `split`: digest of the lists of
        images, `shots`, `images`: counts per class, `validation`: number of validation images,
        `seed`; for a cell also `cell`, `split_seed`, `protocol`, `val` and `prompts`; may lack
        `image_digests`: see `image_digests`).
    notes: choices of the method.
    accuracy: out-of-fold results, empty if there are none: `metric` (one of MEASURES), `mean`,
        `low`, `high`, `level`, `folds`, `repeats`, `images` (different pictures), `methods` (it was
        chosen among) and `calibration_error`; where measured the number `negatives` of images of no
        class, the share `caught` of them, and `kept` of right answers, with their intervals;
        with corrected labels (`--relabel`), `original`: the mean by the labels before.
    classes: out-of-fold results by class, empty if there are none: rows of `Learned.classes`.
    temperature: logits are divided by it before the softmax. reject: the calibrated probability
        below which a query is assigned to no class; None for never.
    tensors: SHA-256 of the tensor file, set when the model is written; support: SHA-256 of the
        file of training images to be shown, empty without one. digest: of all other values.
    """

    method: str
    method_version: str
    backbone: str
    weights_digest: str
    classnames: Names
    templates: Names
    options: Mapping[str, str | int | float | bool | None] = {}
    classifier: str = ""
    method_origin: str = ""
    method_code: str = ""
    precision: str = "fp32"
    image_size: tuple[int, int] = (224, 224)
    exif: str = "ignore"
    data: Mapping[str, Any] = {}
    notes: Mapping[str, Any] = {}
    accuracy: Mapping[str, Any] = {}
    classes: tuple[Mapping[str, Any], ...] = ()
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    reject: float | None = None
    tensors: str = ""
    support: str = ""
    settings: str = ""
    texts: tuple[tuple[str, ...], ...] = ()
    pooling: str = POOLING[0]
    fsbench: str = __version__
    format: int = FORMAT
    digest: str = ""

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary that the method sees."""
        from fewshot_bench.api.task import Vocabulary

        named = self.classnames, self.templates
        return Vocabulary(*named, texts=self.texts, pooling=self.pooling)

    @property
    def fitted_images(self) -> frozenset[str]:
        """Each `image_digest` of the images of the fit; empty if they are not stated."""
        listed = self.data.get(IMAGES, "")
        return frozenset(listed[at : at + DIGITS] for at in range(0, len(listed), DIGITS))

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, with a `digest` of all of them."""
        plain: dict[str, Any] = json.loads(canonical_json(msgspec.structs.asdict(self)))
        del plain["digest"]
        if not self.texts:
            del plain["texts"], plain["pooling"]
        digest = hashlib.sha256(canonical_json(plain).encode()).hexdigest()
        return plain | {"digest": digest}


class _Format(msgspec.Struct):
    format: int = 0


def config_of(
    name: str, method: Any, backbone: LoadedBackbone, vocabulary: Vocabulary, **more: Any
) -> ModelConfig:
    """The config of a fitted method registered as `name`; more: other fields of the config."""
    code = registry().code(name)
    return ModelConfig(
        method=name,
        method_version=version_in(name, type(method)),
        method_origin=_origin(name, code),
        method_code=str(code["digest"]),
        options=state_files(configuration(method)),
        backbone=backbone.name,
        weights_digest=backbone.weights_digest,
        precision=getattr(backbone, "precision", "fp32"),
        image_size=backbone.image_size,
        settings=getattr(backbone, "settings", ""),
        classnames=vocabulary.classnames,
        templates=vocabulary.templates,
        texts=vocabulary.texts,
        pooling=vocabulary.pooling,
        **more,
    )


def _origin(method: str, code: Mapping[str, Any]) -> str:
    """The distribution and its version, or the file and the class of a method in no plug-in."""
    own = None if code["registered"] else own_methods.find(method)
    return own.origin if own else f"{code['distribution']} {code['version']}".strip()


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


def write_model(
    folder: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    card: str,
    extras: Mapping[str, bytes] = MappingProxyType({}),
) -> str:
    """Write a model, creating its folder; returns the digest of its config.

    The config is written last: a folder without a config is not a model. card: the text of
    README.md. extras: contents of files of EXTRAS, by name; earlier ones are removed. ContractError
    for tensors that cannot be stored, StoreError for too many classes; may raise OSError.
    """
    content = packed(tensors)
    keep_files(folder, list_files(*config.options.values()))
    support = hashlib.sha256(extras[SUPPORT]).hexdigest() if SUPPORT in extras else ""
    stated = msgspec.structs.replace(
        config, tensors=hashlib.sha256(content).hexdigest(), support=support
    )
    # As it is read back: whole numbers in fields of floats are floats.
    plain = _decode_config(json.dumps(stated.as_json()), folder / CONFIG).as_json()
    text = json.dumps(plain, indent=2, sort_keys=True) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, *EXTRAS):
        (folder / name).unlink(missing_ok=True)
    parts = {TENSORS: content, **extras, CARD: card.encode(), CONFIG: text.encode()}
    for name, part in parts.items():
        write_whole(folder / name, part)
    return str(plain["digest"])


def read_model(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Load a model's config and its tensors, on the CPU; one-line StoreError if unusable."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    config = read_config(folder)
    path = folder / TENSORS
    try:
        content = read_regular(path, free_host_memory())
    except OSError as error:
        of = " of free memory; load it when less runs here" if error.errno == errno.EFBIG else ""
        raise StoreError(f"{path} cannot be read: {error.strerror}{of}") from None
    _check_tensors(path, config, hashlib.sha256(content).hexdigest())
    try:
        return config, load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise StoreError(f"{path} is no safetensors file: {error}") from None


class Sources(msgspec.Struct, frozen=True):
    """datasets: names, with whole paths; asked: the arguments of `adapt` in ASKED."""

    datasets: tuple[str, ...]
    asked: dict[str, Any]


class Joined(str):
    """The name of a data set that holds the pictures of others, for the time of a call."""

    datasets: tuple[str, ...]


def pack_sources(dataset: str, asked: Mapping[str, Any]) -> bytes:
    """The content of `sources.json`. asked: all arguments of `adapt`."""
    family, _, path = dataset.partition(":")
    whole = os.path.abspath(os.path.expanduser(path))
    name = f"{family}:{whole}" if path and os.path.exists(whole) else dataset
    datasets = dataset.datasets if isinstance(dataset, Joined) else (name,)
    sources = Sources(datasets, {key: asked[key] for key in asked if key in ASKED})
    return msgspec.json.format(msgspec.json.encode(sources, enc_hook=os.path.abspath)) + b"\n"


def read_sources(folder: Path) -> Sources:
    """The sources of the model in a folder; one-line StoreError if it does not tell."""
    try:
        told = msgspec.json.decode(read_regular(folder / SOURCES), type=Sources)
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{folder / SOURCES} does not tell what the model was made from ({error}); adapt to a "
            "folder of all images"
        ) from None
    return Sources(told.datasets, {key: told.asked[key] for key in told.asked if key in ASKED})


def verify_config(folder: Path) -> ModelConfig:
    """The config of a model, after checking the digest of its tensor file."""
    config = read_config(folder)
    path = folder / TENSORS
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    _check_tensors(path, config, digest)
    return config


def _check_tensors(path: Path, config: ModelConfig, digest: str) -> None:
    if digest != config.tensors:
        raise StoreError(
            f"{path} is damaged: its digest is not the one in {CONFIG}; copy the folder again"
        )


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
    config = _decode_config(text, path)
    if config.digest != config.as_json()["digest"]:
        raise StoreError(f"{path} is damaged: its values do not have the digest that it states")
    return config


def _decode_config(text: bytes | str, path: Path) -> ModelConfig:
    """The validated config; StoreError with the first value that is of another kind."""
    try:
        version = msgspec.json.decode(text, type=_Format).format
        if version != FORMAT:
            raise StoreError(
                f"{path} has format {version}, this version reads {FORMAT}; update fewshot_bench"
            )
        config = msgspec.json.decode(text, type=ModelConfig)
        _check_values(config)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is no config of a model: {error}") from None
    return config


def _check_values(config: ModelConfig) -> None:
    """ValueError for what a type does not say: different plain names, digests of images."""
    names = config.classnames
    if len({*names}) < len(names) or not all(map(plain_text, names)):
        raise ValueError("classnames: expected different names without control characters")
    if type(config.data.get("seed", 0)) is not int:
        raise ValueError("data.seed: expected a whole number")
    if not re.fullmatch(rf"([0-9a-f]{{{DIGITS}}})*", str(config.data.get(IMAGES, ""))):
        raise ValueError(f"data.{IMAGES}: expected {DIGITS} hex digits of each image")


def model_folder(store: Path, key: str) -> Path:
    """Folder of a cell's model; it may not exist."""
    return store / MODELS / key


def next_model_folder(store: Path, key: str) -> Path:
    """Folder of a cell's model until its record is stored; an earlier one stays until then."""
    return store / MODELS / f"{key}{_NEXT}"


def place_model(store: Path, key: str) -> None:
    """Let a cell's next model take the place of the earlier one; may raise OSError."""
    with suppress(FileNotFoundError):
        shutil.rmtree(model_folder(store, key))
    next_model_folder(store, key).rename(model_folder(store, key))


def stated_model(record: Record) -> Mapping[str, Any]:
    """Digest and bytes of the model that a record states; empty if it states none."""
    statement = record.footprint.get(STATED)
    return statement if isinstance(statement, Mapping) else {}


def size_of(folder: Path) -> int:
    """Bytes of a model's folder; 0 if it does not exist."""
    return sum(path.stat().st_size for path in list_entries(folder) if path.is_file())


def models_line(records: Sequence[Record]) -> str:
    """Summary line: number and bytes of the models that records state."""
    done = [stated_model(record) for record in records if record.status == "done"]
    kept = [statement for statement in done if statement]
    text = f"{len(kept):,} kept, {size_text(sum(int(each.get('bytes') or 0) for each in kept))}"
    absent = len(done) - len(kept)
    return f"{text}; {absent:,} not (fsbench show KEY.json says why)" if absent else text


def expected_bytes(methods: Iterable[str], records: Iterable[Record]) -> tuple[int, list[str]]:
    """Estimate the bytes of one model per entry of `methods`, by the method's largest in records.

    Also returns the methods without any stated model.
    """
    largest: dict[str, int] = {}
    for record in records:
        size, method = stated_model(record).get("bytes"), record.spec.method
        if isinstance(size, int):
            largest[method] = max(size, largest.get(method, 0))
    counts = Counter(methods)
    total = sum(count * largest.get(method, 0) for method, count in counts.items())
    return total, [method for method in counts if method not in largest]


def model_of(store: Path, record: Record) -> Path:
    """Folder of a record's model; StoreError if none was kept or the folder's digest differs.

    The record of a measured model (`fsbench evaluate`) has none of its own.
    """
    if record.spec.protocol == KEPT_MODEL:
        raise StoreError(
            f"{record.spec.describe()} was measured with a kept model (digest "
            f"{record.spec.picks:.12}), whose folder the record does not name: load that folder"
        )
    again = f"compute it with --keep-models --force to have one ({record.spec.describe()})"
    stated = stated_model(record)
    if not stated:
        for incident in record.incidents:
            if incident.get("kind") == STATED:
                raise StoreError(f"{incident.get('text')} ({record.spec.describe()})")
        raise StoreError(f"no model of this cell was kept; {again}")
    key = record.spec.key()
    following, folder = next_model_folder(store, key), model_folder(store, key)
    if _is_of(following, stated):
        # A process was killed after it stored the record, before it placed the model.
        return following
    if verify_config(folder).digest != stated.get("digest"):
        raise StoreError(f"the model in '{folder}' is not the one of the record; {again}")
    return folder


def _is_of(folder: Path, stated: Mapping[str, Any]) -> bool:
    """True if a folder holds a whole model with the digest that a record states."""
    try:
        return verify_config(folder).digest == stated.get("digest")
    except StoreError:
        return False


def model_problem(store: Path, record: Record) -> str:
    """Describe the fault of a record's model; empty if it is sound or the record states none."""
    try:
        if stated_model(record):
            model_of(store, record)
    except StoreError as error:
        return str(error)
    return ""


def copy_model(source: Path, record: Record, destination: Path) -> None:
    """Copy a record's model to another store, if stated and sound; may raise OSError."""
    if not stated_model(record) or model_problem(source, record):
        return
    target = model_folder(destination, record.spec.key())
    for name in FILES:
        with open_regular(model_of(source, record) / name) as file:
            write_whole(target / name, iter(partial(file.read, _CHUNK), b""))
    copy_files(model_of(source, record), list_files(*record.spec.options.values()), target)


def remove_model(store: Path, key: str) -> None:
    """Remove the model of a cell, if there is one, and its next one; may raise OSError."""
    for folder in (model_folder(store, key), next_model_folder(store, key)):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def list_unclaimed(store: Path, seconds: float) -> Iterator[Path]:
    """Model folders that no record states and that were not written to for `seconds`."""
    for folder in filter(Path.is_dir, list_entries(store / MODELS)):
        times = [path.stat().st_mtime for path in (folder, *list_entries(folder))]
        is_young = time.time() - max(times) < seconds
        if not is_young and not _is_claimed(store, folder):
            yield folder


def _is_claimed(store: Path, folder: Path) -> bool:
    """True if the folder's record states a model or is unreadable; False if it is missing.

    A next model must also be the one that is stated.
    """
    key = folder.name.removesuffix(_NEXT)
    try:
        stated = stated_model(read_record(path_of(store, key)))
        return bool(stated) and (folder.name == key or _is_of(folder, stated))
    except FileNotFoundError:
        return False
    except (Damaged, StoreError):
        return True


@dataclass(frozen=True, eq=False)
class Support:
    """features: (n, width) of unit length, float32; labels: (n,) classes; pictures: JPEG files."""

    features: np.ndarray
    labels: np.ndarray
    pictures: tuple[bytes, ...]


def pack_support(support: Support) -> bytes:
    """Serialize the training images as the content of a safetensors file."""
    import numpy as np
    from safetensors.numpy import save

    content: bytes = save(
        {
            "features": np.ascontiguousarray(support.features, dtype=np.float32),
            "labels": np.asarray(support.labels, dtype=np.int64),
            "pictures": np.frombuffer(b"".join(support.pictures), dtype=np.uint8),
            "ends": np.cumsum([len(picture) for picture in support.pictures], dtype=np.int64),
        }
    )
    return content


def read_support(folder: Path, config: ModelConfig, width: int) -> Support | None:
    """Read a model's training images; None if it has none, StoreError for a damaged file.

    width: dimension of the backbone's features. A file that the config does not state is not read.
    """
    path = folder / SUPPORT
    if not config.support or not path.exists():
        return None
    try:
        content = read_regular(path, SUPPORT_BYTES)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != config.support:
        raise StoreError(
            f"{path} is damaged: its digest is not the one in the config; copy the folder again, "
            "or remove the file"
        )
    try:
        return _unpack(content, len(config.classnames), width)
    except (ValueError, KeyError, IndexError, TypeError):
        raise StoreError(f"{path} holds no training images of this model; remove it") from None


def _unpack(content: bytes, classes: int, width: int) -> Support:
    """Parse the content of a file; such an error if it is malformed."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(content)
    except SafetensorError as error:
        raise ValueError from error
    features, labels, ends = (arrays[name] for name in ("features", "labels", "ends"))
    data = arrays["pictures"]
    pictures = tuple(part.tobytes() for part in np.split(data, ends[:-1]))
    lengths = np.linalg.norm(features.astype(np.float64), axis=1)
    sound = (
        [array.dtype.str for array in (features, labels, data)] == ["<f4", "<i8", "|u1"]
        and features.shape == (len(pictures), width)
        and labels.shape == (len(pictures),)
        and 0 < len(pictures) <= SUPPORT_MOST
        and set(labels.tolist()) <= set(range(classes))
        # Written so that NaN fails, too.
        and bool((np.abs(lengths - 1) <= LENGTH).all())
        and all(picture.startswith(JPEG) for picture in pictures)
    )
    if not sound:
        raise ValueError
    return Support(features, labels, pictures)


def evenly(labels: Sequence[int], most: int = SUPPORT_MOST) -> list[int]:
    """Indices of at most `most` images, balanced over classes, the first of each class first."""
    seen: Counter[int] = Counter()
    ranks = []
    for number, label in enumerate(labels):
        seen[label] += 1
        ranks.append((seen[label], number))
    return sorted(number for _, number in sorted(ranks)[:most])
