"""The file beside a record: statistics of every query, and the kept part of the logits.

`choose_kept` resolves how much is kept (--keep-logits), `arrays_of` makes the arrays, `load` reads
them. Statistics are computed from logits in full precision: no number depends on what is kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fewshot_bench.api.metrics import Answers
from fewshot_bench.api.options import KEPT_LOGITS
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import StoreError, unknown
from fewshot_bench.utils.files import Damaged, open_regular, read_regular
from fewshot_bench.utils.processes import is_at_limit
from fewshot_bench.utils.text import LONGEST

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

# All logits as float16; the most probable classes only; the statistics only.
ALL, TOP, NONE = KEPT = KEPT_LOGITS
# Key of the choice in the environment of a record.
ASKED = "kept_logits"
# The options to suggest where all logits are needed but were not kept.
KEEP_ALL = f"--keep-logits {ALL} --force"
# Up to this many logits (16 MB), all are kept by default. Millions: SUN397 7.9, ImageNet 50.
MOST_LOGITS = 8_000_000
TOP_CLASSES = 5
# Bytes per query: its statistics and group, a name of usual length, each of its top classes, each
# logit. And bytes of everything else in the file.
_STATISTICS, _NAME, _TOP, _LOGIT, _FILE = 44, 64, 8, 2, 2_048


def choose_kept(asked: str, queries: int, classes: int) -> str:
    """One of `KEPT` for (queries, classes) logits; asked: one of them, empty for the default.

    UsageError for anything else.
    """
    if not asked:
        return ALL if queries * classes <= MOST_LOGITS else TOP
    if asked not in KEPT:
        raise unknown("value of --keep-logits", asked, KEPT, "fsbench run --help")
    return asked


def estimate_bytes(queries: int, classes: int, asked: str = "") -> int:
    """Upper bound of one cell's bytes on disk beside its record, unless names are very long."""
    kept = choose_kept(asked, queries, classes)
    row = _STATISTICS + _NAME
    row += _TOP * min(classes, TOP_CLASSES) if kept != NONE else 0
    row += _LOGIT * classes if kept == ALL else 0
    return _FILE + queries * row


# Names of the digests in a record: of all logits in full precision, and of the file.
WHOLE, FILE = "logits", "answers"
# Arrays that every file has, and those that depend on what is kept.
STATISTICS, CHOSEN = ("names", "classes", "statistics"), ("top", "high", "low")
# The array of a file whose queries were not answered alone.
GROUPS = "groups"
_LAYOUTS = ({*STATISTICS}, {*STATISTICS, "top"}, {*STATISTICS, *CHOSEN})
# Above this size, completeness checks read the archive's directory only.
FULL_CHECK_BYTES = 4 * 2**20
# The largest finite float16; a class this far below the highest logit has probability 0.
FARTHEST = 65_504.0
# The least high byte of float16 that is of no number from 0 up: infinity, NaN, or below 0.
_NO_GAP = 0x7C
# Relative rounding error of float16.
ROUNDING = 2.0**-11
# Rows are processed in parts of about this many values.
_PART = 2**20
# Compress an array if its first SAMPLE_BYTES shrink below this share.
SAMPLE_BYTES, WORTH_COMPRESSING = 2**16, 0.6
# Higher levels take up to ten times as long and save 3 % (measured on high bytes of logits).
LEVEL = 1


@dataclass(frozen=True)
class Stored:
    """The answers of a cell as they are stored.

    names: the JSON of the ids of the images. top: classes and probabilities, both (n, at most 5),
    the most probable first; None if they were not kept or not read.
    """

    names: bytes
    answers: Answers
    top: tuple[np.ndarray, np.ndarray] | None = None

    @cached_property
    def ids(self) -> list[str]:
        """The ids of the images."""
        ids: list[str] = json.loads(self.names)
        return ids


@lru_cache(maxsize=1)
def _types() -> Mapping[str, Any]:
    """The dtype of each array; `statistics` has one row per query."""
    import numpy as np

    indices = [(name, "<i4") for name in ("label", "prediction", "rank")]
    numbers = [(name, "<f8") for name in ("confidence", "surprise", "brier_score")]
    return {
        "names": np.dtype("u1"),
        "classes": np.dtype("<i4"),
        "statistics": np.dtype([*indices, ("maximum", "<f4"), *numbers]),
        "top": np.dtype([("class", "<i4"), ("probability", "<f4")]),
        "high": np.dtype("u1"),
        "low": np.dtype("u1"),
        GROUPS: np.dtype("<i4"),
    }


