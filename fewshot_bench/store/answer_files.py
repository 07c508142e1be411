"""The file beside a record: statistics of every query, and the kept part of the logits.

`chosen` resolves how much is kept (--keep-logits), `arrays_of` makes the arrays, `load` reads them.
Statistics are always computed from logits in full precision, so that no number depends on what is
kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fewshot_bench.api.metrics import Answers
from fewshot_bench.api.options import KEPT_LOGITS
from fewshot_bench.api.record import Record
from fewshot_bench.utils.archives import digest_of_arrays, names_in, read_arrays
from fewshot_bench.utils.errors import StoreError, unknown
from fewshot_bench.utils.files import Damaged, open_regular
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
# Bytes per query: its statistics, a name of usual length, each of its top classes, each logit.
# And bytes of everything else in the file.
_STATISTICS, _NAME, _TOP, _LOGIT, _FILE = 40, 64, 8, 2, 2_048
# A file up to this size is read as a whole.
_SMALL = 2**20


def chosen(asked: str, queries: int, classes: int) -> str:
    """One of `KEPT` for (queries, classes) logits; asked: one of them, empty for the default."""
    if asked:
        return checked(asked)
    return ALL if queries * classes <= MOST_LOGITS else TOP


def checked(asked: str) -> str:
    """One of `KEPT`, or empty for the default; UsageError for anything else."""
    if asked and asked not in KEPT:
        raise unknown("value of --keep-logits", asked, KEPT, "fsbench run --help")
    return asked


def kept_bytes(queries: int, classes: int, asked: str = "") -> int:
    """Upper bound of one cell's bytes on disk beside its record, unless names are very long."""
    kept = chosen(asked, queries, classes)
    row = _STATISTICS + _NAME
    row += _TOP * min(classes, TOP_CLASSES) if kept != NONE else 0
    row += _LOGIT * classes if kept == ALL else 0
    return _FILE + queries * row


OTHER = "they are not those of the record: their digest is another one"
# Names of the digests in a record: of all logits in full precision, and of the file.
WHOLE, FILE = "logits", "answers"
# Arrays that every file has, and those that depend on what is kept.
STATISTICS, CHOSEN = ("names", "classes", "statistics"), ("top", "high", "low")
_LAYOUTS = ({*STATISTICS}, {*STATISTICS, "top"}, {*STATISTICS, *CHOSEN})
# Above this size, completeness checks read the archive's directory only.
FULL_CHECK_BYTES = 4 * 2**20
# The largest finite float16; a class this far below the highest logit has probability 0.
FARTHEST = 65_504.0
# Relative rounding error of float16.
ROUNDING = 2.0**-11
# Rows are processed in parts of about this many values.
_PART = 2**20


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
        found: list[str] = json.loads(self.names)
        return found


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
    found = {
        "names": np.frombuffer(names_of(ids), dtype=np.uint8),
        "classes": np.array(answers.classes, dtype=types["classes"]),
        "statistics": rows,
    }
    if kept != NONE:
        classes, probabilities = _top(answers)
        found["top"] = np.empty(classes.shape, dtype=types["top"])
        found["top"]["class"], found["top"]["probability"] = classes, probabilities
    if kept == ALL:
        found["high"], found["low"] = _halve(logits, maxima)
    return found


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
    found = np.empty((len(logits), count), dtype=np.float32)
    for part in _parts(logits):
        left = logits[part].astype(np.float64)
        rows = np.arange(len(left))
        highest = left.max(axis=1)
        for place in range(count):
            chosen = left.argmax(axis=1)
            shares = np.exp(left[rows, chosen] - highest) * answers.confidences[part]
            classes[part, place], found[part, place] = chosen, shares
            left[rows, chosen] = -np.inf
    return classes, found


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
    """The SHA-256 of all logits in float32, labels and ids, which identifies a result."""
    import numpy as np

    logits = np.ascontiguousarray(answers.logits, dtype=np.float32)
    labels, names = np.asarray(answers.labels, np.int64), np.asarray(ids, dtype=np.str_)
    return digest_of_arrays({"logits": logits, "labels": labels, "ids": names})


def digest_of_file(path: Path) -> str:
    """SHA-256 of an answers file; a file that matches the record's needs no other check."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, record: Record) -> None:
    """Raise Damaged unless a file opens as an archive and, if small, matches the record."""
    small = path.stat().st_size <= FULL_CHECK_BYTES
    if small:
        with suppress(OSError):
            if digest_of_file(path) == record.digests.get(FILE):
                return
        # What is wrong with the file says more than its digest.
        _read(path, kept=True)
        raise Damaged(OTHER)
    with _open(path, digests=False):
        pass


def load(path: Path, record: Record, *, kept: bool = False) -> Stored:
    """Load the answers beside a record, checking the file against the digest that it states.

    kept: also read the kept part of the logits, not the file's statistics alone. Raises
    FileNotFoundError, and Damaged for an unusable file.
    """
    arrays, digest = _read(path, kept=kept)
    # Values are checked before they are written, so that a file as it was written is right.
    if digest != record.digests.get(FILE):
        raise Damaged(OTHER)
    return stored_of(arrays, record)


def read(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file; Damaged for wrong types or shapes, or FileNotFoundError."""
    return _read(path, kept=True)[0]


