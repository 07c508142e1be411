"""Weights that come over the network: whether they are here, and whether they can be fetched.

open_clip and the Hub's client try again and again where there is no network, for a minute. One
request says so at once.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import DataMissingError

SECONDS = 10
HUB = "hf-hub:"
# The files of a repository that open_clip looks for, in its order.
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# Where open_clip keeps what does not come from the Hub.
DIRECT = Path("~/.cache/clip")


@dataclass(frozen=True)
class Source:
    """A repository of the Hub with the files that will do, or an address."""

    repository: str = ""
    files: tuple[str, ...] = ()
    url: str = ""

    @property
    def step(self) -> str:
        """How to get the weights with other means."""
        if self.repository:
            return f"fetch them where there is a network (hf download {self.repository})"
        return f"put {self.url} into {DIRECT}"


def source_of(name: str, config: Mapping[str, Any]) -> Source | None:
    """Where open_clip takes weights from; config: that of the tag, empty for `hf-hub:NAME`."""
    if name.startswith(HUB):
        return Source(name.removeprefix(HUB).partition("@")[0], HUB_FILES)
    if config.get("hf_hub"):
        repository, _, file = str(config["hf_hub"]).rpartition("/")
        safe = [f"{file[:-4]}.safetensors"] if file.endswith((".bin", ".pth")) else []
        return Source(repository, (*safe, file) if file else HUB_FILES)
    return Source(url=str(config["url"])) if config.get("url") else None


def check_source(name: str, source: Source) -> None:
    """DataMissingError where weights are not on this machine and cannot be had from another one."""
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
    """Whether one of the files is on this machine, where open_clip looks for it."""
    if source.url:
        return (DIRECT.expanduser() / source.url.rpartition("/")[2]).is_file()
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(source.repository, file) for file in source.files)
    return any(isinstance(path, str) for path in found)


def _failure(source: Source) -> str | None:
    """Why the machine that has the weights cannot be reached; None where it answers."""
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
        # Who answers is there; some allow no HEAD.
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
