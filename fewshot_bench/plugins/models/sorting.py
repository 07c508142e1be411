"""Pictures by class: `Sorter` copies or links each one into the folder of its class.

Nothing is overwritten; a file with the name and bytes of a picture is taken for its copy, so that
the same command goes on where it was ended. Copies that are in another folder stay there.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
import shutil
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench.utils.errors import StoreError, UsageError
from fewshot_bench.utils.files import same_content, whole

if TYPE_CHECKING:
    from fewshot_bench.analysis.model import Prediction

REJECTED, UNREADABLE = "rejected", "unreadable"
ELSEWHERE = "in other folders already, where they stay"
# What some system allows in no name of a folder, and names of its devices.
_ODD = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]|^[. ]+|[. ]+$')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", re.IGNORECASE)


class Sorter:
    """Sorts pictures into `folder`; link: symbolic links in place of copies.

    images: arguments that name pictures; UsageError if sorted pictures could be among them.
    """

    def __init__(
        self, folder: Path, images: Sequence[str], classnames: Sequence[str], link: bool
    ) -> None:
        self.folder, self._link, self.counts = folder, link, Counter[str]()
        real = folder.resolve()
        for given in images:
            there = Path(given).resolve()
            nested = real.is_relative_to(there) or there.is_relative_to(real)
            if (nested and there.is_dir()) or fnmatch.fnmatchcase(str(real), str(there)):
                raise UsageError(
                    f"--sort-into {folder}: lies in '{given}' or holds it; choose a folder apart"
                )
        self._earlier: dict[str, list[Path]] = defaultdict(list)
        for path in folder.glob("*/*"):
            self._earlier[_origin(path)].append(path)
        # By folded path: the number that the next file or folder of this name gets.
        self._next = {_fold(folder / name): 2 for name in (REJECTED, UNREADABLE)}
        self._folders = {name: self._free(folder, _safe(name)) for name in classnames}

    def put(self, prediction: Prediction) -> None:
        """Put the file of an image into the folder of its class; StoreError if it cannot be."""
        folder, source = self.folder / UNREADABLE, prediction.image
        if prediction.rejected:
            folder = self.folder / REJECTED
        elif prediction.classes:
            folder = self._folders[prediction.classes[0]]
        elsewhere = (path for path in self._earlier[_origin(Path(source))] if path.parent != folder)
        if any(map(partial(same_content, Path(source)), elsewhere)):
            self.counts[ELSEWHERE] += 1
            return
        self.counts[folder.name] += 1
        if prediction.problem and not os.path.isfile(source):
            return
        try:
            path = self._free(folder, os.path.basename(source), Path(source))
            if os.path.lexists(path):
                return
            folder.mkdir(parents=True, exist_ok=True)
            with whole(path) as temporary:
                if self._link:
                    temporary.symlink_to(os.path.abspath(source))
                else:
                    shutil.copy2(source, temporary)
        except OSError as error:
            if not prediction.problem:
                raise StoreError(
                    f"--sort-into {self.folder}: '{source}' cannot be put there "
                    f"({error.strerror or error}); mend that, and give the same command again"
                ) from error

    def _free(self, folder: Path, name: str, source: Path | None = None) -> Path:
        """A path in a folder that is no other's, also where systems fold case and Unicode.

        source: of a file, for a path that is not taken or has its bytes.
        """
        stem, ending = os.path.splitext(name)
        named = _fold(folder / name)
        for number in itertools.count(self._next.get(named, 1)):
            path = folder / (f"{stem[:50]} ({number}){ending}" if number > 1 else name)
            other = source and os.path.lexists(path) and not same_content(source, path)
            if not other and (number == 1 or _fold(path) not in self._next):
                break
        self._next |= {_fold(path): 2, named: number + 1}
        return path


def _origin(path: Path) -> str:
    """The name of a picture that `_free` may have numbered, as far as that keeps it."""
    return re.sub(r" \(\d+\)$", "", path.stem[:50]) + path.suffix


def _fold(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _safe(name: str) -> str:
    """A name for a folder on any system: no path, not hidden, not too long."""
    plain = _ODD.sub("_", unicodedata.normalize("NFC", name)).encode()[:200]
    return _DEVICE.sub(r"\1_", _ODD.sub("_", plain.decode(errors="ignore"))) or "_"
