"""Read the encoded image files of a data set, identify them by digests, check and decode them.

Digests and findings are cached by file stamp, so that unchanged files are not read again. `decode`
reads one file, `find_unreadable` checks many, `ImageFiles` reads those of a cell.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import re
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fewshot_bench.api.dataset import (
    MOST_COMPARED,
    SKIPPED,
    Dataset,
    Stamped,
    Undivided,
    Without,
    all_items,
)
from fewshot_bench.api.items import Item
from fewshot_bench.images.digests import DatasetDigests, Known, Seen, wait_until_reliable
from fewshot_bench.images.fingerprints import thumbnail
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.image_formats import add_readers, readable_formats, remedy_of
from fewshot_bench.utils.prefetch import THREADS, spread
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import FEW, shortened

# The EXIF tag for the orientation of a picture.
ORIENTATION = 274
# Its values for pictures that are not upright; 1 is upright, and others mean nothing.
TURNED = range(2, 9)
# The formats that Pillow knows without importing all of its plug-ins.
_COMMON = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM")
MOST_RATIO = 1000
# Values of 12 bits (cameras, microscopes) in a file of 16 bits are below this one of 256.
BLACK = 16
# Pillow's name for values of 16 bits (colors of 5 and 6 bits are `BGR;16`), and its decoder of PPM.
WIDE = re.compile(r";16[BLN]|(?P<rounded>'ppm.*, 65535\))")
# Multi-picture JPEG: the first picture is an ordinary JPEG.
SAME_FORMAT = {"MPO": "JPEG"}


class UnsuitableError(ValueError):
    """An image that could be decoded, but not used."""


def open_image(data: bytes) -> Image.Image:
    """The PIL image of an encoded file whose pixels are not read yet; any error if it has none.

    Formats of photographs alone are tried: for others, Pillow starts programs (Ghostscript).
    UnsuitableError for an image that would fill the memory once its short side is resized.
    """
    add_readers()
    try:
        image = Image.open(io.BytesIO(data), formats=_COMMON)
    except UnidentifiedImageError:
        image = Image.open(io.BytesIO(data), formats=readable_formats())
    if max(image.size) > MOST_RATIO * min(image.size):
        raise UnsuitableError(
            f"{image.width} x {image.height} pixels: expected sides that differ by a factor of at "
            f"most {MOST_RATIO:,}"
        )
    return image


def decode(data: bytes) -> Image.Image:
    """The PIL image of an encoded file, fully read; errors as those of `open_image`.

    Gray values of 16 bits are scaled to 8. UnsuitableError for colors of 16 bits that look black
    (or white, in CMYK) in the 8 bits that Pillow keeps of them.
    """
    image = open_image(data)
    # Reading the pixels empties the list of tiles, which alone says how many bits they had.
    wide = WIDE.search(str(getattr(image, "tile", ())))
    image.load()
    colors = {"RGB": 3, "CMY": 4}.get(image.mode[:3], 0)
    if not wide or not colors:
        return _in_8_bits(image)
    extrema: Any = image.getextrema()
    highest = max(high for _, high in extrema[:colors])
    # Pillow rounds the colors of PPM, and cuts the lower 8 bits off others.
    if highest < BLACK + bool(wide["rounded"]):
        raise UnsuitableError(
            f"colors of 16 bits, none of them above {256 * highest + 255:,} of 65,535: they would "
            f"look {'white' if image.mode == 'CMYK' else 'black'}; scale it to 0 to 255 and "
            "convert it to 8 bits"
        )
    return image


def _in_8_bits(image: Image.Image) -> Image.Image:
    """The image with gray values of 9 to 16 bits scaled to 8, of which Pillow would cut them off.

    Values below 4,096 have as many bits as the highest of them, others have 16.
    """
    values = np.asarray(image) if image.mode[:1] == "I" else np.zeros(1, np.uint8)
    highest = int(values.max())
    if values.min() < 0 or not 255 < highest < 1 << 16:
        return image
    bits = 16 if highest >= 256 * BLACK else highest.bit_length()
    scaled = Image.fromarray((values >> bits - 8).astype(np.uint8))
    scaled.format, scaled.info = image.format, image.info | {"exif": image.getexif().tobytes()}
    return scaled


def decode_or_explain(data: bytes) -> Image.Image | str:
    """The PIL image of an encoded file, or in one line why it does not decode."""
    if not data:
        return "the file is empty"
    try:
        return decode(data)
    except UnidentifiedImageError:
        start = f"it starts with {data[:8]!r}"
        return f"no known image format ({', '.join(filter(None, (start, remedy_of(data))))})"
    except UnsuitableError as error:
        return str(error)
    except Image.DecompressionBombError as error:
        return f"{in_a_line(error)} (scale it down)"
    except Exception as error:
        return in_a_line(error)


def in_a_line(error: BaseException) -> str:
    """The type and message of an error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def unread(error: Exception) -> str:
    """The reason why an image could not be read, from the error of its data set."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "a link that leads to itself"
    return f"cannot be read: {in_a_line(error)}"


def deep_problem(image: Image.Image) -> str | None:
    """The problem of an image with other values than of 8 bits, which Pillow clips to 0 to 255."""
    if image.mode[:1] not in ("I", "F"):
        return None
    values = np.asarray(image)
    lowest, highest = values.min(), values.max()
    said = f"(mode {image.mode}, values from {lowest:g} to {highest:g})"
    if not np.isfinite(values).all():
        return f"values that are no numbers {said}; convert it to 8 bits"
    if lowest >= 0 and 1 < highest <= 255 and (values == np.rint(values)).all():
        return None
    return (
        f"not the values of 8 bits {said}: they would be cut to whole numbers from 0 to 255 and "
        "look black or white; scale it to 0 to 255 and convert it to 8 bits"
    )


def orientation(image: Image.Image) -> Any:
    """The orientation that EXIF states; 1, which is upright, without one or in damaged EXIF."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1


