"""Kept models on a hub: download `hub:USER/NAME@revision` to a folder, and push a folder.

`model_folder` and `push` are the entry points. Only the three files of the format are downloaded,
from one commit, into the cache of huggingface_hub; their digests are checked, and none is executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from fewshot_bench.store.kept_models import CARD, CONFIG, FILES, TENSORS, read_model
from fewshot_bench.utils.errors import (
    DataMissingError,
    FsbenchError,
    StoreError,
    UsageError,
    WrongTypeError,
    require,
)
from fewshot_bench.utils.files import read_regular

PREFIX = "hub:"
_NAME = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@([^\s@]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOGIN = "log in (hf auth login, or HF_TOKEN)"


@dataclass(frozen=True)
class HubName:
    """A model on a hub; revision: a branch, tag or commit, empty for the newest."""

    repository: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}{self.revision and '@'}{self.revision}"


def hub_name(text: str) -> HubName:
    """Parse `hub:USER/NAME@revision`; UsageError if it is malformed."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise UsageError(f"'{text}': expected hub:USER/NAME, or hub:USER/NAME@REVISION")
    return HubName(match[1], match[2] or "")


def model_folder(name: str | PathLike[str], say: Callable[[str], None]) -> Path:
    """The folder of a model: `name` itself, or the download of `hub:USER/NAME@revision`.

    say: called with a line about the commit, unless the name states it. UsageError for a malformed
    name or without huggingface_hub, DataMissingError if the hub does not provide the model,
    StoreError if the download is damaged.
    """
    if not isinstance(name, str | PathLike):
        raise WrongTypeError(
            f"{name!r:.80} is no model; expected a folder or hub:USER/NAME@REVISION"
        )
    text = os.fspath(name)
    if not text.startswith(PREFIX):
        return Path(text)
    wanted = hub_name(text)
    with _connect(wanted, "loading a model from a hub") as api:
        folder = _find_cached(wanted) or _download(api, wanted)
    commit = replace(wanted, revision=folder.name)
    if wanted.revision != commit.revision:
        say(f"{wanted} is at commit {commit.revision}; {commit} names it for good")
    try:
        read_model(folder)
    except StoreError as error:
        raise StoreError(
            f"{commit} is damaged on the hub or came over damaged: {error}; "
            f"to load it once more, remove {folder.parents[1]}"
        ) from None
    return folder


def push(folder: Path, destination: str, *, private: bool = False, branch: str = "") -> HubName:
    """Push a model to a hub as one commit, which is returned; creates the repository if needed.

    destination: `hub:USER/NAME`. private: only users with access see it; UsageError if the
    repository exists and is public. branch: the branch to write to, created if needed. StoreError
    for a folder that is not a complete model, DataMissingError if the hub does not accept it.
    """
    target = hub_name(destination)
    if target.revision:
        raise UsageError(f"'{destination}': name the branch to write to by --revision")
    read_model(folder)
    if not (folder / CARD).is_file() or not read_regular(folder / CARD).strip():
        raise StoreError(f"{folder} has no model card: write what the model is into {CARD}")
    wanted = replace(target, revision=branch)
    with _connect(wanted, "putting a model on a hub") as api:
        from huggingface_hub import CommitOperationAdd, constants

        if constants.HF_HUB_OFFLINE:
            raise DataMissingError(f"{target}: offline, so that nothing can be put on a hub")
        repository = target.repository
        # None applies the settings of the organization, which may be stricter.
        api.create_repo(repository, private=True if private else None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise UsageError(f"{target} is there and public; make it private there, or rename it")
        if branch:
            api.create_branch(repository, branch=branch, exist_ok=True)
        files = [CommitOperationAdd(file, folder / file) for file in (CONFIG, TENSORS, CARD)]
        done = api.create_commit(
            repository,
            files,
            commit_message="Put a model of fewshot_bench",
            revision=branch or None,
        )
    return replace(target, revision=str(done.oid))


def _find_cached(name: HubName) -> Path | None:
    """Cached folder with all files of a commit; None if incomplete or no commit is named."""
    from huggingface_hub import try_to_load_from_cache

    if not _COMMIT.fullmatch(name.revision):
        return None
    files = [
        try_to_load_from_cache(name.repository, file, revision=name.revision) for file in FILES
    ]
    paths = [Path(path) for path in files if isinstance(path, str)]
    return paths[0].parent if len(paths) == len(FILES) else None


def _download(api: Any, name: HubName) -> Path:
    """Download the files of one commit; returns their folder."""
    # Resolve the commit first: a wrong name fails at once here, while a download would retry.
    commit = str(api.model_info(name.repository, revision=name.revision or None).sha)
    if not _COMMIT.fullmatch(commit):
        raise StoreError(f"{name}: the hub names no commit of it ({commit!r:.60})")
    folders = {
        Path(api.hf_hub_download(name.repository, file, revision=commit)).parent for file in FILES
    }
    if {folder.name for folder in folders} != {commit}:
        raise StoreError(f"{name}: the hub gave files of another commit than {commit}; try again")
    return folders.pop()


@contextmanager
def _connect(name: HubName, what: str) -> Iterator[Any]:
    """The hub's API; turns errors into a one-line DataMissingError with the model's name."""
    hub = require("huggingface_hub", "hub", what)
    try:
        yield hub.HfApi()
    except FsbenchError:
        raise
    except Exception as error:
        raise DataMissingError(f"{name}: {_reason(error, name, hub)}") from error


def _reason(error: Exception, name: HubName, hub: Any) -> str:
    from huggingface_hub import errors

    cached = Path(hub.constants.HF_HUB_CACHE) / f"models--{name.repository.replace('/', '--')}"
    here = ", ".join(sorted(path.name for path in (cached / "snapshots").glob("*"))) or "none"
    status = getattr(getattr(error, "response", None), "status_code", None)
    reasons: list[tuple[type[Exception], str]] = [
        (errors.GatedRepoError, f"access is restricted; ask for it on its page, then {_LOGIN}"),
        (errors.RepositoryNotFoundError, f"no such model, or it is private: check it, or {_LOGIN}"),
        (errors.RevisionNotFoundError, "no such revision; name a branch, a tag or a commit"),
        (
            errors.OfflineModeIsEnabled,
            "offline, a commit that was loaded before has to be named: "
            f"{PREFIX}{name.repository}@COMMIT (here: {here})",
        ),
    ]
    for kind, reason in reasons:
        if isinstance(error, kind):
            return reason
    if status == 404 and isinstance(error, errors.EntryNotFoundError):
        return "it holds no model: one of its files is not there"
    if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
        return f"the hub does not allow it ({status}): {_LOGIN} with a token that may write there"
    words = " ".join(str(error).split())
    return (
        f"{hub.constants.ENDPOINT} does not answer as a hub: {type(error).__name__}: {words:.200}"
    )
