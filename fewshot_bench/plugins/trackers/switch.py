"""Which trackers are on: a variable, so that worker processes know it too."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import UsageError, unknown

VARIABLE = "FSBENCH_TRACK"
FOLDER_VARIABLE = "FSBENCH_TRACK_DIR"
MLFLOW_VARIABLE = "MLFLOW_TRACKING_URI"
PROBLEMS = "problems.txt"
# Name of a tracker, which is also that of its extra, to the module that it needs.
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def asked() -> tuple[str, ...]:
    """The trackers that FSBENCH_TRACK names; UsageError for one that is not known."""
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    for name in names:
        if name not in PACKAGES:
            raise unknown("tracker", name, PACKAGES, f"--track or {VARIABLE}")
    return tuple(dict.fromkeys(names))


def switch_on(names: Iterable[str], store: Path) -> tuple[str, ...]:
    """Turn trackers on for this process and those that it starts, before anything is computed.

    names: none for what FSBENCH_TRACK says. They write to `tracking` in the store, or to the folder
    that FSBENCH_TRACK_DIR names. UsageError for a tracker that is not known or not installed, and
    where that folder cannot be written.
    """
    names = tuple(names)
    if names:
        os.environ[VARIABLE] = ",".join(names)
    found = asked()
    for name in found:
        spec = find_spec(PACKAGES[name])
        # A folder of that name, such as W&B's own `wandb`, is found too, and has no origin.
        if spec is None or spec.origin is None:
            raise UsageError(
                f"tracker '{name}' needs a package that is not installed: "
                f"pip install 'fewshot-bench[{name}]', or leave --track {name} out"
            )
    address = os.environ.get(MLFLOW_VARIABLE, "")
    if "mlflow" in found and offline.is_on() and "://" in address and address[:5] != "file:":
        raise UsageError(
            f"{MLFLOW_VARIABLE} names another machine ({urlsplit(address).hostname}), and "
            "--offline allows no connection: unset it to write to the store"
        )
    if found:
        write_into(store)
        _check_folder()
    return found


def _check_folder() -> None:
    """UsageError unless the folder of trackers is there, or can be made."""
    place = folder().absolute()
    found = next(part for part in (place, *place.parents) if part.exists())
    if not found.is_dir() or not os.access(found, os.W_OK | os.X_OK):
        raise UsageError(
            f"trackers cannot write to '{place}': '{found}' is "
            f"{'not writable' if found.is_dir() else 'not a folder'}; name another folder with "
            f"{FOLDER_VARIABLE}, or leave --track out"
        )


def write_into(store: Path) -> None:
    """Let trackers write beside the results of a store, unless FSBENCH_TRACK_DIR says otherwise."""
    if not os.environ.get(FOLDER_VARIABLE):
        os.environ[FOLDER_VARIABLE] = str(store.absolute() / "tracking")


def go_on(names: str, store: Path) -> None:
    """Keep trackers on that another machine asked for; one that is not here costs no result."""
    if names:
        os.environ[VARIABLE] = names
        write_into(store)


def folder() -> Path:
    """Where trackers write."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "tracking")


def problems() -> list[str]:
    """What went wrong in trackers, one line each, oldest first."""
    try:
        return (folder() / PROBLEMS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
