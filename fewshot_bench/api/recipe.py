"""Files to fetch for a data set: their sources, digests and places."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file from elsewhere, placed below a data root.

    urls: sources in the order in which they are tried; none when the file must be got by hand.
    place: relative path below the data root: of the file itself, or of the folder that an archive
        is unpacked into.
    provides: relative paths below the data root (files, or folders that are not empty); where all
        are there, nothing is fetched. Without any, `place` is looked at.
    alternatives: relative paths any one of which stands for all of `provides` (the same images in
        the layout of another tool).
    sha256, md5: what the downloaded file must have; empty when not known.
    size: bytes of the downloaded file; 0 when not known.
    unpack: whether the file is an archive (zip; tar, plain or with gzip, xz or bzip2) to be
        unpacked.
    strip: leading folder of member paths that is taken away; members outside of it are left out.
    inner: archives inside the archive (by member path) that are unpacked in turn, beside it.
    max_unpacked: bytes that the archive may unpack to at most; 0 for the general limit.
    split: whether this is the data set's split file, which `--split-file` can give.
    """

    name: str
    place: str
    urls: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    sha256: str = ""
    md5: str = ""
    size: int = 0
    unpack: bool = False
    strip: str = ""
    inner: tuple[str, ...] = ()
    max_unpacked: int = 0
    split: bool = False

    @property
    def digests(self) -> dict[str, str]:
        """Known digests by the name of their algorithm."""
        known = {"sha256": self.sha256, "md5": self.md5}
        return {name: digest.lower() for name, digest in known.items() if digest}


@dataclass(frozen=True, slots=True)
class Recipe:
    """All files of a data set.

    by_hand: exact steps for what no program may or can fetch (a license to accept, a dead source),
    one per line, ending with where each file goes. They are shown when a file is missing.
    """

    files: tuple[RemoteFile, ...] = ()
    by_hand: tuple[str, ...] = ()
