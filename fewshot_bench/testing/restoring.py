"""A second process of the kit, which restores classifiers of the toy task and predicts.

`logits_elsewhere` is the entry point; `main` is the second process. It is started once for a kind
of device, serves all checks, and gets nothing of a fit but the tensors.
"""

from __future__ import annotations

import functools
import os
import pkgutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.code_closure import running_digest
from fewshot_bench.api.keeping import class_named, name_of_class, packed, restore
from fewshot_bench.api.method import configuration
from fewshot_bench.api.method_code import FILE_MODULE
from fewshot_bench.testing.bench import Fit, Setting, prepare
from fewshot_bench.testing.failure import CheckFailure
from fewshot_bench.testing.toy import toy_backbone
from fewshot_bench.utils import determinism
from fewshot_bench.utils.devices import choose
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.messages import Channel, Closed
from fewshot_bench.utils.start import start

MISSING = "missing"


@functools.cache
def _second_process(kind: str) -> Channel:
    """The channel to the second process for a kind of device, which ends with it.

    One that was started before a kind registered itself does not know it, and one that was started
    before a class was written or edited does not know that class.
    """
    channel, theirs = Channel.pair()
    with open(os.devnull, "wb") as nowhere:
        errors = nowhere.fileno()
        start(__name__, (), dict(os.environ), [theirs], errors=errors, path=sys.path)
    return channel


def _ask(tensors: Mapping[str, Tensor], **request: Any) -> Tensor:
    """Logits of a request; CheckFailure with the problem of the second process.

    ModuleNotFoundError if a new second process cannot import the method's class in this state.
    """
    for _ in range(2):
        channel = _second_process(request["device"].partition(":")[0])
        try:
            channel.send(request, packed(tensors))
            reply, answer = channel.receive()
        except (Closed, OSError):
            _second_process.cache_clear()
            raise CheckFailure("the process that restored the classifier ended") from None
        if not reply["problem"]:
            logits: Tensor = load(answer)["logits"]
            return logits
        if reply["problem"] != MISSING:
            raise CheckFailure(reply["problem"])
        _second_process.cache_clear()
    raise ModuleNotFoundError(request["method"])


def logits_elsewhere(fit: Fit, method: Any) -> Tensor:
    """Logits (n, classes) of all queries from `tensors()` alone, restored in another process.

    A class that another process cannot import (of a notebook, or within a function) is restored in
    this one, on a new backbone. CheckFailure if the classifier cannot be restored.
    """
    tensors = fit.stored()
    device, options = str(fit.backbone.device), configuration(method)
    paths = [name for name, value in options.items() if isinstance(value, Path)]
    kind = name_of_class(method)
    if not kind.startswith(("__main__:", FILE_MODULE)) and "<locals>" not in kind:
        with suppress(ModuleNotFoundError):
            return _ask(
                tensors,
                method=kind,
                code=running_digest(type(method)),
                options={
                    name: str(value) if name in paths else value for name, value in options.items()
                },
                paths=paths,
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
    choose(torch.device(device))
    fresh = prepare(Setting(classes=classes), toy_backbone(device))
    classifier = restore(method, tensors, fresh.task, fresh.backbone, kind)
    fresh.classifier = classifier
    logits: Tensor = fresh.predict().detach().cpu().contiguous()
    return logits


def _class(name: str, code: str) -> Any:
    """The class of a method by its name; None if this process cannot import it with this code."""
    try:
        kind = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return None
    return kind if running_digest(kind) == code else None


def main(arguments: list[str], channels: list[Channel]) -> None:
    """Answer requests until the other process ends; output of plug-ins is discarded."""
    (channel,) = channels
    torch.set_num_threads(1)
    determinism.apply()
    with suppress(Closed):
        while True:
            request, body = channel.receive()
            problem, answer = MISSING, b""
            try:
                if kind := _class(request["method"], request["code"]):
                    paths = {name: Path(request["options"][name]) for name in request["paths"]}
                    method = kind(**request["options"] | paths)
                    classifier = class_named(request["classifier"], method)
                    classes, device = tuple(request["classes"]), request["device"]
                    logits = _restore(method, load(body), classes, device, classifier)
                    problem, answer = "", save({"logits": logits})
            except FsbenchError as error:
                problem = str(error)
            except Exception as error:
                problem = error_text(error, request["method"])
            channel.send({"problem": problem}, answer)
