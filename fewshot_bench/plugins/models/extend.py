"""More images for a kept model: `extend` fits its method anew, on those of then and new ones."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.models.adapt import Adapted, adapt, scratch
from fewshot_bench.plugins.models.inputs import list_images
from fewshot_bench.plugins.models.place import restore
from fewshot_bench.plugins.models.search import WHOLE
from fewshot_bench.runner.own_data import name_own
from fewshot_bench.store.kept_models import (
    Joined,
    ModelConfig,
    image_digest,
    read_config,
    read_sources,
)
from fewshot_bench.utils.arguments import naming_arguments
from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.text import few, limited, percent


@naming_arguments
def extend(
    model: str | os.PathLike[str],
    add: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    dataset: str | os.PathLike[str] | None = None,
    **more: Any,
) -> Adapted:
    """Fit the method of an adapted model anew, as `adapt` does on a folder of all images.

    add: folders; an image whose bytes its class has already is left out. output: folder of the
    new model, by default that of the earlier one, which stays until the new one is written.
    dataset: where the earlier images are now. more: arguments of `adapt`, in place of those of
    then.

    Raises StoreError for a model that does not tell what it was made from, UsageError if earlier
    images are gone, or none is new, and what `adapt` raises.

    >>> extend("model", "new").notes
    """
    folder, added = Path(model), [add] if isinstance(add, str | os.PathLike) else add
    restore(folder)
    before, sources = read_config(folder), read_sources(folder)
    asked = sources.asked | {"backbone": before.backbone, "precision": before.precision}
    # No code that a file names runs.
    asked["method"] = before.method + WHOLE * str(asked.get("method")).endswith(WHOLE)
    if "method" in more:
        asked["options"] = ()
    elif before.method not in registry().methods.entries:
        raise UsageError(f"{folder}: {before.method} is in no plug-in: name its file by --method")
    given = *(sources.datasets if dataset is None else [name_own(dataset)]), *map(name_own, added)
    folders = [*dict.fromkeys(map(_place_of, given))]
    if isinstance(names := asked.get("classnames"), list):
        plain = registry().dataset(given[0]).undivided().card().classnames
        asked["classnames"] = dict(zip(plain, names, strict=True))
    more["force"] = more.get("force", False) or output is None
    places = few(map(str, folders))
    with scratch() as scratched:
        if scratched is None:
            raise UsageError("no room for temporary files: set TMPDIR to a folder of another disk")
        target = scratched / folders[0].name
        joined = Joined(f"folder:{target}")
        joined.datasets = tuple(f"folder:{path}" for path in folders)
        try:
            digests, note = _join(folders, target)
            if lost := len((fitted := before.fitted_images) - digests):
                raise UsageError(
                    f"{lost:,} of the {len(fitted):,} images that {folder} was made from are not "
                    f"in {places}, or have changed: put them back, or name the folder where they "
                    "are by --dataset; if they are to go, adapt anew (--dataset FOLDER --method "
                    f"{before.method} --force)"
                )
            if digests == fitted:
                raise UsageError(f"{places} hold no image that {folder} was not made from")
            classnames = registry().dataset(joined).undivided().card().classnames
            new = [name for name in classnames if name not in before.classnames]
            if twins := [name for name in new if Path(name).name in {*before.classnames} - {name}]:
                raise UsageError(
                    f"{few(twins)} would be a class beside that of its last name: expected more "
                    "images of a class in a folder of the same path, or another name"
                )
            done = adapt(joined, output or folder, **asked | more)
        except FsbenchError as error:
            error.args = (str(error).replace(joined, places).replace(str(target), places),)
            raise
    return dataclasses.replace(done, notes=(note, _compare(before, done.config), *done.notes))


def _place_of(name: str) -> Path:
    family, _, path = name.partition(":")
    folder = Path(path).expanduser().resolve()
    if family != "folder" or not folder.is_dir():
        raise UsageError(
            f"{name}: expected a folder of images, with a folder for each class (--dataset names "
            "where those of the earlier model are now)"
        )
    return folder


def _join(folders: Sequence[Path], target: Path) -> tuple[set[str], str]:
    """Link the images of all folders into one, as if each was copied over those before it.

    Of two images with one path, the later is renamed; one whose bytes are in an earlier folder of
    the same path is left out. Returns the digests, and a note on the numbers. UsageError for images
    that would not be used there.
    """
    seen: set[tuple[Path, str]] = set()
    used, notes = 0, []
    for folder in folders:
        new, counts = set(seen), [0, 0]
        for path in map(Path, list_images([str(folder)])):
            place, digest = path.relative_to(folder).parent, ""
            # What cannot be read is named before the fit.
            with suppress(OSError):
                digest = image_digest(hashlib.sha256(path.read_bytes()).digest())
            new.add(picture := (place, digest))
            counts[picture in seen] += 1
            if picture not in seen:
                _link(path, target / place)
        pools = registry().dataset(f"folder:{target}").undivided().items().values()
        before, used, seen = used, sum(map(len, pools)), new
        if before and (unused := before + counts[0] - used):
            raise UsageError(
                f"{folder}: {unused:,} of its images would not be used beside the earlier ones; "
                "expected the same folders of classes, and of train and test"
            )
        known = f" ({counts[1]:,} more are there already)" if counts[1] else ""
        notes.append(f"{counts[0]:,} of {folder}{known}")
    return {digest for _, digest in seen}, f"images: {', '.join(notes)}"


def _link(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    link, number = folder / path.name, 1
    while os.path.lexists(link):
        number += 1
        link = folder / f"{path.stem}_{number}{path.suffix}"
    try:
        link.symlink_to(path)
    except OSError:
        # Some systems let not everybody make links.
        shutil.copyfile(path, link)


def _compare(before: ModelConfig, now: ModelConfig) -> str:
    """The stated accuracy before and now, and the recall of each new class."""
    recalls = {row["class"]: row["recall"] for row in now.classes if row["recall"] is not None}
    new = [name for name in now.classnames if name not in before.classnames]
    told = [f"{name} {100 * recalls[name]:.0f} %" if name in recalls else name for name in new]
    stated = [
        percent(a["mean"], a["low"], a["high"], digits=1) if a else "none"
        for a in (before.accuracy, now.accuracy)
    ]
    metric = now.accuracy.get("metric", "accuracy")
    classes = f"; new: {limited(told, 5)}" if new else ""
    return f"{metric} before {stated[0]}, now {stated[1]}{classes}"
