"""Near-duplicates: recall on changed copies, look-alike originals, and time for millions.

    python -m benchmarks.duplicates recall FOLDER... [--every N]
    python -m benchmarks.duplicates speed [--sizes 10000,100000,1280000] [--jobs 2]

`recall` reads all JPEG and PNG files below the folders and compares each with changed copies of it,
and all originals with each other: by the rule of `data verify`, and by that for groups of copies.
`speed` uses synthetic fingerprints: as in real ones, bits are nearly independent and equally often
0 and 1, and some pictures form clusters.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from fewshot_bench.api.items import Item
from fewshot_bench.images.copies import group_copies
from fewshot_bench.images.decode import see
from fewshot_bench.images.digests import Known
from fewshot_bench.images.fingerprints import (
    CROPS,
    SIDE,
    WINDOWS,
    Codes,
    Fingerprints,
    Indices,
    fingerprints,
    thumbnail,
)
from fewshot_bench.images.lookalikes import MAX_DISTANCE, MIN_CORRELATION, nearest

Picture = Image.Image
Change = Callable[[Picture], Picture]
BICUBIC = Image.Resampling.BICUBIC
# Share of test pictures, as in `verify` of ImageNet with a test pool of this size.
TEST_SHARE = 0.3
# Synthetic pictures: share in bursts, pictures per burst (a few bits differ), share of drawings
# (few bits set).
BURSTS, BURST, DRAWINGS = 0.1, 20, 0.005


def jpeg(image: Picture, quality: int = 75) -> Picture:
    """Compress the picture as JPEG and decode it again."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Picture, width: float, height: float) -> Picture:
    """Scale the width and the height of the picture by these factors."""
    return image.resize((round(image.width * width), round(image.height * height)), BICUBIC)


def cropped(image: Picture, share: float) -> Picture:
    """Crop the center of the picture, with this share of its width and of its height."""
    width, height = round(image.width * share), round(image.height * share)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def as_clip(image: Picture, size: int = 224) -> Picture:
    """The picture as CLIP sees it: its largest centered square."""
    return ImageOps.fit(image, (size, size), BICUBIC)


def _center_of(share: float) -> Change:
    return lambda image: cropped(image, share)


CHANGES: Mapping[str, Change] = {
    "JPEG quality 75": lambda image: image,
    "JPEG quality 30": lambda image: jpeg(image, 30),
    "half size": lambda image: resized(image, 0.5, 0.5),
    "1.7 times the size": lambda image: resized(image, 1.7, 1.7),
    "another aspect ratio (1.2 x 0.9)": lambda image: resized(image, 1.2, 0.9),
    "brightness 0.7": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "brightness 1.3 (clips white)": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast 1.3": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "gray": lambda image: image.convert("L"),
    "2/3 size, brightness 1.2, JPEG 50": lambda image: jpeg(
        ImageEnhance.Brightness(resized(image, 2 / 3, 2 / 3)).enhance(1.2), 50
    ),
    **{
        f"center crop of {100 * share:g}%": _center_of(share)
        for share in (0.98, 0.95, 0.92, 0.9, 0.875, 0.85, 0.82, 0.8, 0.75)
    },
    "centered square, 224 pixels": as_clip,
    "256 pixels, then center crop of 224": lambda image: cropped(as_clip(image, 256), 0.875),
    "mirrored": ImageOps.mirror,
    "mirrored, center crop of 90%": lambda image: cropped(ImageOps.mirror(image), 0.9),
    "center crop of 90%, 2/3 size, brightness 1.2": lambda image: ImageEnhance.Brightness(
        resized(cropped(image, 0.9), 2 / 3, 2 / 3)
    ).enhance(1.2),
}


def prints_of(images: Sequence[Picture]) -> tuple[Fingerprints, Indices]:
    """Fingerprints of pictures, and the indices of those that can be compared."""
    small = [thumbnail(image) for image in images]
    kept = np.array([index for index, gray in enumerate(small) if gray], int)
    prints = Fingerprints.empty(len(images))
    if len(kept):
        sizes = np.array([images[index].size for index in kept])
        colors = np.frombuffer(b"".join(small), np.uint8).reshape(-1, SIDE, SIDE, 3)
        prints[kept] = fingerprints(colors, sizes)
    return prints, kept


def joined(one: Fingerprints, two: Fingerprints) -> Fingerprints:
    """Concatenate two sets of fingerprints."""
    both = Fingerprints.empty(len(one) + len(two))
    both[: len(one)], both[len(one) :] = one, two
    return both


def recall(folders: Sequence[Path], every: int) -> None:
    """Print the share of changed copies that are found, and the originals that look alike."""
    suffixes = (".jpg", ".jpeg", ".png")
    found = (path for folder in folders for path in sorted(folder.rglob("*")))
    files = [path for path in found if path.suffix.lower() in suffixes][::every]
    images = [Image.open(path).convert("RGB") for path in files]
    originals, kept = prints_of(images)
    print(f"{len(images):,} pictures, {len(images) - len(kept):,} too small or too flat")
    for name, change in CHANGES.items():
        copies, compared = prints_of([jpeg(change(image)) for image in images])
        pairs = pairs_alike(joined(originals, copies), kept, compared + len(images))
        hits = sum(one + len(images) == two for one, two in pairs)
        groups = grouped([*images, *(jpeg(change(image)) for image in images)])
        share = (groups[: len(images)] == groups[len(images) :]).mean()
        print(f"{name:<48} {100 * hits / len(images):5.1f} %, {share:7.1%}", flush=True)
    found_alike = pairs_alike(originals, kept, kept)
    alike = sorted(pair for pair in found_alike if pair[0] < pair[1])
    total = len(kept) * (len(kept) - 1) // 2
    print(f"{len(alike):,} of {total:,} pairs look alike: {1e6 * len(alike) / total:.1f} a million")
    for one, two in alike:
        print(f"  {files[one]} ~ {files[two]}")
    print(f"{int((grouped(images) != np.arange(len(images))).sum())} are grouped with another one")


