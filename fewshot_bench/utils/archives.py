"""Archives of arrays (`.npz`): compressed where worthwhile, read without pickle.

`write_archive` and `read_arrays` are the entry points. Arrays are read in parts into their final
buffer, so that a large array is held in memory only once.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

# Compress an array if its first SAMPLE_BYTES shrink below this share.
SAMPLE_BYTES, WORTH_COMPRESSING = 2**16, 0.6
# Higher levels take up to ten times as long and save 3 % (measured on high bytes of logits).
LEVEL = 1
_PART_BYTES = 2**22


def write_archive(file: IO[bytes], arrays: Arrays) -> None:
    """As `np.savez_compressed`, but stores arrays that hardly compress uncompressed, to save time.

    Equal arrays give equal bytes.
    """
    from numpy.lib import format as npy

    with zipfile.ZipFile(file, "w", compresslevel=LEVEL) as archive:
        for name, array in arrays.items():
            archive.compression = _compression(array)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                npy.write_array(part, array, allow_pickle=False)


def _compression(array: np.ndarray) -> int:
    """ZIP_DEFLATED if a sample compresses (counts, names), ZIP_STORED if not (most floats)."""
    sample = array.reshape(-1)[: SAMPLE_BYTES // max(array.itemsize, 1)].tobytes()
    smaller = len(zlib.compress(sample, 1)) < WORTH_COMPRESSING * len(sample)
    return zipfile.ZIP_DEFLATED if smaller else zipfile.ZIP_STORED


def names_in(archive: zipfile.ZipFile) -> list[str]:
    """The names of the arrays in an archive, in order."""
    return [name.removesuffix(".npy") for name in archive.namelist()]


def read_arrays(archive: zipfile.ZipFile, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The named arrays; an exception of any type if one of them is damaged."""
    return {name: _array(archive, f"{name}.npy") for name in names}


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Read one array; ValueError if its header does not match its number of bytes."""
    import numpy as np

    with archive.open(name) as part:
        head = part.read(12)
        # Format 1 stores the header length in two bytes, later formats in four.
        wide = 2 if head[6:7] == b"\x01" else 4
        start = 8 + wide + int.from_bytes(head[8 : 8 + wide], "little")
        if start > archive.getinfo(name).file_size:
            raise ValueError("the header of an array is cut off")
        shape, by_column, dtype = _header(head + part.read(start - len(head)))
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or start + size != archive.getinfo(name).file_size:
            raise ValueError(
                f"an array says that it has {shape} values of {dtype}, and has another size"
            )
        content = np.empty(size, dtype=np.uint8)
        view = content.data
        while view and (got := part.readinto(view[:_PART_BYTES])):  # type: ignore[attr-defined]
            view = view[got:]
        # Reading to the end makes zipfile verify the checksum.
        if view or part.read(1):
            raise ValueError("an array has fewer or more bytes than the archive says")
    return content.view(dtype).reshape(shape, order="F" if by_column else "C")


@lru_cache(maxsize=64)
def _header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Parse the header of an `.npy` file; cached, since files of a store share few headers."""
    from numpy.lib import format as npy

    file = io.BytesIO(content)
    read = npy.read_array_header_1_0
    if npy.read_magic(file) != (1, 0):
        read = npy.read_array_header_2_0
    return read(file)


def digest_of_arrays(arrays: Arrays) -> str:
    """SHA-256 over names, types, shapes and values, independent of compression."""
    import numpy as np

    sha = hashlib.sha256()
    for name, array in arrays.items():
        sha.update(f"{name} {_type(array.dtype)} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).data if array.size else b"")
    return sha.hexdigest()


@lru_cache(maxsize=64)
def _type(dtype: np.dtype[Any]) -> str:
    return str(dtype.descr) if dtype.names else dtype.str
