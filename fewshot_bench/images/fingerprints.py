"""Fingerprints of pictures: codes of 64 bits for the whole picture and for its center crops.

`fingerprints` makes them of thumbnails; `lookalikes.py` compares them. A bit of a code is 1
where one of the 64 lowest frequencies of the cosine transform of a part of the picture is above a
small positive amount: JPEG, size, brightness and a crop that is off by 2 % hardly change that.
Invariant: the fingerprint of a picture depends only on its thumbnail and its shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Codes = np.ndarray[Any, np.dtype[np.uint64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Indices = np.ndarray[Any, np.dtype[np.int64]]

# Pixels per side of the thumbnail that codes are computed from, and of the kept one.
SIDE, KEPT = 32, 20
CELLS = 12
BITS = 64
# Gray levels. JPEG moves a frequency by 0.01 to 0.03; without this margin, the sign of frequencies
# that a picture lacks (a chessboard, for example) would be noise.
MARGIN = 0.05
# A thumbnail with less contrast, in gray levels, is not compared, nor is a smaller picture.
MIN_CONTRAST, MIN_PIXELS = 2.0, 17
# Of red, green and blue in a gray value.
LUMA = np.array([0.299, 0.587, 0.114])
# Shares of width and height; a crop in between is off by at most 1.7 %.
CROPS = tuple(1 - step / 30 for step in range(7))
Frame = Literal["whole", "square"]
# A picture as nearly square as this has no square crop of its own.
SQUARE = 0.97
_EDGES = np.linspace(0, 1, SIDE + 1)


class Window(NamedTuple):
    """A centered part of a picture: of all of it, or of its largest centered square."""

    frame: Frame
    share: float

    def __str__(self) -> str:
        """Text for listings, such as `90% crop`; empty for the whole picture."""
        size = "" if self.share == 1 else f"{self.share:.0%} "
        return f"{size}square crop" if self.frame == "square" else f"{size}crop" if size else ""


WINDOWS = tuple(Window(frame, share) for frame in ("whole", "square") for share in CROPS)


def _lowest() -> tuple[Indices, Indices]:
    """Vertical and horizontal frequencies of the bits, the lowest first, without the mean."""
    down, across = np.mgrid[:SIDE, :SIDE]
    order = np.lexsort((down.ravel(), (down**2 + across**2).ravel()))[1 : BITS + 1]
    return down.ravel()[order], across.ravel()[order]


DOWN, ACROSS = _lowest()
MIRROR = np.where(ACROSS % 2 == 1, -1.0, 1.0)
FREQUENCIES = int(max(DOWN.max(), ACROSS.max())) + 1


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of n pictures.

    codes: (n, 14), one of each of `WINDOWS`; mirrored: (n,) of the whole picture, mirrored;
    thumbnails: (n, 20, 20) gray values; shape: (n, 2) shares of height and width that the largest
    centered square has.
    """

    codes: Codes
    mirrored: Codes
    thumbnails: Bytes
    shape: np.ndarray[Any, np.dtype[np.float32]]

    @classmethod
    def empty(cls, count: int) -> Fingerprints:
        """Blank fingerprints for `count` pictures."""
        return cls(
            np.zeros((count, len(WINDOWS)), np.uint64),
            np.zeros(count, np.uint64),
            np.zeros((count, KEPT, KEPT), np.uint8),
            np.ones((count, 2), np.float32),
        )

    def __len__(self) -> int:
        return len(self.mirrored)

    def __getitem__(self, which: Indices | slice) -> Fingerprints:
        return Fingerprints(
            *(self.codes[which], self.mirrored[which]), *(self.thumbnails[which], self.shape[which])
        )

    def __setitem__(self, which: Indices | slice, other: Fingerprints) -> None:
        self.codes[which], self.mirrored[which] = other.codes, other.mirrored
        self.thumbnails[which], self.shape[which] = other.thumbnails, other.shape

    def indices_with(self, window: int, which: Indices) -> Indices:
        """Positions in `which` of pictures with this window; square ones have no square crop."""
        if WINDOWS[window].frame == "whole":
            return np.arange(len(which))
        return np.flatnonzero(self.shape[which].min(axis=1) < SQUARE)

    def view(self, which: Indices, window: int) -> Floats:
        """(n, 12, 12) gray values of a window of pictures, with zero mean and unit norm."""
        gray = resample(self.thumbnails[which], self.parts(which, window), CELLS)
        gray = gray - gray.mean(axis=(1, 2), keepdims=True)
        length = np.sqrt((gray**2).sum(axis=(1, 2), keepdims=True))
        return np.asarray(gray / np.maximum(length, 1e-6))

    def parts(self, which: Indices, window: int) -> Floats:
        """(n, 2) shares of height and width that a window has of pictures."""
        frame, share = WINDOWS[window]
        shape = np.ones_like(self.shape[which]) if frame == "whole" else self.shape[which]
        return np.asarray(share * shape.astype(np.float64))


