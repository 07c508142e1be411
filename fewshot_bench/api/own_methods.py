"""Methods of files and sessions: a name, and a version that contains the digest of their code.

`of_file` makes an `OwnMethod` of a file as it is now, `read_kept` of a folder `methods/DIGEST/` of
a store, which holds its code (`store/kept_methods.py`). A process knows one method by each name:
`adopt` makes it known, and the registry finds it. Of its code, nothing is run here.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fewshot_bench.api.code_closure import SUFFIXES, list_data, with_beside
from fewshot_bench.api.method_code import canonical, name_files_after, name_of, parts
from fewshot_bench.utils.errors import PluginError, StoreError
from fewshot_bench.utils.files import Damaged, read_regular
from fewshot_bench.utils.text import size_text

# Facts on the code of a folder.
FACTS = "method.json"
# Hex digits of a digest in a version, and in the name of a folder.
SHORT, LONG = 8, 16
_VERSION = re.compile(rf"(?P<stated>.+)\+(?P<digest>[0-9a-f]{{{SHORT}}})")
# Most bytes of the code of a method, with the files that it names.
LARGEST = 64 * 2**20


class Facts(msgspec.Struct, frozen=True):
    """The content of `method.json`.

    kind: name of the class, in `file`. files: SHA-256 of each file of the folder. path: the folder
    of the author's files on the machine that wrote it, if they are in one. run: when a run last
    asked for it, in seconds since 1970.
    """

    name: str
    version: str
    digest: str
    file: str
    kind: str
    files: Mapping[str, str]
    path: str = ""
    run: float = 0.0


@dataclass(frozen=True)
class OwnMethod:
    """A method that no plug-in registers. reference: where its code is imported from.

    files: the content of its files by relative path; empty if they lie in a store.
    """

    facts: Facts
    reference: str
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """As in `RunSpec.method`."""
        return self.facts.name

    @property
    def version(self) -> str:
        """As in `RunSpec.method_version`."""
        return self.facts.version

    @property
    def origin(self) -> str:
        """Its file and its class, without a folder: `trans.py:Trans`."""
        return f"{self.facts.file}:{self.facts.kind}"


def digest_in(version: str) -> str:
    """The start of the digest that a version contains; empty for that of a plug-in's method."""
    match = _VERSION.fullmatch(version)
    return match["digest"] if match else ""


def stated_in(version: str) -> str:
    """The version that the class states, without a digest."""
    match = _VERSION.fullmatch(version)
    return match["stated"] if match else version


def is_version(asked: str, version: str) -> bool:
    """True if a version of a method of a file is asked for: by its start, or that of its digest."""
    digest = digest_in(version)
    return bool(digest) and (version if "+" in asked else digest).startswith(asked)


def read_files(file: Path) -> dict[str, bytes]:
    """The code of a file: its modules and packages beside it, and files there that they name.

    PluginError for what is too large.
    """
    paths = {**with_beside(file), **list_data(file)}
    files = {}
    room = LARGEST
    for name, path in paths.items():
        room -= os.path.getsize(path)
        if room < 0:
            raise PluginError(
                f"'{file}' and the files that it names have more than {size_text(LARGEST)}: give "
                "a large file as a hyper-parameter of type Path"
            )
        files[name] = Path(path).read_bytes()
    return files


def list_searching(files: Mapping[str, bytes]) -> list[str]:
    """Modules that look for files beside them by `__file__`, of which they name none."""
    data = {os.path.dirname(name) for name in files if not name.endswith(SUFFIXES)}
    return [
        name
        for name, content in files.items()
        if name.endswith(".py") and b"__file__" in content and b"sys.path" not in content
        if not any(Path(folder).is_relative_to(os.path.dirname(name)) for folder in data)
    ]


def of_file(kind: type, reference: str, files: Mapping[str, bytes], digest: str) -> OwnMethod:
    """The method of a class of a file. digest: of its code and of the files that it names."""
    file, cls = parts(reference) or ("", "")
    return own_method(kind, Path(file).name, cls, files, digest, os.path.dirname(file), reference)


def own_method(
    kind: type,
    file: str,
    cls: str,
    files: Mapping[str, bytes],
    digest: str,
    path: str,
    reference: str,
) -> OwnMethod:
    """A method with these files; arguments as in `Facts` and `OwnMethod`."""
    digests = {name: digest_of(content) for name, content in files.items()}
    version = f"{getattr(kind, 'version', '1')}+{digest[:SHORT]}"
    return OwnMethod(
        Facts(name_of(kind), version, digest, file, cls, digests, path), reference, files
    )


def digest_of(content: bytes) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(content).hexdigest()


def read_facts(folder: Path) -> Facts | None:
    """The facts of a folder; None if it holds no method. StoreError if they cannot be read."""
    path = folder / FACTS
    try:
        facts = msgspec.json.decode(read_regular(path), type=Facts)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError, Damaged) as error:
        raise StoreError(f"'{path}' cannot be read: {error}") from None
    inside = [facts.file, *facts.files]
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in inside):
        raise StoreError(f"'{path}' names files outside of its folder")
    return facts


def find_problem(folder: Path, facts: Facts) -> str:
    """The reason why a folder is not what its facts say; empty if it is."""
    if folder.name != facts.digest[:LONG] or digest_in(facts.version) != facts.digest[:SHORT]:
        return "it has not the name of its digest"
    for name, digest in facts.files.items():
        try:
            if digest_of(read_regular(folder / name)) != digest:
                return f"{name} is not the file that was written"
        except (OSError, Damaged):
            return f"{name} cannot be read"
    return "" if facts.file in facts.files else f"{facts.file} is not there"


def read_kept(reference: str) -> OwnMethod | None:
    """The method of a reference into a folder of a store; None for any other file.

    A folder whose files were edited is an ordinary one.
    """
    file, kind = parts(canonical(reference)) or ("", "")
    folder = Path(file).parent
    facts = read_facts(folder)
    if facts is None or (facts.file, facts.kind) != (Path(file).name, kind):
        return None
    return None if find_problem(folder, facts) else in_folder(folder, facts)


def in_folder(folder: Path, facts: Facts) -> OwnMethod:
    """The method of a folder of a store, which is imported from there."""
    name_files_after(folder, facts.path)
    return OwnMethod(facts, canonical(f"{folder / facts.file}:{facts.kind}"))


# The methods that this process knows, by name.
_KNOWN: dict[str, OwnMethod] = {}


def adopt(method: OwnMethod) -> None:
    """Make a method known in this process; another one of its name is forgotten."""
    _KNOWN[method.name] = method


def forget() -> None:
    """Forget all known methods."""
    _KNOWN.clear()


def find(name: str) -> OwnMethod | None:
    """The method that this process knows by a name."""
    return _KNOWN.get(name)


def version_in(name: str, kind: type) -> str:
    """The version of cells of a class that runs under a name."""
    own = find(name)
    return own.version if own else str(getattr(kind, "version", "1"))


def newest_runs(every: Iterable[Facts]) -> dict[tuple[str, str], float]:
    """When each (name, version) was last asked for."""
    runs: dict[tuple[str, str], float] = {}
    for facts in every:
        key = facts.name, facts.version
        runs[key] = max(runs.get(key, 0.0), facts.run)
    return runs
