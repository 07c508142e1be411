"""All imported picks of a store, whatever data sets they are of."""

from __future__ import annotations

from pathlib import Path

from fewshot_bench.splits.checks import check_digest
from fewshot_bench.splits.imported import FOLDER, safe_name
from fewshot_bench.splits.model import SETTING, SplitFile, unusable
from fewshot_bench.splits.reading import read_split_file


def split_paths(store: Path) -> list[Path]:
    """The files of imported picks, sorted."""
    found = sorted((store / FOLDER).glob("*/shot_*-seed_*.json"))
    return [path for path in found if SETTING.fullmatch(path.stem)]


def checked(path: Path) -> SplitFile:
    """Imported picks; DataMissingError where the file was changed or lies in a wrong place."""
    file = read_split_file(path)
    check_digest(file)
    place = (safe_name(file.dataset), f"shot_{file.shots}-seed_{file.seed}")
    if file.format != "fsbench" or place != (path.parent.name, path.stem):
        raise unusable(path, f"holds {'/'.join(place)}", "what its name says: import it again")
    return file
