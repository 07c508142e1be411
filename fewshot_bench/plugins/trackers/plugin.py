"""The trackers as a plug-in: `--track`, the variables for workers, and the hooks.

`worker_environment` checks in the command what can be checked before anything is computed;
`points_logged` and `run_finished` write to each tracker that is on. The failure of a tracker is
noted in a file, and the command warns of it at its end.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fewshot_bench import Option, Record, RunSpec, UsageError, hookimpl
from fewshot_bench.engines.base import STORE
from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import unknown
from fewshot_bench.utils.text import counted, printable, split_names

if TYPE_CHECKING:
    from fewshot_bench.api.plugins import Register
    from fewshot_bench.plugins.trackers.backends import Tracked

# Trackers that are on and their folder, in workers.
VARIABLE, FOLDER_VARIABLE = "FSBENCH_TRACK", "FSBENCH_TRACK_DIR"
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
# Number of problems of earlier runs, by store; later ones are from this run.
_earlier: dict[Path, int] = {}


def read_names(text: str) -> tuple[str, ...]:
    """Trackers by name; UsageError for one that is not known."""
    names = split_names(text)
    for name in names:
        if name not in NAMES:
            raise unknown("tracker", name, NAMES, f"--track or {VARIABLE}")
    return tuple(dict.fromkeys(names))


OPTION = Option(
    "track",
    "Trackers: tensorboard, wandb, mlflow.",
    read_names,
    default=(),
    env=VARIABLE,
    metavar="NAMES",
)


@hookimpl
def register_options(register: Register) -> None:
    """Add `--track`."""
    register(OPTION)


@hookimpl
def worker_environment(store: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """Variables that enable trackers in workers; UsageError for one that cannot be used."""
    _earlier[store] = len(list_problems(store))
    return check(options[OPTION.key], store)


@hookimpl
def run_started(spec: RunSpec) -> None:
    """Forget what was written of an earlier try of a cell, whose worker was lost."""
    for name in list_enabled():
        _tracked(name).restart(spec.key())


@hookimpl
def points_logged(spec: RunSpec, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Write points of curves to each tracker that is on; one that fails gets them at the end."""
    from fewshot_bench.plugins.trackers.backends import cell_of

    for name in list_enabled():
        _tracked(name).log(cell_of(spec), points, folder_of_trackers() / name)


@hookimpl
def run_finished(record: Record) -> None:
    """Write to each tracker that is on; a failure is noted and does not stop the others."""
    from fewshot_bench.plugins.trackers.backends import contents

    troubles = []
    for name in list_enabled():
        try:
            _tracked(name).finish(contents(record), folder_of_trackers() / name)
        except (Exception, SystemExit) as error:
            troubles.append(f"{name}: {type(error).__name__}: {error}")
    for text in troubles:
        try:
            _note(f"{text} (cell {record.spec.key()[:12]})")
        except OSError as error:
            # The worker prints it, and keeps the result.
            raise OSError(f"not tracked: {text}; nor noted: {error}") from error


@functools.cache
def _tracked(name: str) -> Tracked:
    """The runs of a tracker in this process."""
    from fewshot_bench.plugins.trackers.backends import BACKENDS, Tracked

    return Tracked(BACKENDS[name])


@hookimpl
def run_warnings(store: Path) -> Sequence[str]:
    """Cells that were not tracked in this run; no result depends on it."""
    troubles = list_problems(store)[_earlier.get(store, 0) :]
    if not troubles:
        return ()
    were = f"{counted(len(troubles), 'cell')} {'was' if len(troubles) == 1 else 'were'}"
    file = folder_of_trackers(store) / PROBLEMS
    return (f"{were} not tracked: {troubles[-1]}; all problems in {file}",)


def list_enabled() -> tuple[str, ...]:
    """The trackers that are on in this process."""
    return read_names(os.environ.get(VARIABLE, ""))


def folder_of_trackers(store: Path | None = None) -> Path:
    """FSBENCH_TRACK_DIR, or the folder beside the results of the store."""
    beside = (store or Path(os.environ.get(STORE) or ".")) / "tracking"
    return Path(os.environ.get(FOLDER_VARIABLE) or beside)


def list_problems(store: Path | None = None) -> list[str]:
    """Problems of trackers, one line each, oldest first."""
    try:
        text = (folder_of_trackers(store) / PROBLEMS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()


def _note(text: str) -> None:
    """Append a line; several workers may do so at once."""
    folder = folder_of_trackers()
    folder.mkdir(parents=True, exist_ok=True)
    # Without a buffer, so that the line is written at once.
    with (folder / PROBLEMS).open("ab", buffering=0) as file:
        file.write(f"{printable(text, 1000)}\n".encode("utf-8", "backslashreplace"))


def check(names: Sequence[str], store: Path) -> dict[str, str]:
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
    # The others are paths, and files of databases.
    remote = "://" in address and not address.startswith(("file:", "sqlite:"))
    if "mlflow" in names and offline.is_on() and (remote or address.startswith("databricks")):
        raise UsageError(
            f"{MLFLOW_VARIABLE} names another machine ({urlsplit(address).hostname or 'Databricks'}"
            "), and --offline allows no connection: unset it to write to the store"
        )
    if not names:
        return {}
    _check_folder(folder_of_trackers(store).absolute())
    variables = {name: os.environ[name] for name in _READ if os.environ.get(name)}
    if "@" in address:
        # Variables stand in files of jobs, where no password belongs.
        del variables[MLFLOW_VARIABLE]
    if os.environ.get(FOLDER_VARIABLE):
        variables[FOLDER_VARIABLE] = str(folder_of_trackers().absolute())
    return {VARIABLE: ",".join(names), **variables}


def _check_wandb(mode: str) -> None:
    if mode and mode not in WANDB_MODES:
        raise unknown(WANDB_VARIABLE, mode, WANDB_MODES, "unset it for offline")
    if mode in _WANDB_SENDS and not offline.is_on() and not _has_wandb_key():
        raise UsageError(
            f"{WANDB_VARIABLE}={mode} needs a key of Weights & Biases, and there is none: run "
            f"'wandb login', set {_WANDB_KEYS[0]}, or unset {WANDB_VARIABLE} to write to the store"
        )


def _has_wandb_key() -> bool:
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


def _check_folder(path: Path) -> None:
    """UsageError unless the folder is writable, or can be made."""
    there = next(part for part in (path, *path.parents) if part.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(
            f"trackers cannot write to '{path}': '{there}' is "
            f"{'not writable' if there.is_dir() else 'not a folder'}; name another folder with "
            f"{FOLDER_VARIABLE}, or leave --track out"
        )
