"""Images named on a command line: files, folders, patterns, standard input.

`iterate_images` yields paths lazily; at most the matches of one pattern are held in memory.
"""

from __future__ import annotations

import glob
import os
import select
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import IO

from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.image_formats import image_endings, pictures_below

STDIN = "-"
READ = 2**16
"""Bytes read from standard input at once, at most."""


def list_images(arguments: Sequence[str]) -> Iterator[str]:
    """As `iterate_images`, with the images of folders in place of these."""
    for path in filter(None, iterate_images(arguments)):
        yield from pictures_below(path) if os.path.isdir(path) else (path,)


def iterate_images(arguments: Sequence[str]) -> Iterator[str | None]:
    """Paths of images and of folders of them; None where standard input has no further line yet.

    UsageError where nothing is named, or a folder or pattern has none.
    """
    if not arguments:
        raise UsageError("no image is named; expected files, folders, 'patterns/*.jpg' or -")
    for argument in arguments:
        if _is_pattern(argument) and next(_match(argument), None) is None:
            raise UsageError(f"'{argument}' matches no file; check the pattern")
        if os.path.isdir(argument) and next(pictures_below(argument), None) is None:
            raise UsageError(f"'{argument}' holds no image ({', '.join(image_endings())})")
    return (path for argument in arguments for path in _of(argument))


def _of(argument: str) -> Iterator[str | None]:
    if argument == STDIN:
        for line in _lines(sys.stdin.buffer):
            if line is None:
                yield None
            elif path := os.fsdecode(line.rstrip(b"\r\n")):
                yield path
    else:
        yield from sorted(_match(argument)) if _is_pattern(argument) else (argument,)


def _lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    """Lines of a stream; None before each read that would wait for its writer."""
    read = getattr(stream, "read1", stream.read)
    rest = b""
    while True:
        if not _is_ready(stream):
            yield None
        content = read(READ)
        if not content:
            break
        *lines, rest = (rest + content).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _is_ready(stream: IO[bytes]) -> bool:
    """True if a read returns at once, and where this cannot be found out."""
    try:
        return bool(select.select([stream], [], [], 0)[0])
    except (OSError, ValueError):
        return True


_match = partial(glob.iglob, recursive=True)


def _is_pattern(argument: str) -> bool:
    return glob.has_magic(argument) and not os.path.lexists(argument)