def is_turned(image: Image.Image) -> bool:
    """True if EXIF states a rotation or mirroring; damaged EXIF and other values are ignored."""
    return orientation(image) in TURNED


def upright(image: Image.Image) -> Image.Image:
    """Apply the image's EXIF orientation."""
    return ImageOps.exif_transpose(image) if is_turned(image) else image


def shrink(data: bytes, side: int = 96, quality: int = 80) -> bytes:
    """A JPEG file of an image, upright, with no side longer than `side`; any error without one.

    It is re-encoded from pixels, without the metadata of the file (places, cameras, names).
    """
    image = open_image(data)
    # Only JPEG files are read at a part of their size.
    image.draft(None, (2 * side, 2 * side))
    picture = upright(_in_8_bits(image)).convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    Image.fromarray(np.asarray(picture)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def see(image: Image.Image) -> Seen:
    """Look at a decoded picture, as it stands upright."""
    form, standing = image.format or "unknown", upright(image)
    return Seen(SAME_FORMAT.get(form, form), image.mode, standing.size, thumbnail(standing))


class Checked(NamedTuple):
    """Findings of a check of images.

    bad: id to reason, for images that are missing or unusable; turned: number of other images with
    an EXIF orientation; trouble: why the findings could not be cached.
    """

    bad: dict[str, str]
    turned: int
    trouble: str


def find_unreadable(dataset: Dataset, items: Sequence[Item]) -> Checked:
    """Find items that cannot be decoded; files with a cached result are not read."""
    digests = DatasetDigests(dataset)
    current().step(f"checking images of {dataset.card().name}", len(items))
    # Own pictures are looked at more closely later, and are decoded but once for all of it.
    how: How = "look" if isinstance(dataset, Undivided) and len(items) <= MOST_COMPARED else "check"
    results = examine(dataset, digests, items, how, patient=True)
    digests.save()
    pairs = zip(items, results, strict=True)
    bad = {item.id: problem for item, problem in pairs if isinstance(problem, str)}
    turned = sum(isinstance(facts, Known) and facts.turned for facts in results)
    return Checked(bad, turned, digests.problem)


How = Literal["check", "look", "anew"]


def examine(
    dataset: Dataset,
    digests: DatasetDigests,
    items: Sequence[Item],
    how: How,
    threads: int = THREADS,
    patient: bool = False,
) -> list[Known | str]:
    """The facts of each item's file, or in one line why it cannot be used.

    how: `check` whether it decodes; `look` closer, and cache what is seen; look `anew`, without
    what is cached. patient: wait for files that were just changed, so that what is found can be
    cached.
    """
    work = current()

    def look(item: Item) -> Known | str:
        facts = _examine(dataset, digests, item, how, patient)
        work.advance()
        return facts

    return spread(look, items, threads)


def _examine(
    dataset: Dataset, digests: DatasetDigests, item: Item, how: How, patient: bool
) -> Known | str:
    try:
        stamp = digests.stamp(item)
        if patient and stamp:
            wait_until_reliable(stamp)
        taken = time.time()
        known = digests.get(item, stamp)
        if known and known.decodes and (how == "check" or (how == "look" and known.seen)):
            return known
        data = dataset.read(item)
    except Exception as error:
        return unread(error)
    image = decode_or_explain(data)
    if isinstance(image, str):
        return image
    try:
        if problem := deep_problem(image):
            return problem
        plain = Known(hashlib.sha256(data).digest(), True, is_turned(image))
        facts = plain if how == "check" else plain._replace(seen=see(image))
    except Exception as error:
        return in_a_line(error)
    digests.put(item, stamp, facts if how == "look" else plain, taken)
    return facts


def open_usable(
    open_it: Callable[[Mapping[str, Any]], Any], name: str, data: Mapping[str, Any]
) -> Dataset:
    """Open a data set without its unusable images; `open_it` opens it from `RunSpec.data`."""
    whole: Dataset = open_it({**data, SKIPPED: {name: []}})
    problems = find_unreadable(whole, [item for _, item in all_items(whole)]).bad
    lost = list_lost_training(whole, problems)
    if lost:
        raise DataMissingError(
            f"{name}: {lost} are damaged or missing: mend them, or remove the "
            "class (its folder, or its lines in the manifest)"
        )
    bad = list(problems)
    dataset: Dataset = open_it({**data, SKIPPED: {name: bad}} if bad else data)
    return dataset


def with_skipped(
    data: Mapping[str, Any], datasets: Mapping[str, Dataset], *names: str
) -> Mapping[str, Any]:
    """The `RunSpec.data` of these data sets, including the ids of skipped images."""
    used = {name: datasets[name] for name in names if name in datasets}
    skipped = {n: list(d.skipped) for n, d in used.items() if isinstance(d, Without)}
    return {**data, SKIPPED: skipped} if skipped else data


def list_lost_training(dataset: Dataset, bad: Mapping[str, str]) -> str:
    """`all 10 images of class 'cow'`: the classes that would have no train images left."""
    whole = dict(list_lost_classes([item for _, item in all_items(dataset)], bad))
    lost = [
        f"all {whole[title]:,} images of class '{title}'"
        if title in whole
        else f"all {count:,} train images of class '{title}'"
        for title, count in list_lost_classes(dataset.items().get("train", ()), bad)
    ]
    return ", ".join(shortened(lost, FEW))


def list_lost_classes(items: Sequence[Item], bad: Mapping[str, str]) -> list[tuple[str, int]]:
    """Classes of which no image can be used, with the number of their images."""
    total = Counter(item.classname for item in items)
    lost = Counter(item.classname for item in items if item.id in bad)
    return [(name, count) for name, count in total.items() if lost[name] == count]


class EncodedFiles(ABC):
    """The encoded files of some images, by number; DataMissingError names one that is unusable."""

    name: str
    stamped: bool
    problem: str = ""

    @property
    @abstractmethod
    def digests(self) -> tuple[bytes, ...]:
        """The SHA-256 of every file; files with a cached digest for their stamp are not read."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded file."""

    @abstractmethod
    def title(self, index: int) -> str:
        """Name of an image for error messages."""

    def decode(self, index: int) -> Image.Image:
        """Decode an image; DataMissingError if that fails or the file no longer has its digest."""
        data = self.read(index)
        if "digests" in vars(self) and hashlib.sha256(data).digest() != self.digests[index]:
            raise DataMissingError(
                f"{self.name}: {self.title(index)} changed while it was in use; "
                "run again when the files stay as they are"
            )
        image = decode_or_explain(data)
        if isinstance(image, str):
            raise self.unusable(index, f"does not decode: {image}")
        return image

    def unusable(self, index: int, reason: str) -> DataMissingError:
        """The error for an image that cannot be used."""
        return DataMissingError(
            f"{self.name}: {self.title(index)} {reason}; "
            "restore the file, or remove it from the split"
        )


class ImageFiles(EncodedFiles):
    """The files of some items of a data set.

    handle: replaces ids and paths in errors that reach code which must not see these.
    """

    def __init__(self, dataset: Dataset, items: Sequence[Item], handle: str = "") -> None:
        self.name = dataset.card().name
        self.stamped = isinstance(dataset, Stamped)
        self._dataset = dataset
        self._items = items
        self._handle = handle

    def __len__(self) -> int:
        return len(self._items)

    @functools.cached_property
    def digests(self) -> tuple[bytes, ...]:
        """The SHA-256 of every file; files with a cached digest for their stamp are not read."""
        cached = DatasetDigests(self._dataset)
        shas = spread(lambda index: self._digest(index, cached), range(len(self._items)))
        cached.save()
        self.problem = cached.problem
        return tuple(shas)

    def _digest(self, index: int, cached: DatasetDigests) -> bytes:
        item = self._items[index]
        stamp = cached.stamp(item)
        before = cached.get(item, stamp)
        if before is not None:
            return before.sha
        taken = time.time()
        sha = hashlib.sha256(self.read(index)).digest()
        cached.put(item, stamp, Known(sha, False), taken)
        return sha

    def read(self, index: int) -> bytes:
        """The encoded file."""
        try:
            return self._dataset.read(self._items[index])
        except OSError as error:
            reason = error.strerror or type(error).__name__ if self._handle else error
            raise self.unusable(index, f"cannot be read: {reason}") from error
        except Exception as error:
            if not self._handle:
                raise
            raise self.unusable(index, f"cannot be read: {type(error).__name__}") from error

    def title(self, index: int) -> str:
        """The image with its id, or with its number if there is a handle."""
        return numbered(self._handle, index) if self._handle else self.name_image(index)

    def name_image(self, index: int) -> str:
        """The image with its id."""
        return f"image '{self._items[index].id}'"


def numbered(handle: str, index: int) -> str:
    """An image by its number, which `Examiner.settle` replaces by the id."""
    return f"image {handle}#{index}"
