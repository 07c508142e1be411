"""The hook that tells trackers about every record that was written."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench.api.plugins import hookimpl
from fewshot_bench.plugins.trackers import switch
from fewshot_bench.utils.text import printable

if TYPE_CHECKING:
    from fewshot_bench.api.record import Record


@hookimpl
def run_finished(record: Record) -> None:
    """Tell each tracker that is on; one that fails is noted, and stops nothing else."""
    troubles = []
    for name in switch.asked():
        try:
            from fewshot_bench.plugins.trackers.contents import contents

            module = importlib.import_module(f"fewshot_bench.plugins.trackers.{name}_tracker")
            folder = switch.folder() / name
            folder.mkdir(parents=True, exist_ok=True)
            module.track(contents(record), folder)
        except (Exception, SystemExit) as error:
            troubles.append(f"{name}: {type(error).__name__}: {error}")
    for text in troubles:
        try:
            _note(switch.folder(), text, record.spec.key())
        except OSError as error:
            # What runs the hook says so, and keeps the result.
            raise OSError(f"not tracked: {text}; nor noted: {error}") from error


def _note(folder: Path, text: str, key: str) -> None:
    """Append a line; several workers may do so at once."""
    line = printable(f"{text} (cell {key[:12]})", 1000) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    place = os.open(folder / switch.PROBLEMS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(place, line.encode("utf-8", "backslashreplace"))
    finally:
        os.close(place)
