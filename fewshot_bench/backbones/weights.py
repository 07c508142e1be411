"""Sources of weights and their `open_clip_config.json`: located and checked before loading.

`check_source` and `read_config` are the entry points. Without a network, open_clip and the Hub's
client retry for a minute; here, one request decides at once.
"""

from __future__ import annotations

import json
import math
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.files import read_regular_text

SECONDS = 10
HUB, LOCAL = "hf-hub:", "local-dir:"
_PART = r"\w([\w.-]*\w)?"
REPOSITORY = re.compile(rf"(?!.*(--|\.\.))({_PART}/)?{_PART}", re.ASCII)
# Files of a repository that open_clip tries, in its order.
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# Folder of open_clip for weights that do not come from the Hub.
DIRECT = Path("~/.cache/clip")


@dataclass(frozen=True)
class Source:
    """A repository of the Hub with its candidate files, or a URL."""

    repository: str = ""
    files: tuple[str, ...] = ()
    url: str = ""

    @property
    def step(self) -> str:
        """Instruction to get the weights by other means, for error messages."""
        if self.repository:
            return f"fetch them where there is a network (hf download {self.repository})"
        return f"put {self.url} into {DIRECT}"


def local_folder(name: str) -> Path | None:
    """The folder of a backbone `local-dir:FOLDER`, in which `~` is the home; None for others."""
    return Path(name.removeprefix(LOCAL)).expanduser() if name.startswith(LOCAL) else None


def check_repository(name: str) -> None:
    """UsageError unless `hf-hub:NAME` names a repository; open_clip takes no revision of one."""
    if not REPOSITORY.fullmatch(name.removeprefix(HUB)):
        raise UsageError(
            f"backbone '{name}': expected {HUB}ORG/NAME, a repository without a revision; for one "
            f"revision, download it and use {LOCAL}FOLDER"
        )


def source_of(name: str, config: Mapping[str, Any]) -> Source | None:
    """The source of open_clip's weights; config: of the tag, empty for `hf-hub:NAME`."""
    if name.startswith(HUB):
        return Source(name.removeprefix(HUB), HUB_FILES)
    if config.get("hf_hub"):
        repository, _, file = str(config["hf_hub"]).rpartition("/")
        safe = [f"{file[:-4]}.safetensors"] if file.endswith((".bin", ".pth")) else []
        return Source(repository, (*safe, file) if file else HUB_FILES)
    return Source(url=str(config["url"])) if config.get("url") else None


def check_source(name: str, source: Source) -> None:
    """DataMissingError if weights are not on this machine and cannot be downloaded."""
    if is_here(source):
        return
    if offline.is_on():
        reason = "--offline allows no download: run once without it"
    else:
        failure = _failure(source)
        if failure is None:
            return
        reason = f"cannot be fetched ({failure}): {source.step}"
    raise DataMissingError(
        f"backbone '{name}': its weights are not on this machine, and {reason}, name a checkpoint "
        "(--backbone MODEL/TAG@FILE), or use --backbone tiny to try the tool"
    )


def is_here(source: Source) -> bool:
    """True if one of the files is on this machine, where open_clip looks for it."""
    if source.url:
        return (DIRECT.expanduser() / source.url.rpartition("/")[2]).is_file()
    from huggingface_hub import try_to_load_from_cache

    paths = (try_to_load_from_cache(source.repository, file) for file in source.files)
    return any(isinstance(path, str) for path in paths)


def _failure(source: Source) -> str | None:
    """The reason why the weights cannot be fetched; None if their host answers."""
    try:
        if source.url:
            _ask(source.url)
        else:
            _ask_hub(source)
    except Exception as error:
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text:.120}" if text else type(error).__name__
    return None


def _ask(url: str) -> None:
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=SECONDS).close()
    except urllib.error.HTTPError as error:
        # With any other status, the host is reachable; some hosts do not allow HEAD.
        if error.code in (401, 403, 404, 410):
            raise


def _ask_hub(source: Source) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    for file in source.files:
        try:
            get_hf_file_metadata(hf_hub_url(source.repository, file), timeout=SECONDS)
        except EntryNotFoundError:
            continue
        return
    raise FileNotFoundError(f"{source.repository} has none of {', '.join(source.files)}")


CONFIG = "open_clip_config.json"
# Above all published models; a vocabulary may have a million words.
LARGEST, MOST_LAYERS = 1 << 20, 512
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".pt.gz", ".npz")


