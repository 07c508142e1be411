"""Files to fetch for a data set: `Recipe`, with sources, digests and destinations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One remote file, placed below a data root.

    urls: sources in the order in which they are tried; empty if the file must be fetched by hand.
    place: path relative to the data root, of the file itself or of the folder that an archive is
        unpacked into.
    provides: paths relative to the data root (files, or folders that are not empty); if all exist,
        nothing is fetched. If empty, `place` is checked instead.
    alternatives: relative paths; any one of them replaces all of `provides` (the same images in
        the layout of another tool).
    sha256, md5: expected digests of the downloaded file; empty if unknown.
    size: bytes of the downloaded file; 0 if unknown.
    unpack: unpack the file, an archive (zip; tar, plain or with gzip, xz or bzip2).
    strip: leading folder that is removed from member paths; members outside of it are skipped.
    inner: archives inside the archive (by member path) that are unpacked in turn, beside it.
    max_unpacked: limit on the unpacked size in bytes; 0 for the general limit.
    split: the file is the data set's split file, which `--split-file` can supply.
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
        """Known digests by algorithm name."""
        known = {"sha256": self.sha256, "md5": self.md5}
        return {name: digest.lower() for name, digest in known.items() if digest}


@dataclass(frozen=True, slots=True)
class Recipe:
    """All files of a data set.

    by_hand: exact steps for files that no program may or can fetch (a license to accept, a dead
    source), one per line, ending with the destination of each file; shown if a file is missing.
    """

    files: tuple[RemoteFile, ...] = ()
    by_hand: tuple[str, ...] = ()