def thumbnail(image: Image.Image) -> bytes:
    """32 x 32 x 3 colors of a decoded image, each the mean of its part of the picture.

    Empty if the picture is too small or has too little contrast to be compared.
    """
    from PIL import Image as Pillow

    if min(image.size) < MIN_PIXELS:
        return b""
    simple = image if image.mode in ("L", "RGB") else image.convert("RGB")
    small = np.asarray(simple.resize((SIDE, SIDE), Pillow.Resampling.BOX).convert("RGB"))
    return small.tobytes() if (small @ LUMA).std() >= MIN_CONTRAST else b""


def fingerprints(thumbnails: Bytes, sizes: np.ndarray[Any, Any]) -> Fingerprints:
    """Fingerprints of (n, 32, 32, 3) thumbnails of pictures of (n, 2) sizes: width and height."""
    sizes = np.asarray(sizes, dtype=np.float64).reshape(-1, 2)
    shape = sizes.min(axis=1, keepdims=True) / sizes[:, ::-1]
    gray = thumbnails @ LUMA
    whole = _spectrum(gray, np.ones_like(shape))
    spectra = np.concatenate([whole, _spectrum(gray, shape)], axis=1)
    fewer = _areas(np.ones(1), SIDE, KEPT)[0]
    small = (fewer @ gray @ fewer.T).round()
    return Fingerprints(
        *(_pack(spectra), _pack(whole[:, 0] * MIRROR)),
        *(small.astype(np.uint8), shape.astype(np.float32)),
    )


def _pack(spectrum: Floats) -> Codes:
    """Codes of (..., 64) frequencies."""
    bits = np.ascontiguousarray(np.packbits(spectrum > MARGIN, axis=-1))
    return bits.view(np.uint64)[..., 0]


def _spectrum(gray: Floats, shape: Floats) -> Floats:
    """(n, 7, 64) frequencies of (n, 32, 32) gray values, for each of `CROPS` of a part of each."""
    down = np.array([_waves(share) for share in shape[:, 0]]).reshape(-1, *_waves(1.0).shape)
    across = np.array([_waves(share) for share in shape[:, 1]]).reshape(down.shape)
    rows = down.reshape(len(gray), -1, SIDE) @ gray
    spectrum = rows.reshape(down.shape) @ across.swapaxes(-1, -2)
    return np.asarray(spectrum[..., DOWN, ACROSS])


@lru_cache(maxsize=1024)
def _waves(part: float) -> Floats:
    """(7, frequencies, 32): cosines over each of `CROPS` of a centered part of an axis.

    Each weight is the integral over one pixel of sqrt(2) cos(pi k t), where t goes from 0 to 1
    over the crop, so that a frequency is in gray levels at any size.
    """
    rows = []
    for share in CROPS:
        start = (1 - part * share) / 2
        spot = (np.clip(_EDGES, start, 1 - start) - start) / (part * share)
        waves = np.arange(1, FREQUENCIES)[:, None]
        integral = np.sqrt(2) * np.sin(np.pi * waves * spot) / (np.pi * waves)
        rows.append(np.diff(np.concatenate([spot[None], integral]), axis=1))
    return np.stack(rows)


def resample(pixels: np.ndarray[Any, Any], parts: Floats, cells: int) -> Floats:
    """(..., n, cells, cells) means over a grid on centered parts, (n, 2) shares, of n pictures."""
    down, across = (_areas(part, pixels.shape[-1], cells) for part in parts.T)
    return np.asarray(down @ pixels.astype(np.float64) @ across.swapaxes(1, 2))


def _areas(parts: Floats, pixels: int, cells: int) -> Floats:
    """(n, cells, pixels): share of each pixel in each cell of a centered part of an axis."""
    edges = np.linspace(0, 1, pixels + 1)
    places = (1 - parts[:, None]) / 2 + parts[:, None] * np.linspace(0, 1, cells + 1)
    first = np.maximum(places[:, :-1, None], edges[:-1])
    last = np.minimum(places[:, 1:, None], edges[1:])
    return np.asarray(np.clip(last - first, 0, None) * cells / parts[:, None, None])