def arrays_of(answers: Answers, ids: Sequence[str], kept: str) -> dict[str, np.ndarray]:
    """Make the arrays to store from answers with all logits; kept: one of `KEPT`.

    StoreError if shapes of logits, labels and ids differ, or logits are not finite.
    """
    import numpy as np

    logits = answers.logits
    if logits.shape != (len(answers.labels), answers.classes) or len(ids) != len(logits):
        raise StoreError(
            f"logits of shape {logits.shape} with {len(answers.labels)} labels and {len(ids)} ids: "
            "expected one of each per query"
        )
    if not np.isfinite(answers.surprises).all():
        raise StoreError("logits are not finite, so that there are no statistics of them")
    maxima = logits.max(axis=1, initial=-np.inf)
    types = _types()
    rows = np.empty(len(logits), dtype=types["statistics"])
    columns = answers.labels, answers.predictions, answers.ranks, maxima
    numbers = answers.confidences, answers.surprises, answers.brier_scores
    for name, values in zip(rows.dtype.names or (), (*columns, *numbers), strict=True):
        rows[name] = values
    arrays = {
        "names": np.frombuffer(names_of(ids), dtype=np.uint8),
        "classes": np.array(answers.classes, dtype=types["classes"]),
        "statistics": rows,
    }
    if answers.groups is not None:
        arrays[GROUPS] = answers.groups.astype(types[GROUPS])
    if kept != NONE:
        classes, probabilities = _top(answers)
        arrays["top"] = np.empty(classes.shape, dtype=types["top"])
        arrays["top"]["class"], arrays["top"]["probability"] = classes, probabilities
    if kept == ALL:
        arrays["high"], arrays["low"] = _halve(logits, maxima)
    return arrays