def _read(path: Path, *, kept: bool) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a file, without those of CHOSEN unless `kept`, and the file's SHA-256."""
    with _open(path) as (archive, digest):
        left_out = () if kept else CHOSEN
        arrays = read_arrays(archive, [n for n in names_in(archive) if n not in left_out])
    if not _is_right(arrays):
        kinds = {name: (array.dtype, array.shape) for name, array in arrays.items()}
        texts = ", ".join(f"{name} {dtype} {shape}" for name, (dtype, shape) in kinds.items())
        raise Damaged(f"it holds arrays of other types or shapes than expected: {texts}")
    return arrays, digest


@contextmanager
def _open(path: Path, *, digests: bool = True) -> Iterator[tuple[zipfile.ZipFile, str]]:
    """Open an archive; also gives the SHA-256 of the file, empty without `digests`.

    Damaged if opening the archive, or reading from it within the block, fails.

    StoreError if this process may not read the file, or is at a limit of the machine: the file
    itself may be whole.
    """
    try:
        with open_regular(path) as file:
            source: io.BufferedReader | io.BytesIO = file
            if os.fstat(file.fileno()).st_size <= _SMALL:
                # Read in one call instead of dozens.
                source = io.BytesIO(file.read())
            digest = hashlib.file_digest(source, "sha256").hexdigest() if digests else ""
            with zipfile.ZipFile(source) as archive:
                names = set(names_in(archive))
                if names not in _LAYOUTS:
                    raise Damaged(f"it holds {sorted(names)!s:.{LONGEST}}")
                yield archive, digest
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


def _is_right(arrays: Arrays) -> bool:
    types, rows = _types(), arrays["statistics"].shape
    classes = int(arrays["classes"]) if arrays["classes"].shape == () else 0
    shapes = {
        **dict.fromkeys(("high", "low"), (*rows, classes)),
        "top": (*rows, min(TOP_CLASSES, classes)),
        "names": arrays["names"].shape[:1],
        "classes": (),
        "statistics": rows[:1],
    }
    return all(a.dtype == types[name] and a.shape == shapes[name] for name, a in arrays.items())


def value_problems(arrays: Arrays) -> Iterator[str]:
    """Describe invalid values: empty or not finite, class indices out of range, missing ids."""
    import numpy as np

    rows, classes = arrays["statistics"], int(arrays["classes"])
    indices = {"labels": rows["label"], "predictions": rows["prediction"]}
    indices |= {"ranks less 1": rows["rank"] - 1}
    names = ("maximum", "confidence", "surprise", "brier_score")
    numbers = np.stack([rows[name] for name in names], axis=1)
    if _count(arrays["names"].tobytes()) != len(rows):
        yield f"it has {len(rows)} rows and another number of ids"
    if 0 in numbers.shape:
        yield f"statistics of shape {numbers.shape} are empty"
        return
    finite = np.isfinite(numbers)
    if not finite.all():
        bad = int((~finite).any(axis=1).sum())
        yield f"{bad} of {len(numbers)} rows of statistics are not finite"
    for name, found in indices.items():
        if found.min() < 0 or found.max() >= classes:
            outside = int(((found < 0) | (found >= classes)).sum())
            yield f"{outside} {name} are outside of 0 to {classes - 1}"


@lru_cache(maxsize=16)
def _count(names: bytes) -> int:
    """The number of ids in a JSON list of texts; 0 for anything else.

    Cached, since most cells of a data set have the same query images.
    """
    try:
        found = json.loads(names)
    except (ValueError, RecursionError):
        return 0
    return len(found) if isinstance(found, list) and set(map(type, found)) <= {str} else 0


def stored_of(arrays: Arrays, record: Record) -> Stored:
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
    )
    top = arrays.get("top")
    best = None if top is None else (top["class"].copy(), top["probability"].copy())
    return Stored(arrays["names"].tobytes(), answers, best)


def contradictions(arrays: Arrays, stored: Stored) -> Iterator[str]:
    """Report rows whose statistics contradict each other, or the logits beside them."""
    import numpy as np

    answers, top = stored.answers, stored.top
    rows = np.arange(len(answers.labels))
    wrong = (answers.ranks == 1) != answers.hits
    wrong |= ~((answers.confidences > 0) & (answers.confidences <= 1))
    if top is not None:
        wrong |= top[0][:, 0] != answers.predictions
    if "high" in arrays:
        halves = arrays["high"], arrays["low"]
        wrong |= (halves[0][rows, answers.predictions] | halves[1][rows, answers.predictions]) > 0
        rounded = Answers.of(answers.logits, answers.labels)
        gaps = arrays["statistics"]["maximum"] - answers.logits[rows, answers.labels]
        bound = ROUNDING * (np.abs(gaps) + np.log(answers.classes) + 1)
        off = np.abs(rounded.surprises - answers.surprises) > bound
        wrong |= off & (gaps < FARTHEST)
    if wrong.any():
        yield f"{int(wrong.sum())} of {len(rows)} rows contradict themselves or the logits"


def largest_gap(one: Answers, other: Answers) -> float:
    """The largest difference of log-probabilities of labels between answers to the same queries."""
    import numpy as np

    return float(np.abs(one.surprises - other.surprises).max(initial=0.0))


def has_logits(record: Record) -> bool:
    """True if all logits of a record are kept."""
    return bool(record.environment.get(ASKED) == ALL)


def _refuse(record: Record) -> NoReturn:
    raise StoreError(
        f"the logits of {record.spec.describe()} were not kept (--keep-logits "
        f"{record.environment.get(ASKED)}); fsbench run ... {KEEP_ALL} computes the cell again and "
        "keeps them"
    )
