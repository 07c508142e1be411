"""The trackers as a plug-in: its option, the variables for workers, and the hook for records.

`run_finished` writes to each tracker that is on; the failure of a tracker is noted in a file, and
the command warns of it at its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench import Option, Record, hookimpl
from fewshot_bench.plugins.trackers import switch
from fewshot_bench.utils.text import printable

if TYPE_CHECKING:
    from fewshot_bench.api.plugins import Register

OPTION = Option(
    "track",
    "Trackers: tensorboard, wandb, mlflow.",
    switch.names_of,
    default=(),
    env=switch.VARIABLE,
    metavar="NAMES",
)
# Number of problems of earlier runs, by store; later ones are from this run.
_earlier: dict[Path, int] = {}


@hookimpl
def register_options(register: Register) -> None:
    """Add `--track`."""
    register(OPTION)


@hookimpl
def worker_environment(store: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """Variables that enable trackers in workers; UsageError for one that cannot be used."""
    _earlier[store] = len(switch.problems(store))
    return switch.switch_on(options[OPTION.key], store)


@hookimpl
def run_finished(record: Record) -> None:
    """Write to each tracker that is on; a failure is noted and does not stop the others."""
    troubles = []
    for name in switch.list_enabled():
        try:
            from fewshot_bench.plugins.trackers.backends import BACKENDS
            from fewshot_bench.plugins.trackers.contents import contents

            folder = switch.folder() / name
            folder.mkdir(parents=True, exist_ok=True)
            BACKENDS[name](contents(record), folder)
        except (Exception, SystemExit) as error:
            troubles.append(f"{name}: {type(error).__name__}: {error}")
    for text in troubles:
        try:
            _note(switch.folder(), text, record.spec.key())
        except OSError as error:
            # The worker prints it, and keeps the result.
            raise OSError(f"not tracked: {text}; nor noted: {error}") from error


@hookimpl
def run_warnings(store: Path) -> Sequence[str]:
    """Cells that were not tracked in this run; no result depends on it."""
    troubles = switch.problems(store)[_earlier.get(store, 0) :]
    if not troubles:
        return ()
    where = switch.folder(store) / switch.PROBLEMS
    count = "1 cell was" if len(troubles) == 1 else f"{len(troubles)} cells were"
    return (f"{count} not tracked: {troubles[-1]}; all problems in {where}",)


def _note(folder: Path, text: str, key: str) -> None:
    """Append a line; several workers may do so at once."""
    line = printable(f"{text} (cell {key[:12]})", 1000) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    # Without a buffer, so that the line is written at once.
    with (folder / switch.PROBLEMS).open("ab", buffering=0) as file:
        file.write(line.encode("utf-8", "backslashreplace"))
