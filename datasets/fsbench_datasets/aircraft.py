"""FGVC-Aircraft from its own lists: a list of variants (classes) and an image list per role."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fewshot_bench import DataMissingError, Item
from fewshot_bench.api.sources import plain_text
from fsbench_datasets.advice import displaced, folder_problem, public_steps
from fsbench_datasets.catalog import PublicSet, places
from fsbench_datasets.listed import Loaded, PublicImages
from fsbench_datasets.split_lists import ROLES, shortened

VARIANTS = "variants.txt"


@dataclass(frozen=True)
class AircraftLists:
    """The lists in the first folder that has any of them.

    Labels number the variants that occur in the image lists, in the order of variants.txt.
    """

    name: str
    roots: tuple[Path, ...]
    folders: tuple[Path, ...]
    step: Callable[[], str]

    def found(self) -> bool:
        """True when any of the lists exists."""
        return self._folder() is not None

    def load(self) -> Loaded:
        """Load all lists in file order; ids are file names in the images folder.

        DataMissingError when a list is missing, damaged or contradicts another.
        """
        folder = self._folder()
        if folder is None:
            raise self._missing(self.absent()[0])
        variants = self._variants(folder)
        rows = {role: self._rows(folder, role, variants) for role in ROLES}
        self._check(folder, rows)
        occurring = {name for pairs in rows.values() for _, name in pairs}
        names = tuple(name for name in variants if name in occurring)
        labels = {name: label for label, name in enumerate(names)}
        pools = {
            role: tuple(Item(f"{image}.jpg", labels[name], name) for image, name in pairs)
            for role, pairs in rows.items()
        }
        return Loaded(pools, names, tuple(_list_unlisted(variants, names)))

    def absent(self) -> tuple[str, str]:
        """The missing files and where they are expected, and the step that fixes it."""
        what = f"no {VARIANTS} and no image lists in {' or '.join(map(str, self.folders))}"
        elsewhere = displaced(self.roots, [VARIANTS])
        if elsewhere is None:
            return what, self.step()
        return what, f"they are in {elsewhere}: move its content to {self.folders[0]}"

    def _folder(self) -> Path | None:
        files = [VARIANTS, *map(list_file, ROLES)]
        return next((f for f in self.folders if any((f / n).is_file() for n in files)), None)

    def _variants(self, folder: Path) -> tuple[str, ...]:
        names = [line for _, line in self._lines(folder / VARIANTS)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise self._missing(f"{folder / VARIANTS} names '{twice[0]}' twice")
        return tuple(names)

    def _rows(self, folder: Path, role: str, variants: Sequence[str]) -> list[tuple[str, str]]:
        """(image, variant) of every line; the variant is everything after the first blank."""
        path, names = folder / list_file(role), set(variants)
        rows = []
        for number, line in self._lines(path):
            image, _, name = line.partition(" ")
            name = name.strip()
            if not name or not image.isalnum():
                raise self._missing(
                    f"{path}, line {number} is {line!r}: expected an image number, a blank and a "
                    "variant"
                )
            if name not in names:
                raise self._missing(
                    f"{path}, line {number} names the variant '{name}', which is not in {VARIANTS}"
                )
            rows.append((image, name))
        return rows

    def _lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """(line number, stripped text) of the non-blank lines; Windows line ends are accepted."""
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, ValueError) as error:
            problem = "is missing" if not path.exists() else f"cannot be read ({error})"
            raise self._missing(f"the annotation list {path} {problem}") from None
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                if not plain_text(line.strip()):
                    raise self._missing(f"{path}, line {number} is {line!r}: expected plain text")
                yield number, line.strip()

    def _check(self, folder: Path, rows: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        places: dict[str, str] = {}
        trained = {name for _, name in rows["train"]}
        if not trained:
            raise self._missing(f"{folder / list_file('train')} lists no images")
        for role, pairs in rows.items():
            for image, name in pairs:
                if image in places:
                    where = f"{list_file(places[image])} and {list_file(role)}"
                    raise self._missing(f"image {image} is listed twice, in {where} of {folder}")
                places[image] = role
                if name not in trained:
                    raise self._missing(
                        f"variant '{name}' is listed in {folder / list_file(role)} and has no "
                        f"image in {list_file('train')}"
                    )

    def _missing(self, what: str) -> DataMissingError:
        return DataMissingError(f"data set '{self.name}': {what} ({self.step()})")


def open_aircraft(entry: PublicSet, roots: Sequence[Path]) -> PublicImages:
    """FGVC-Aircraft, searched for below every data root."""
    images = places(roots, entry.images)
    folders = tuple(dict.fromkeys((*places(roots, entry.folders), *(p.parent for p in images))))
    lists = AircraftLists(entry.name, tuple(roots), folders, partial(_step, entry, roots))
    return PublicImages(entry.card(), lists, images, public_steps(entry, roots))


def _step(entry: PublicSet, roots: Sequence[Path]) -> str:
    return folder_problem(entry, roots) or (
        f"fsbench data prepare {entry.name} fetches all lists; or take them from the data/ folder "
        f"of fgvc-aircraft-2013b.tar.gz, {entry.sources[0]}"
    )


def list_file(role: str) -> str:
    """The file that lists the images of a role."""
    return f"images_variant_{role}.txt"


def _list_unlisted(variants: Sequence[str], occurring: Sequence[str]) -> Iterator[str]:
    absent = [name for name in variants if name not in set(occurring)]
    if absent:
        yield (
            f"{len(absent)} of {len(variants)} variants are in no list and are no classes: "
            f"{shortened(absent)}"
        )
