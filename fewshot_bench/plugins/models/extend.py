"""More images for a kept model: `extend` fits its method anew, on those of then and new ones."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fewshot_bench.api.dataset import all_items
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.models.adapt import Adapted, adapt, scratch
from fewshot_bench.plugins.models.inputs import list_images
from fewshot_bench.plugins.models.place import restore
from fewshot_bench.plugins.models.search import WHOLE
from fewshot_bench.plugins.models.sources import Joined, read_sources
from fewshot_bench.runner.own_data import name_own
from fewshot_bench.store.kept_models import ModelConfig, image_digest, read_config
from fewshot_bench.utils.arguments import naming_arguments
from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.text import few, limited

MOST_NEW = 5
"""Maximum new classes in a line."""


@naming_arguments
def extend(
    model: str | os.PathLike[str],
    add: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    dataset: str | os.PathLike[str] | None = None,
    **more: Any,
) -> Adapted:
    """Fit the method of an adapted model anew, with the images of more class folders.

    The model is the one that `adapt` makes of a folder of all images, with the same options.

    add: folders; an image whose bytes its class has already is left out. output: folder of the
    new model, by default that of the earlier one, which stays until the new one is written.
    dataset: where the earlier images are now. more: arguments of `adapt`, in place of those that
    the model was made by.

    Raises StoreError for a model that does not tell what it was made from, UsageError if earlier
    images are gone, or none is new, and what `adapt` raises.

    >>> extend("model", "new").notes
    """
    folder, added = Path(model), [add] if isinstance(add, str | os.PathLike) else [*add]
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
    folders = [Path(name) for name in dict.fromkeys(map(_place_of, given))]
    if isinstance(names := asked.get("classnames"), list):
        plain = registry().dataset(given[0]).undivided().card().classnames
        asked["classnames"] = dict(zip(plain, names, strict=True))
    more["force"] = more.get("force", False) or output is None
    places = few(map(str, folders))
    with scratch() as scratched:
        if scratched is None:
            raise UsageError("no room for temporary files: set TMPDIR to a folder of another disk")
        joined = Joined(f"folder:{scratched / folders[0].name}")
        joined.datasets = tuple(f"folder:{path}" for path in folders)
        try:
            digests, note = _join(folders, scratched / folders[0].name)
            _check(folder, before, digests, places)
            classnames = registry().dataset(joined).undivided().card().classnames
            new = [name for name in classnames if name not in before.classnames]
            if twins := [name for name in new if Path(name).name in {*before.classnames} - {name}]:
                raise UsageError(
                    f"{few(twins)} would be a class beside that of its last name: expected more "
                    "images of a class in a folder of the same path, or another name"
                )
            done = adapt(joined, output or folder, **asked | more)
        except FsbenchError as error:
            said = str(error).replace(joined, places).replace(joined.partition(":")[2], places)
            raise type(error)(said) from error
    return dataclasses.replace(done, notes=(note, *_compare(before, done), *done.notes))


def _place_of(name: str) -> str:
    family, _, path = name.partition(":")
    folder = os.path.realpath(os.path.expanduser(path))
    if family != "folder" or not os.path.isdir(folder):
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
        new, counts = set[tuple[Path, str]](), [0, 0]
        for path in map(Path, list_images([str(folder)])):
            try:
                digest = image_digest(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise UsageError(f"{path} cannot be read: {error.strerror}; mend it") from None
            place = path.relative_to(folder).parent
            new.add(picture := (place, digest))
            counts[picture in seen] += 1
            if picture not in seen:
                _link(path, target / place)
        before, used = used, len([*all_items(registry().dataset(f"folder:{target}").undivided())])
        if before and used < before + counts[0]:
            raise UsageError(
                f"{folder}: {before + counts[0] - used:,} of its images would not be used beside "
                "the earlier ones; expected the same folders of classes, and of train and test"
            )
        seen |= new
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


def _check(model: Path, before: ModelConfig, digests: set[str], places: str) -> None:
    """UsageError if images of the earlier fit are gone or changed, or if there are no others."""
    fitted = before.fitted_images
    if lost := len(fitted - digests):
        raise UsageError(
            f"{lost:,} of the {len(fitted):,} images that {model} was made from are not in {places}"
            ", or have changed: put them back, or name the folder where they are by --dataset; if "
            f"they are to go, adapt anew (--dataset FOLDER --method {before.method} --force)"
        )
    if fitted and digests == fitted:
        raise UsageError(f"{places} hold no image that {model} was not made from")


def _compare(before: ModelConfig, done: Adapted) -> Iterator[str]:
    """The stated accuracy before and now, and the recall of each new class."""
    rows = done.learned.classes() if done.learned else []
    recalls = {row["class"]: row["recall"] for row in rows if row["recall"] is not None}
    new = [name for name in done.config.classnames if name not in before.classnames]
    told = [f"{name} {100 * recalls[name]:.0f} %" if name in recalls else name for name in new]
    stated = [
        f"{100 * a['mean']:.1f} % ({100 * a['low']:.1f} to {100 * a['high']:.1f})" if a else "none"
        for a in (before.accuracy, done.config.accuracy)
    ]
    metric, classes = done.config.accuracy.get("metric", "accuracy"), limited(told, MOST_NEW)
    yield f"{metric} before {stated[0]}, now {stated[1]}" + f"; new: {classes}" * bool(new)
