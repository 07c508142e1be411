"""Imported picks in a store: their paths, and reading them for a run.

`load_imported` reads the picks of one setting. A file with a wrong digest or path is not used.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fewshot_bench.api.items import Item
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.api.split_file import Pools
from fewshot_bench.splits.checks import check_digest, check_pools, check_shots
from fewshot_bench.splits.formats import read_split_file
from fewshot_bench.splits.model import SETTING, SplitFile, unusable
from fewshot_bench.splits.sampling import VALIDATION, Picks, count_per_class
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.text import few

FOLDER = "splits"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}")


def path_of_import(store: Path, dataset: str, shots: int, seed: int) -> Path:
    """The path of the imported picks of a setting, whether they are there or not."""
    return store / FOLDER / safe_name(dataset) / f"shot_{shots}-seed_{seed}.json"


def load_imported(
    store: Path, dataset: str, shots: int, seed: int, pools: Pools | None = None
) -> SplitFile:
    """The imported picks of a setting: train and val, as items of the data set.

    pools: the current lists of the data set, against which the picks are checked. DataMissingError
    when none were imported (it names the command), when the file was changed, or when the picks no
    longer fit the lists.
    """
    path = path_of_import(store, dataset, shots, seed)
    if not path.is_file():
        words = ["--dataset", dataset, "--shots", str(shots), "--seed", str(seed)]
        words += ["--store", str(store)]
        raise DataMissingError(
            f"no picks were imported for '{dataset}', {shots}-shot, seed {seed}: expected {path}"
            f"{_others(path.parent)} (fsbench splits import FILE {shlex.join(words)})"
        )
    file = read_imported(path)
    if pools is not None:
        _check_lists(file, dataset, pools)
    return replace(file, lists={"val": (), **file.lists})


def load_picks(store: Path, spec: RunSpec, pools: Pools) -> Picks:
    """Train and val items of a cell; DataMissingError if they are not those that it states."""
    picks = load_imported(store, spec.dataset, spec.shots, spec.split_seed, pools)
    if picks.digest != spec.picks:
        raise DataMissingError(
            f"the picks imported for {spec.dataset}, {spec.shots}-shot, seed {spec.split_seed} "
            f"have the digest {picks.digest[:12]}, this cell was planned with {spec.picks[:12]}: "
            "run the command again"
        )
    return picks.lists["train"], () if spec.val == "none" else picks.lists["val"]


def check_val(picks: SplitFile, val: str) -> None:
    """UsageError when imported picks have no or too many validation images for the policy."""
    shots, held = picks.shots or 0, count_per_class(picks.lists["val"])
    allowed = VALIDATION[val](shots)
    if val != "none" and (held == 0 or (allowed is not None and held > allowed)):
        raise UsageError(
            f"the picks imported for {picks.dataset}, {shots}-shot, seed {picks.seed} have "
            f"{held} validation images a class, --val {val} stands for "
            f"{'all' if allowed is None else allowed}; use "
            f"--val {fit_validation(picks.lists['val'], shots)}"
        )


def fit_validation(val: Sequence[Item], shots: int) -> str:
    """The validation policy that admits these validation images and the fewest beside them."""
    held = count_per_class(val)
    allowed = {name: most(shots) for name, most in VALIDATION.items()}
    return next(name for name, most in allowed.items() if most is None or held <= most)


def safe_name(dataset: str) -> str:
    """A data set's name as a file name; names that had to be changed end in a digest."""
    if PLAIN_NAME.fullmatch(dataset):
        return dataset
    digest = hashlib.sha256(dataset.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', dataset)[:60].strip('_')}-{digest}"


def _check_lists(file: SplitFile, dataset: str, pools: Pools) -> None:
    """Check that every pick is still an image of the data set, with its label, and no test image.

    Also check the shots, and that every current class of the data set has a pick. Class names may
    differ: a run can have its own (`--classnames`).
    """
    labels = {item.id: item.label for items in pools.values() for item in items}
    picks = [item for items in file.lists.values() for item in items]
    gone = [item.id for item in picks if labels.get(item.id) != item.label]
    if gone:
        raise DataMissingError(
            f"'{dataset}' has changed since {file.path} was imported: {len(gone)} of {len(picks)} "
            f"images are gone or have another label: {few(gone)} (import the picks again)"
        )
    check_pools(file, pools, dataset)
    check_shots(file, pools, dataset)


def _others(folder: Path) -> str:
    """Text that lists the settings that were imported for the data set."""
    matches = [SETTING.fullmatch(path.stem) for path in sorted(folder.glob("shot_*.json"))]
    settings = [f"{match[1]}-shot, seed {match[2]}" for match in matches if match]
    return f"; there are {'; '.join(settings[:6])}" if settings else ""


def split_paths(store: Path) -> list[Path]:
    """The files of imported picks, sorted."""
    paths = sorted((store / FOLDER).glob("*/shot_*-seed_*.json"))
    return [path for path in paths if SETTING.fullmatch(path.stem)]


def read_imported(path: Path) -> SplitFile:
    """Imported picks; DataMissingError if the file was changed or its path is wrong."""
    file = read_split_file(path)
    check_digest(file)
    location = (safe_name(file.dataset), f"shot_{file.shots}-seed_{file.seed}")
    if file.format != "fsbench" or location != (path.parent.name, path.stem):
        raise unusable(path, f"holds {'/'.join(location)}", "what its name says: import it again")
    return file
