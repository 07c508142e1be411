"""Fuzz the readers: `python -m tests.fuzzing.run light|heavy CASES [SEED] [NAME [NUMBER]]`.

Prints one line of JSON per reader: numbers of cases and of files used, passed over and refused, and
the findings. Every case is determined by the seed, the name of its reader and its number.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fewshot_bench.utils.errors import FsbenchError
from tests.fuzzing.guard import SECONDS, Guard, Hang, limit_memory
from tests.fuzzing.mutate import mutated
from tests.fuzzing.subject import Seed, Subject

EXTRA_MEMORY = 1 << 30
SHOWN = 5
LONGEST = 3500
WEIGHTS = 150.4
CACHED = ("XDG_CACHE_HOME", "XDG_DATA_HOME", "HOME", "HF_HOME", "TMPDIR")


@dataclass
class Report:
    """Outcomes of the cases of one reader."""

    name: str
    cases: int = 0
    used: int = 0
    passed_over: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    findings: list[str] = field(default_factory=list)


class Place:
    """The folder of one subject inside a sandbox, restored after every case."""

    def __init__(self, base: Path, subject: Subject) -> None:
        self.folder = base / subject.name.replace(" ", "-")
        self.folder.mkdir()
        os.environ["FSBENCH_CACHE"] = str(self.folder / "cache")
        self.seeds = list(subject.build(self.folder))
        for seed in self.seeds:
            path = self.folder / seed.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if seed.place(seed.content) is None:
                path.write_bytes(seed.content)
        self._files = {path: _content(path) for path in self.folder.rglob("*")}

    def restore(self) -> None:
        """Remove new files, and restore those that were changed or removed."""
        found = set(self.folder.rglob("*"))
        for path in sorted(found - set(self._files), reverse=True):
            with contextlib.suppress(FileNotFoundError):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for path, content in self._files.items():
            if content is None:
                path.mkdir(exist_ok=True)
            elif path not in found or path.stat().st_size != len(content):
                path.write_bytes(content)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def fuzz(guard: Guard, base: Path, subject: Subject, numbers: range, seed: int) -> Report:
    """Run the cases of one subject."""
    report, start = Report(subject.name), time.perf_counter()
    place = Place(base, subject)
    if not place.seeds:
        return report
    # Use the valid files first, so that all imports happen before the cases.
    used = [_used(place, subject, each) for each in place.seeds]
    assert any(used), subject.name
    outside = _outside(base, place.folder)
    for number in numbers:
        rng = random.Random(f"{seed}:{subject.name}:{number}")
        chosen = rng.choice(place.seeds)
        content = mutated(rng, chosen.content, chosen.kind)
        began = time.perf_counter()
        _case(guard, place, subject, chosen, content, report, number)
        report.slowest = max(report.slowest, time.perf_counter() - began)
        if _outside(base, place.folder) != outside:
            report.findings.append(f"case {number}: wrote outside of its folder")
            outside = _outside(base, place.folder)
    report.seconds = time.perf_counter() - start
    return report


def _outside(base: Path, folder: Path) -> list[tuple[str, int]]:
    """Modification times of the folders above and beside the subject's own."""
    beside = [path for path in base.iterdir() if path != folder]
    return sorted((str(p), p.stat().st_mtime_ns) for p in (base, base.parent, *beside))


def _used(place: Place, subject: Subject, seed: Seed) -> bool:
    """True if the reader uses a valid file; commands may have no use for some valid files."""
    path = place.folder / (seed.place(seed.content) or seed.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(seed.content)
    try:
        return subject.read(place.folder, path)
    except (FsbenchError, *subject.refusals):
        return False
    finally:
        place.restore()
        if path in place._files:
            path.write_bytes(seed.content)


def _case(
    guard: Guard,
    place: Place,
    subject: Subject,
    seed: Seed,
    content: bytes,
    report: Report,
    number: int,
) -> None:
    report.cases += 1
    path = place.folder / (seed.place(content) or seed.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    problem = ""
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)
    try:
        with guard.watching():
            used = subject.read(place.folder, path)
        report.used += used
        report.passed_over += not used
    except (FsbenchError, *subject.refusals) as error:
        report.refused += 1
        text = str(error)
        # Other exceptions become part of an FsbenchError, or one line of the command line.
        ours = isinstance(error, FsbenchError)
        if ours and not (text.strip() and text.isprintable() and len(text) < LONGEST):
            problem = f"its message is not one line: {text[:300]!r}"
    except (Exception, Hang) as error:
        last = "".join(traceback.format_exception(error)[-6:])
        problem = f"{type(error).__name__}: {error!s:.300}\n{last[-1500:]}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    problems = [problem] if problem else []
    for found in problems + guard.found:
        report.findings.append(f"case {number} ({seed.path}): {found}")
    place.restore()
    if path in place._files:
        path.write_bytes(seed.content)


@contextlib.contextmanager
def sandbox() -> Iterator[Path]:
    """A nested temporary folder that holds every cache and home of this process."""
    with tempfile.TemporaryDirectory(prefix="fsbench-fuzz-") as name:
        base = Path(name).resolve() / "base"
        (base / "outside").mkdir(parents=True)
        for variable in CACHED:
            os.environ[variable] = str(base / "home")
        (base / "home").mkdir()
        tempfile.tempdir = str(base / "home")
        os.chdir(base / "home")
        yield base


def share(subject: Subject, cases: int) -> int:
    """The number of cases for this subject."""
    return max(3, round(cases * subject.weight / WEIGHTS))


def main() -> None:
    """Run the subjects of one group."""
    group, cases, seed, name, only = (*sys.argv[1:], *[""] * 5)[:5]
    faulthandler.enable()
    warnings.simplefilter("ignore")
    with sandbox() as base:
        subjects = importlib.import_module(f"tests.fuzzing.{group}").SUBJECTS
        guard = Guard(base)
        limit_memory(EXTRA_MEMORY)
        for subject in subjects:
            if name and subject.name != name:
                continue
            numbers = range(int(only), int(only) + 1) if only else range(share(subject, int(cases)))
            report = fuzz(guard, base, subject, numbers, int(seed or 0))
            report.findings[SHOWN:] = (
                [f"and {len(report.findings) - SHOWN} more"] if report.findings[SHOWN:] else []
            )
            print(json.dumps(asdict(report)), flush=True)


if __name__ == "__main__":
    main()