def names_of(ids: Iterable[str]) -> bytes:
    """The ids of images as a JSON list in UTF-8."""
    return json.dumps(list(ids), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _parts(logits: np.ndarray) -> Iterator[slice]:
    step = max(1, _PART // max(1, logits.shape[1]))
    return (slice(start, start + step) for start in range(0, len(logits), step))


def _top(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Most probable classes and their probabilities; ties go to the lower class index."""
    import numpy as np

    logits = answers.logits
    count = min(TOP_CLASSES, answers.classes)
    classes = np.empty((len(logits), count), dtype=np.int32)
    probabilities = np.empty((len(logits), count), dtype=np.float32)
    for part in _parts(logits):
        left = logits[part].astype(np.float64)
        rows = np.arange(len(left))
        highest = left.max(axis=1)
        for column in range(count):
            best = left.argmax(axis=1)
            shares = np.exp(left[rows, best] - highest) * answers.confidences[part]
            classes[part, column], probabilities[part, column] = best, shares
            left[rows, best] = -np.inf
    return classes, probabilities


def _halve(logits: np.ndarray, maxima: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """High and low bytes of the float16 gaps between each row's highest logit and its logits.

    Softmax depends on the gaps alone, and float16 is finest for small ones, the probable classes: a
    log-probability is off by at most 2^-11 (gap + ln classes). High bytes stored separately
    compress to half in a tenth of the time that both together take.
    """
    import numpy as np

    high, low = np.empty((2, *logits.shape), dtype=np.uint8)
    with np.errstate(over="ignore"):
        for part in _parts(logits):
            gaps = np.minimum(maxima[part, np.newaxis] - logits[part], np.float32(FARTHEST))
            bits = gaps.astype(np.float16).view(np.uint16)
            high[part], low[part] = bits >> 8, bits & 255
    return high, low


def _join_halves(arrays: Arrays) -> np.ndarray:
    """Float32 logits from the two halves; the inverse of `_halve` up to rounding."""
    import numpy as np

    high, low = arrays["high"], arrays["low"]
    maxima = arrays["statistics"]["maximum"][:, np.newaxis]
    logits = np.empty(high.shape, dtype=np.float32)
    for part in _parts(high):
        bits = high[part].astype(np.uint16) << 8 | low[part]
        gaps = bits.view(np.float16).astype(np.float32)
        # Lower logits stay strictly lower, even if float32 is too coarse at the maximum.
        below = np.nextafter(maxima[part], np.float32(-np.inf))
        logits[part] = np.where(gaps > 0, np.minimum(maxima[part] - gaps, below), maxima[part])
    return logits


def whole_digest(answers: Answers, ids: Sequence[str]) -> str:
    """The SHA-256 of all logits in float32, labels, ids and groups: it identifies a result."""
    import numpy as np

    sha = hashlib.sha256()
    arrays: dict[str, np.ndarray] = {
        "logits": np.ascontiguousarray(answers.logits, dtype=np.float32),
        "labels": np.asarray(answers.labels, np.int64),
        "ids": np.asarray(ids, dtype=np.str_),
    }
    if answers.groups is not None:
        arrays[GROUPS] = answers.groups.astype(np.int32)
    for name, array in arrays.items():
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).data if array.size else b"")
    return sha.hexdigest()


def pack(arrays: Arrays) -> bytes:
    """The content of a file; equal arrays give equal bytes.

    As `np.savez_compressed`, but arrays that hardly compress (most floats) are only stored.
    """
    from numpy.lib import format as npy

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compresslevel=LEVEL) as archive:
        for name, array in arrays.items():
            sample = array.reshape(-1)[: SAMPLE_BYTES // max(array.itemsize, 1)].tobytes()
            smaller = len(zlib.compress(sample, 1)) < WORTH_COMPRESSING * len(sample)
            archive.compression = zipfile.ZIP_DEFLATED if smaller else zipfile.ZIP_STORED
            with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                npy.write_array(part, array, allow_pickle=False)
    return file.getvalue()


def check(path: Path, record: Record) -> None:
    """Raise Damaged unless a file opens as an archive and, if small, matches the record."""
    if path.stat().st_size > FULL_CHECK_BYTES:
        with _reading(path), open_regular(path) as file, zipfile.ZipFile(file) as archive:
            _list_arrays(archive)
    else:
        # What is wrong with the file says more than its digest.
        with suppress(OSError):
            if digest_of_file(path) == record.digests.get(FILE):
                return
        load(path, record, kept=True)


def digest_of_file(path: Path) -> str:
    """SHA-256 of an answers file; a file that matches the record's needs no other check."""
    return hashlib.sha256(read_regular(path, sys.maxsize)).hexdigest()


def load(path: Path, record: Record, *, kept: bool = False) -> Stored:
    """Load the answers beside a record, checking the file against the digest that it states.

    kept: also read the kept part of the logits, not the file's statistics alone. Raises
    FileNotFoundError, and Damaged for an unusable file.
    """
    arrays, digest = read(path, kept=kept)
    # Values are checked before they are written, so that a file as it was written is right.
    if digest != record.digests.get(FILE):
        raise Damaged("they are not those of the record: their digest is another one")
    return build_stored(arrays, record)


def read(path: Path, *, kept: bool = True) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a file, without those of CHOSEN unless `kept`, and the file's SHA-256.

    Damaged for wrong types or shapes, or FileNotFoundError.
    """
    with _reading(path):
        content = read_regular(path, sys.maxsize)
        return parse(content, kept=kept), hashlib.sha256(content).hexdigest()


def parse(content: bytes, most: int = sys.maxsize, *, kept: bool = True) -> dict[str, np.ndarray]:
    """The arrays of a file's content; errors of any type for what is none.

    most: bytes that they may have together; Damaged before any is read, if they have more.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(info.file_size for info in archive.infolist())
        if size > most:
            raise Damaged(f"its arrays have {size:,} bytes, expected at most {most:,}")
        names = [name for name in _list_arrays(archive) if kept or name not in CHOSEN]
        arrays = {name: _unpack(archive.read(f"{name}.npy")) for name in names}
    types, shape = _types(), arrays["statistics"].shape
    classes = int(arrays["classes"]) if arrays["classes"].shape == () else 0
    shapes = {
        **dict.fromkeys(("high", "low"), (*shape, classes)),
        "top": (*shape, min(TOP_CLASSES, classes)),
        "names": arrays["names"].shape[:1],
        "classes": (),
        "statistics": shape[:1],
        GROUPS: shape[:1],
    }
    if any(a.dtype != types[name] or a.shape != shapes[name] for name, a in arrays.items()):
        texts = ", ".join(f"{name} {a.dtype} {a.shape}" for name, a in arrays.items())
        raise Damaged(f"it holds arrays of other types or shapes than expected: {texts}")
    return arrays


def _list_arrays(archive: zipfile.ZipFile) -> list[str]:
    """The names of the arrays in an archive; Damaged if they are not those of a file."""
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    if {*names} - {GROUPS} not in _LAYOUTS:
        raise Damaged(f"it holds {sorted(names)!s:.{LONGEST}}")
    return names


def _unpack(content: bytes) -> np.ndarray:
    """The array of an `.npy` file; ValueError if its header does not match its number of bytes."""
    import numpy as np

    # Format 1 stores the header length in two bytes, later formats in four.
    wide = 2 if content[6:7] == b"\x01" else 4
    start = 8 + wide + int.from_bytes(content[8 : 8 + wide], "little")
    shape, by_column, dtype = _parse_header(content[:start])
    if dtype.hasobject or start + math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(
            f"an array says that it has {shape} values of {dtype}, and has another size"
        )
    array = np.frombuffer(content, np.uint8, offset=start)
    return array.view(dtype).reshape(shape, order="F" if by_column else "C")


@lru_cache(maxsize=64)
def _parse_header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Parse the header of an `.npy` file; cached, since files of a store share few headers."""
    from numpy.lib import format as npy

    file = io.BytesIO(content)
    read = npy.read_array_header_1_0
    if npy.read_magic(file) != (1, 0):
        read = npy.read_array_header_2_0
    return read(file)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn any failure to read an archive inside into Damaged; a missing file stays one.

    StoreError if this process may not read the file, or is at a limit of the machine: the file
    itself may be whole.
    """
    try:
        yield
    except (FileNotFoundError, Damaged):
        raise
    except PermissionError as error:
        raise StoreError(
            f"cannot read '{path}': {error.strerror}; check its permissions"
        ) from error
    except Exception as error:
        if isinstance(error, MemoryError) or is_at_limit(error):
            raise StoreError(
                f"cannot read '{path}': {error or 'not enough memory'}; run the same command again "
                "when less runs on this machine"
            ) from error
        # zipfile quotes the header of a member, which may be as long as the file.
        raise Damaged(f"{type(error).__name__}: {error!s:.{LONGEST}}") from None


def build_stored(arrays: Arrays, record: Record) -> Stored:
    """Build answers from valid arrays; `logits` from float16 arrays are rounded."""
    import numpy as np

    rows = arrays["statistics"]
    indices = (rows[name].astype(np.int64) for name in ("label", "prediction", "rank"))
    label, prediction, rank = indices
    logits = cache(partial(_join_halves, arrays)) if "high" in arrays else partial(_refuse, record)
    answers = Answers(
        label,
        int(arrays["classes"]),
        prediction,
        rank,
        confidences=rows["confidence"].copy(),
        surprises=rows["surprise"].copy(),
        brier_scores=rows["brier_score"].copy(),
        whole=logits,
        groups=arrays[GROUPS].copy() if GROUPS in arrays else None,
    )
    top = arrays.get("top")
    best = None if top is None else (top["class"].copy(), top["probability"].copy())
    return Stored(arrays["names"].tobytes(), answers, best)


def list_problems(arrays: Arrays, stored: Stored) -> Iterator[str]:
    """Describe values that no run writes."""
    count = len(stored.answers.labels)
    try:
        ids = stored.ids
        distinct = len({name for name in ids if isinstance(name, str)})
    except (ValueError, TypeError, RecursionError):
        ids, distinct = [], 0
    if not len(ids) == distinct == count > 0:
        yield f"it has {count} rows and {distinct} different ids"
    elif wrong := _count_impossible(arrays, stored):
        yield f"{wrong} of {count} rows contradict themselves or the logits"


def _count_impossible(arrays: Arrays, stored: Stored) -> int:
    """The rows that no logits give: classes or numbers that are none, or that contradict others."""
    import numpy as np

    answers, top, statistics = stored.answers, stored.top, arrays["statistics"]
    indices = np.stack([answers.labels, answers.predictions, answers.ranks - 1], axis=1)
    wrong: Any = ((indices < 0) | (indices >= answers.classes)).any(axis=1)
    names = ("maximum", "confidence", "surprise", "brier_score")
    wrong |= ~np.isfinite(np.stack([statistics[name] for name in names], axis=1)).all(axis=1)
    if "high" in arrays:
        wrong |= (arrays["high"] >= _NO_GAP).any(axis=1)
    if wrong.any():
        return int(wrong.sum())
    wrong |= (answers.ranks == 1) != answers.hits
    if answers.groups is not None:
        wrong |= answers.groups < 0
    wrong |= (answers.confidences <= 0) | (answers.confidences > 1)
    if top is not None:
        wrong |= top[0][:, 0] != answers.predictions
    if "high" in arrays:
        rows, logits = np.arange(len(wrong)), answers.logits
        wrong |= (arrays["high"] | arrays["low"])[rows, answers.predictions] > 0
        gaps = statistics["maximum"] - logits[rows, answers.labels]
        bound = ROUNDING * (np.abs(gaps) + np.log(answers.classes) + 1)
        off = np.abs(Answers.of(logits, answers.labels).surprises - answers.surprises) > bound
        near, cut = gaps < FARTHEST * (1 - ROUNDING), FARTHEST * (1 - 2 * ROUNDING)
        wrong |= np.where(near, off, answers.surprises < cut)
    return int(wrong.sum())


def largest_gap(mine: Answers, other: Answers) -> float:
    """The largest difference of log-probabilities of labels between answers to the same queries."""
    import numpy as np

    return float(np.abs(mine.surprises - other.surprises).max(initial=0.0))


def has_logits(record: Record) -> bool:
    """True if all logits of a record are kept."""
    return bool(record.environment.get(ASKED) == ALL)


def _refuse(record: Record) -> NoReturn:
    raise StoreError(
        f"the logits of {record.spec.describe()} were not kept (--keep-logits "
        f"{record.environment.get(ASKED)}); fsbench run ... {KEEP_ALL} computes the cell again and "
        "keeps them"
    )
