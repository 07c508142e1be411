"""A second process of the kit, which restores classifiers of the toy task from files and predicts.

`logits_elsewhere` is the entry point; run as a module, this file is the second process. It is
started once, serves all checks, and shares no state with the process that fitted.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.keeping import class_named, name_of_class, packed, restore
from fewshot_bench.api.method import configuration
from fewshot_bench.testing.bench import Fit, Setting, prepare
from fewshot_bench.testing.failure import CheckFailure
from fewshot_bench.testing.toy_backbone import toy_backbone
from fewshot_bench.utils import determinism
from fewshot_bench.utils.errors import FsbenchError

ANSWER, MISSING = "answer", "missing"


class _Process:
    """The second process and its two pipes; one line of JSON each way per classifier."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fsbench-kit-")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        atexit.register(self.close)

    def ask(self, tensors: Mapping[str, Tensor], **request: Any) -> Tensor:
        """Logits of a request; CheckFailure with the problem of the second process.

        ModuleNotFoundError if the second process cannot import the class of the method.
        """
        file, answer = (Path(self._folder.name) / name for name in ("tensors", ANSWER))
        file.write_bytes(packed(tensors))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            line = json.dumps({**request, "tensors": str(file), ANSWER: str(answer)})
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            reply = self._process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            _process.cache_clear()
            raise CheckFailure("the process that restored the classifier ended")
        problem = json.loads(reply)["problem"]
        if problem == MISSING:
            raise ModuleNotFoundError(request["method"])
        if problem:
            raise CheckFailure(problem)
        logits: Tensor = load_file(answer)["logits"]
        return logits

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


@functools.cache
def _process() -> _Process:
    return _Process()


def logits_elsewhere(fit: Fit, method: Any) -> Tensor:
    """Logits (n, classes) of all queries from `tensors()` alone, restored in another process.

    A class that another process cannot import (of a notebook, or within a function) is restored in
    this one, on a new backbone. CheckFailure if the classifier cannot be restored.
    """
    tensors = fit.stored()
    device = str(fit.backbone.device)
    with suppress(ModuleNotFoundError):
        return _process().ask(
            tensors,
            method=name_of_class(method),
            options=configuration(method),
            classifier=name_of_class(fit.classifier),
            classes=fit.setting.classes,
            device=device,
        )
    try:
        return _restore(method, tensors, fit.setting.classes, device, type(fit.classifier))
    except FsbenchError as error:
        raise CheckFailure(str(error)) from None


def _restore(
    method: Any,
    tensors: Mapping[str, Tensor],
    classes: tuple[int, ...],
    device: str,
    kind: type | None,
) -> Tensor:
    fresh = prepare(Setting(classes=classes), toy_backbone(device))
    classifier = restore(method, tensors, fresh.task, fresh.backbone, kind)
    fresh.classifier = classifier
    logits: Tensor = fresh.predict().detach().cpu().contiguous()
    return logits


def _class(name: str) -> Any:
    """The class of a method by its name; None if this process cannot import it."""
    if name.startswith("__main__:"):
        return None
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return None


def serve() -> None:
    """Answer requests from stdin until it ends; output of plug-ins goes to stderr (discarded)."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    determinism.apply()
    for line in sys.stdin:
        request = json.loads(line)
        problem = ""
        try:
            kind = _class(request["method"])
            if kind is None:
                problem = MISSING
            else:
                tensors, classes = load_file(request["tensors"]), tuple(request["classes"])
                method = kind(**request["options"])
                classifier = class_named(request["classifier"], method)
                logits = _restore(method, tensors, classes, request["device"], classifier)
                save_file({"logits": logits}, request[ANSWER])
        except FsbenchError as error:
            problem = str(error)
        except Exception as error:
            problem = error_text(error, request["method"])
        answers.write(json.dumps({"problem": problem}) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
