"""`textile`: simulated fabric with and without defects, from the package conformal-clip-data."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from fewshot_bench import DataMissingError
from fewshot_bench.api.sources import Stamp, file_stamp
from fsbench_datasets.labels import Row, label_rows
from fsbench_datasets.own_set import Listing, OwnSet
from fsbench_datasets.pools import complete
from fsbench_datasets.split_lists import lines_of

PACKAGE = "conformal_clip_data"
BELOW = "data/textile_images/simulated"
# Folder to class name and number of images, as given in the package's description.
CLASSES = {
    "nominal": ("no defect", 1000),
    "local": ("a local defect", 500),
    "global": ("a global defect", 500),
}
TEMPLATE = "a close-up photo of textile fabric with {}."
INSTALL = "pip install 'fewshot-bench[textile]'"


@dataclass(frozen=True)
class Textile:
    """The images in the installed package; ids are `folder/file`."""

    def listing(self) -> Listing:
        """All images; DataMissingError if the package is absent or has another number of images."""
        names = [classname for classname, _ in CLASSES.values()]
        rows = [
            Row(f"{folder}/{path.name}", label)
            for label, folder in enumerate(CLASSES)
            for path in sorted((self._root / folder).glob("*.jpg"))
        ]
        expected = sum(count for _, count in CLASSES.values())
        if len(rows) != expected:
            raise DataMissingError(
                f"textile: {len(rows)} images in {self._root}, expected {expected}; install the "
                f"package again: {INSTALL}"
            )
        return Listing(
            label_rows("textile", rows, names),
            lines_of((self._root / row.id).stat().st_size for row in rows),
            (TEMPLATE,),
            license="MIT",
            sources=("https://pypi.org/project/conformal-clip-data/",),
            notes=("simulated with the R package spc4sts, 250 x 250 pixels",),
            folder=str(self._root),
        )

    def read(self, id: str) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        return (self._root / id).read_bytes()

    def stamp(self, id: str) -> Stamp | None:
        """The stamp of the image file; None when it is missing."""
        return file_stamp(self._root / id)

    @cached_property
    def _root(self) -> Path:
        spec = importlib.util.find_spec(PACKAGE)
        places = (spec.submodule_search_locations or []) if spec else []
        root = next((Path(location) / BELOW for location in places), None)
        if root is None or not root.is_dir():
            raise DataMissingError(
                f"textile needs the package conformal-clip-data (2,000 images, 42 MB): {INSTALL}"
            )
        return root


def textile() -> OwnSet:
    """2,000 images of simulated fabric in three classes."""
    title = "Simulated textile fabric"
    return OwnSet("textile", title, Textile(), partial(complete, "textile", holdout=None))
