"""Image formats by file extension, and the packages that read them."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress

# Pillow supports further formats that are not images (PDF, fonts, weather data).
FORMATS = frozenset(
    ("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TGA")
    + ("TIFF", "WEBP")
)
# Formats that a build of Pillow may lack, with their names in `PIL.features`.
CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
# Brands of the container of HEIC and AVIF (ISO 14496-12, bytes 8 to 12), with an extension.
BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"), "heic"),
    **dict.fromkeys((b"avif", b"avis"), "avif"),
}
# What Pillow decodes with, by its names in `PIL.features`.
DECODERS = ("jpg", "libjpeg_turbo", "zlib", "webp", "jpg_2000", "libtiff", "avif")
_PILLOW = "pip install --upgrade pillow"
_CONVERT = "convert them to JPEG or PNG"
# Extensions of image files that may be unreadable here, with the remedy.
REMEDIES = {
    **dict.fromkeys(("heic", "heif", "heics", "heifs", "hif"), "pip install pillow-heif"),
    **dict.fromkeys(("avif", "avifs", "webp"), _PILLOW),
    **dict.fromkeys(("jp2", "j2k", "j2c", "jpc", "jpf", "jpx"), _PILLOW),
    **dict.fromkeys(("jxl", "svg", "psd", "eps", "ico"), _CONVERT),
    **dict.fromkeys(("arw", "cr2", "cr3", "dng", "nef", "orf", "raf", "raw", "rw2"), _CONVERT),
}


@functools.cache
def image_endings() -> tuple[str, ...]:
    """Extensions of readable image files: lower case, without the dot, sorted."""
    from PIL import Image, features

    # `check` warns about names that an older Pillow lacks (`avif` before 11.2).
    named = {*features.modules, *features.codecs, *features.features}
    lacking = {n for n, codec in CODECS.items() if codec not in named or not features.check(codec)}
    readable = set(readable_formats()) - lacking
    endings = Image.registered_extensions()
    return tuple(sorted(ending[1:] for ending, name in endings.items() if name in readable))


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that Pillow and its installed plug-ins can open."""
    from PIL import Image

    add_readers()
    Image.init()
    return tuple(sorted(FORMATS & set(Image.OPEN)))


@functools.cache
def add_readers() -> None:
    """Register installed Pillow plug-ins: HEIC from pillow-heif."""
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()


@functools.cache
def decoder_versions() -> tuple[str, ...]:
    """Versions of Pillow, of the libraries that it decodes with, and of its installed plug-ins."""
    import PIL
    from PIL import features

    add_readers()
    versions = (f"{name} {features.version(name)}" for name in DECODERS)
    plugin = sys.modules.get("pillow_heif")
    heif = (f"pillow_heif {getattr(plugin, '__version__', '')}",) if plugin is not None else ()
    return (f"pillow {PIL.__version__}", *versions, *heif)


def image_remedy(ending: str) -> str:
    """Step that makes files with this extension readable; empty if readable or no images."""
    ending = ending.lower()
    return "" if ending in image_endings() else REMEDIES.get(ending, "")


def pictures_below(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Paths of images, by their endings, in a folder and its subfolders, sorted; no hidden ones.

    Links are followed; a folder to which several paths lead is listed once.
    """
    seen: set[str] = set()
    for parent, folders, names in os.walk(os.fspath(folder), followlinks=True):
        if (place := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            # Readable here or not.
            ending = os.path.splitext(name)[1][1:].lower()
            if name[0] != "." and (ending in image_endings() or image_remedy(ending)):
                yield os.path.join(parent, name)


def remedy_of(data: bytes) -> str:
    """Step that makes an encoded file readable, by its first bytes; empty if none is known.

    Phones and programs also give HEIC files the extension of JPEG.
    """
    kind = BRANDS.get(data[8:12], "") if data[4:8] == b"ftyp" else ""
    remedy = image_remedy(kind)
    return f"it is {kind.upper()}: {remedy}" if remedy else ""


def ignore_pillow_warnings() -> None:
    """Hide Pillow's warnings of images that it reads all the same, in this whole process.

    They name a line of Pillow, and no image.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