def read_config(path: Path) -> dict[str, Any]:
    """The config with the objects `model_cfg` and `preprocess_cfg`, checked (`check_config`).

    DataMissingError when it cannot be read, or has no `model_cfg`; UsageError for wrong settings.
    """
    try:
        content = json.loads(read_regular_text(path, "utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataMissingError(
            f"backbone config {path} cannot be read as JSON ({error}): fetch it again"
        ) from None
    content = content if isinstance(content, dict) else {"model_cfg": content}
    config = {
        "model_cfg": content.get("model_cfg"),
        "preprocess_cfg": content.get("preprocess_cfg", {}),
    }
    for key, value in config.items():
        if not isinstance(value, dict):
            raise DataMissingError(
                f"backbone config {path}: {key} is no object; expected {CONFIG} as open_clip "
                "writes it, with model_cfg and preprocess_cfg"
            )
    check_config(config["model_cfg"], str(path))
    for key, expected, is_right in _SETTINGS:
        for part in config.values():
            if key in part and not is_right(part[key]):
                raise UsageError(
                    f"backbone config {path}: {key} is {part[key]!r:.40}, expected {expected}"
                )
    return config


def _per_channel(value: Any, least: float = -math.inf) -> bool:
    """True for a number above `least`, or a list of three."""
    numbers = value if isinstance(value, list) and len(value) == 3 else [value]
    return all(type(number) in (int, float) and number > least for number in numbers)


# Settings that open_clip takes as they are, so that wrong ones give wrong features or fail late.
_SETTINGS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("quick_gelu", "true or false", lambda value: type(value) is bool),
    ("mean", "three numbers", _per_channel),
    ("std", "three numbers above 0", lambda value: _per_channel(value, 0)),
    ("interpolation", "bicubic or bilinear", ("bicubic", "bilinear", "random").__contains__),
    ("resize_mode", "shortest, longest or squash", ("shortest", "longest", "squash").__contains__),
)


def check_whole(model: Mapping[str, Any], path: Path) -> None:
    """DataMissingError for a model config that lacks a part that every model has."""
    for key, kind, expected in (
        ("embed_dim", int, "a whole number"),
        ("vision_cfg", Mapping, "an object"),
        ("text_cfg", Mapping, "an object"),
    ):
        if not isinstance(model.get(key), kind):
            raise DataMissingError(
                f"backbone config {path}: {key} of model_cfg is {model.get(key)!r:.40}, expected "
                f"{expected}: fetch it again"
            )


def check_config(model: Any, where: str) -> None:
    """UsageError for a model config that would run remote code or exhaust memory."""
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


TRANSFORMERS = "transformers"


def check_text_packages(model: Any, name: str) -> None:
    """UsageError for a tokenizer or text encoder of Hugging Face without its package.

    open_clip imports it after the weights were fetched.
    """
    text = model.get("text_cfg") if isinstance(model, Mapping) else None
    keys = ("hf_tokenizer_name", "hf_model_name")
    if not isinstance(text, Mapping) or not any(text.get(key) for key in keys):
        return
    if sys.modules.get(TRANSFORMERS) is None and find_spec(TRANSFORMERS) is None:
        raise UsageError(
            f"backbone '{name}' reads texts with {TRANSFORMERS}, which is not installed: "
            f"pip install '{TRANSFORMERS}[sentencepiece]'"
        )


def _values(config: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf value with the key that it is under."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _values(value, str(key))
    elif isinstance(config, list):
        for value in config:
            yield from _values(value, name)
    else:
        yield name, config


def check_same_model(
    beside: Mapping[str, Any], model: Mapping[str, Any], path: Path, name: str
) -> None:
    """UsageError if the config beside a checkpoint is of another model than the named one."""
    here, there = dict(_settings(model)), dict(_settings(beside))
    for key, value in there.items():
        if key in here and here[key] != value:
            raise UsageError(
                f"backbone config {path} is of another model than {name}: {key} is {value!r:.40}, "
                f"and {here[key]!r:.40} in {name}; name the model of the config, or use "
                f"{LOCAL}{path.parent}"
            )


def _settings(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of both towers that say what the weights are, and the width of features."""
    for key, value in config.items():
        if isinstance(value, Mapping) and not before:
            yield from _settings(value, f"{key}.")
        elif before or key == "embed_dim":
            yield f"{before}{key}", value


def check_room(model: Mapping[str, Any], folder: Path) -> None:
    """UsageError if the weights in a folder are far too small for the model of the config.

    Such a model would waste memory: the files have less than a byte per parameter.
    """
    sizes = [path.stat().st_size for path in folder.iterdir() if path.name.endswith(WEIGHTS)]
    least = sum(_parameters(model.get(part)) for part in ("text_cfg", "vision_cfg"))
    if sizes and least > max(sizes):
        raise UsageError(
            f"backbone config {folder / CONFIG} is of a model of more than {least:,} parameters, "
            f"the weights beside it have {max(sizes):,} bytes: expected those of this model"
        )


def _parameters(tower: Any) -> int:
    """A lower bound of a transformer's number of parameters; 0 for any other kind of config."""
    if not isinstance(tower, Mapping) or {"timm_model_name", "hf_model_name"} & set(tower):
        return 0
    given = [tower.get(key) for key in ("width", "layers", "vocab_size", "context_length")]
    width, layers, words, length = (v if type(v) is int and v > 0 else 0 for v in given)
    return 4 * width * width * layers + width * (words + length)