def grouped(images: Sequence[Picture]) -> Indices:
    """The group of copies that each picture is in."""
    facts: list[Known | str] = [
        Known(hashlib.sha256(image.tobytes()).digest(), True, False, see(image)) for image in images
    ]
    return group_copies([Item("", 0, "")] * len(images), facts).groups


def pairs_alike(prints: Fingerprints, base: Indices, queries: Indices) -> set[tuple[int, int]]:
    """All pairs that look alike by the definition, found by comparing every pair."""
    found = set()
    ways = itertools.product((False, True), range(len(WINDOWS)), (False, True))
    for base_cropped, place, mirrored in ways:
        cropped, whole = (base, queries) if base_cropped else (queries, base)
        cropped = cropped[prints.indices_with(place, cropped)]
        codes = prints.mirrored[whole] if mirrored else prints.codes[whole, 0]
        for part in np.array_split(cropped, 1 + len(cropped) // 500):
            differing = np.bitwise_count(prints.codes[part, place][:, None] ^ codes)
            one, two = np.nonzero(differing <= MAX_DISTANCE)
            views = prints.view(whole[two], 0)
            views = views[..., ::-1] if mirrored else views
            same = (prints.view(part[one], place) * views).sum(axis=(1, 2))
            pairs = np.stack([part[one], whole[two]], axis=1)[same >= MIN_CORRELATION]
            found |= {(a, b) if base_cropped else (b, a) for a, b in pairs.tolist()}
    return found


@dataclass(frozen=True)
class Row:
    """Cost of one search: numbers of all and of test pictures, seconds of CPU and of wall time.

    peak: peak memory of the process in bytes, libraries included. found: test pictures with a pair.
    """

    pictures: int
    tests: int
    cpu: float
    wall: float
    peak: int
    found: int


def made_up(count: int, seed: int) -> Fingerprints:
    """Synthetic fingerprints of `count` pictures; successive crops differ by a few bits."""
    rng = np.random.default_rng(seed)
    prints = Fingerprints.empty(count)

    def changed(codes: Codes, bits: int) -> Codes:
        codes = codes.copy()
        for _ in range(bits):
            codes ^= np.uint64(1) << rng.integers(0, 64, len(codes), dtype=np.uint64)
        return codes

    codes = rng.integers(0, 2**64, count, dtype=np.uint64)
    drawings = rng.random(count) < DRAWINGS
    for _ in range(2):
        codes[drawings] &= rng.integers(0, 2**64, int(drawings.sum()), dtype=np.uint64)
    burst = rng.random(count) < BURSTS
    shown = rng.integers(0, 1 + int(BURSTS * count) // BURST, int(burst.sum()))
    codes[burst] = changed(codes[shown], 3)
    for block in np.array_split(np.arange(count), 1 + count // 10_000):
        prints.thumbnails[block] = rng.integers(0, 256, (len(block), 20, 20), dtype=np.uint8)
    prints.thumbnails[burst] = prints.thumbnails[shown]
    for frame in range(0, len(WINDOWS), len(CROPS)):
        prints.codes[:, frame] = codes if not frame else changed(codes, 20)
        for place in range(frame + 1, frame + len(CROPS)):
            prints.codes[:, place] = changed(prints.codes[:, place - 1], 5)
    prints.mirrored[:] = rng.integers(0, 2**64, count, dtype=np.uint64)
    prints.shape[:, 1] = 0.75
    return prints


def measured(count: int, jobs: int, seed: int = 1) -> Row:
    """Search `count` synthetic pictures for look-alikes between the test pool and the others."""
    prints = made_up(count, seed)
    tests = int(TEST_SHARE * count)
    pools = np.arange(tests, count), np.arange(tests)
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    found = nearest(prints, *pools, jobs)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = time.perf_counter() - wall
    peak = 1024 * after.ru_maxrss
    return Row(count, tests, cpu, seconds, peak, int((found.index >= 0).sum()))


def main() -> None:
    """Run the chosen command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    copies = commands.add_parser("recall")
    copies.add_argument("folders", nargs="+", type=Path)
    copies.add_argument("--every", type=int, default=1, help="of the pictures (default: 1, all)")
    speed = commands.add_parser("speed")
    speed.add_argument("--sizes", default="10000,100000,1280000")
    speed.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.command == "recall":
        recall(arguments.folders, arguments.every)
        return
    for size in arguments.sizes.split(","):
        row = measured(int(size), arguments.jobs)
        print(
            f"{row.tests:,} x {row.pictures - row.tests:,}: {row.cpu:,.0f} s of CPU time, "
            f"{row.wall:,.0f} s, {row.peak / 1e6:,.0f} MB, {row.found:,} look alike",
            flush=True,
        )


if __name__ == "__main__":
    main()
