"""Worker-side client of the examiner in the label process, over socket pairs.

`RemoteExaminer` is the entry point. No reply holds a label, an id or a path of a query.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import queue
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.images.decode import EncodedFiles, numbered
from fewshot_bench.runner.examination import CellLists, ImageList, LabelSpace, Outcome
from fewshot_bench.utils import errors
from fewshot_bench.utils.errors import FsbenchError, StoreError
from fewshot_bench.utils.messages import Channel, Closed

if TYPE_CHECKING:
    import numpy as np

SHA = 32


class RemoteExaminer:
    """Forwards requests to the label process; implements `examination.Examination`."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._earlier: dict[str, list[Mapping[str, str]]] = {}
        self._process = os.getpid()
        self._free: queue.LifoQueue[Channel] = queue.LifoQueue()
        self._channels = len(channels)
        for channel in channels:
            self._free.put(channel)

    def begin(self, number: int, earlier: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
        """Begin the cells that the engine announced to the label process under this number.

        earlier: incidents of their tries in other processes, by key.
        """
        self.ask("begin", number=number)
        self._earlier = {key: list(incidents) for key, incidents in earlier.items()}

    @property
    def is_asking(self) -> bool:
        """True while a request waits for its reply."""
        return self._free.qsize() < self._channels

    def ask(
        self, operation: str, body: bytes | memoryview = b"", **values: Any
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request and return header and body of the reply; re-raises the server's errors."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "images can be read in the process of the worker only, not in a fork"
            )
        channel = self._free.get()
        try:
            channel.send({"operation": operation, **values}, body)
            header, answer = channel.receive()
        except TypeError as error:
            raise StoreError(f"a record is not JSON: {error}") from error
        except (OSError, Closed):
            # The label process has ended: nothing can be stored. The engine restarts both.
            os._exit(1)
        finally:
            self._free.put(channel)
        if "error" in header:
            raise _as_error(header["error"])
        return header, answer

    def cell(self, spec: RunSpec) -> CellLists:
        """The label spaces and image lists of a cell."""
        header, _ = self.ask("cell", spec=spec.to_dict())
        train, val, queries = (_images(header[name]) for name in ("train", "val", "queries"))
        fitted, evaluated = (_label_space(header[name]) for name in ("fitted", "evaluated"))
        return CellLists(fitted, evaluated, train, val, queries, header["picks"])

    def files(self, images: ImageList) -> EncodedFiles:
        """The encoded files of an image list."""
        return _RemoteFiles(images, self)

    def settle(self, record: Record, answers: np.ndarray | None) -> Outcome:
        """Submit a cell to the label process, which computes its metrics and stores it.

        The returned outcome has no metrics. Incidents noted earlier precede those of the record.
        A failure of the machine is left to the engine, which keeps an earlier result.
        """
        earlier = self._earlier.get(record.spec.key(), ())
        record = dataclasses.replace(record, incidents=(*earlier, *record.incidents))
        if record.transient:
            return Outcome(record)
        shape = None if answers is None else answers.shape
        body = b"" if answers is None else answers.data.cast("B")
        self.ask("settle", body, record=record.to_dict(), shape=shape)
        return Outcome(record)


class _RemoteFiles(EncodedFiles):
    """Image files of which this process gets only bytes and digests, no ids or paths."""

    def __init__(self, images: ImageList, examiner: RemoteExaminer) -> None:
        self.name, self.stamped = images.dataset, images.stamped
        self._handle = images.handle
        self._examiner = examiner

    @functools.cached_property
    def digests(self) -> tuple[bytes, ...]:
        """The SHA-256 of every file; one that is known by its stamp is not read."""
        header, body = self._examiner.ask("digests", handle=self._handle)
        self.problem = header["problem"]
        return tuple(body[start : start + SHA] for start in range(0, len(body), SHA))

    def read(self, index: int) -> bytes:
        """The encoded file."""
        return self._examiner.ask("read", handle=self._handle, index=index)[1]

    def title(self, index: int) -> str:
        """A placeholder with the image's number, which the label process replaces by its id."""
        return numbered(self._handle, index)


def _label_space(values: Mapping[str, Any]) -> LabelSpace:
    return LabelSpace(**{name: tuple(value) for name, value in values.items()})


def _images(values: Mapping[str, Any]) -> ImageList:
    return ImageList(**{**values, "labels": tuple(values["labels"])})


def _as_error(values: Mapping[str, str]) -> Exception:
    kind = getattr(errors, values["type"], None)
    if isinstance(kind, type) and issubclass(kind, FsbenchError):
        return kind(values["message"])
    return RuntimeError(f"{values['type']}: {values['message']}")
