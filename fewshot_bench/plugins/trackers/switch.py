"""Enabled trackers and their folder, passed to workers as environment variables.

`switch_on` checks in the command what can be checked before anything is computed; `list_enabled`,
`folder` and `problems` read the variables in any process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from fewshot_bench import UsageError
from fewshot_bench.engines.base import STORE
from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import unknown
from fewshot_bench.utils.text import split_names

VARIABLE = "FSBENCH_TRACK"
FOLDER_VARIABLE = "FSBENCH_TRACK_DIR"
MLFLOW_VARIABLE = "MLFLOW_TRACKING_URI"
WANDB_VARIABLE = "WANDB_MODE"
WANDB_MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")
_WANDB_SENDS = ("online", "shared", "run")
_WANDB_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
# What trackers read in workers, which may have another environment (a running Ray cluster).
_READ = (WANDB_VARIABLE, "WANDB_PROJECT", MLFLOW_VARIABLE, "MLFLOW_EXPERIMENT_NAME")
PROBLEMS = "problems.txt"
# Names of trackers, of their extras, and of the modules that they need.
NAMES = ("tensorboard", "wandb", "mlflow")


def names_of(text: str) -> tuple[str, ...]:
    """Trackers by name; UsageError for one that is not known."""
    names = split_names(text)
    for name in names:
        if name not in NAMES:
            raise unknown("tracker", name, NAMES, f"--track or {VARIABLE}")
    return tuple(dict.fromkeys(names))


def list_enabled() -> tuple[str, ...]:
    """The trackers that are on in this process."""
    return names_of(os.environ.get(VARIABLE, ""))


def switch_on(names: Sequence[str], store: Path) -> dict[str, str]:
    """Variables for workers; UsageError for a missing package, or unusable server, mode, folder."""
    for name in names:
        spec = find_spec(name)
        # A plain folder of that name, such as W&B's own `wandb`, is found, too: without origin.
        if spec is None or spec.origin is None:
            raise UsageError(
                f"tracker '{name}' needs a package that is not installed: "
                f"pip install 'fewshot-bench[{name}]', or leave --track {name} out"
            )
    if "wandb" in names:
        _check_wandb(os.environ.get(WANDB_VARIABLE, ""))
    address = os.environ.get(MLFLOW_VARIABLE, "")
    if "mlflow" in names and offline.is_on() and _is_remote(address):
        where = urlsplit(address).hostname or "Databricks"
        raise UsageError(
            f"{MLFLOW_VARIABLE} names another machine ({where}), and "
            "--offline allows no connection: unset it to write to the store"
        )
    if not names:
        return {}
    _check_folder(folder(store))
    variables = {name: os.environ[name] for name in _READ if os.environ.get(name)}
    if "@" in address:
        # Variables stand in files of jobs, where no password belongs.
        del variables[MLFLOW_VARIABLE]
    if os.environ.get(FOLDER_VARIABLE):
        variables[FOLDER_VARIABLE] = str(folder().absolute())
    return {VARIABLE: ",".join(names), **variables}


def _check_wandb(mode: str) -> None:
    if mode and mode not in WANDB_MODES:
        raise unknown(WANDB_VARIABLE, mode, WANDB_MODES, "unset it for offline")
    if mode in _WANDB_SENDS and not offline.is_on() and not _wandb_has_key():
        raise UsageError(
            f"{WANDB_VARIABLE}={mode} needs a key of Weights & Biases, and there is none: run "
            f"'wandb login', set {_WANDB_KEYS[0]}, or unset {WANDB_VARIABLE} to write to the store"
        )


def _wandb_has_key() -> bool:
    """False if no variable and no file that W&B reads can hold a key."""
    if any(map(os.environ.get, _WANDB_KEYS)):
        return True
    home = Path("~").expanduser()
    config = Path(os.environ.get("WANDB_CONFIG_DIR") or home / ".config/wandb")
    # `wandb login` writes the first one.
    netrc = Path(os.environ.get("NETRC") or home / ".netrc")
    for path in (netrc, home / "_netrc", config / "settings", Path("wandb/settings")):
        with suppress(OSError):
            if re.search(rb"password|api_key", path.read_bytes()):
                return True
    return False


def _is_remote(address: str) -> bool:
    """True if MLflow reaches this address by the network: no path, and no file of a database."""
    local = "://" not in address or address.startswith(("file:", "sqlite:"))
    return not local or address.startswith("databricks")


def _check_folder(path: Path) -> None:
    """Raise UsageError unless the folder of trackers is writable, or can be made."""
    path = path.absolute()
    there = next(part for part in (path, *path.parents) if part.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(
            f"trackers cannot write to '{path}': '{there}' is "
            f"{'not writable' if there.is_dir() else 'not a folder'}; name another folder with "
            f"{FOLDER_VARIABLE}, or leave --track out"
        )


def folder(store: Path | None = None) -> Path:
    """Folder of trackers: FSBENCH_TRACK_DIR, or beside the results of the store."""
    beside = (store or Path(os.environ.get(STORE) or ".")) / "tracking"
    return Path(os.environ.get(FOLDER_VARIABLE) or beside)


def problems(store: Path | None = None) -> list[str]:
    """Problems of trackers, one line each, oldest first."""
    path = folder(store) / PROBLEMS
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
