"""Foreign plug-ins in processes of their own: the process that runs cells imports none of them.

`PluginHost` is the handle of one such process, `PluginHosts` holds those of a run. A method is
described by a class with its hyper-parameters, whose values its own process checks.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import threading
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, partialmethod
from pathlib import Path
from typing import Any, Literal

import msgspec

from fewshot_bench.api import method_code, plugins
from fewshot_bench.api.catalog import Entry
from fewshot_bench.api.code_closure import ROOT_OF_DESCRIBED, Root
from fewshot_bench.api.method import configuration
from fewshot_bench.api.method_card import MethodCard
from fewshot_bench.api.options import Option
from fewshot_bench.api.paper import Paper, as_papers
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.utils import errors
from fewshot_bench.utils.errors import ContractError, FsbenchError, PluginError
from fewshot_bench.utils.messages import MOST_BYTES, Channel, Closed
from fewshot_bench.utils.processes import forward
from fewshot_bench.utils.start import environment_at_start, find_preload, start

_PLAIN = (str, int, float, bool, type(None))
_BASIC = {kind.__name__: kind for kind in (int, float, str, bool, Path)}
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "RunSpec": RunSpec.from_dict,
    "Record": Record.from_dict,
    "MethodCard": partial(msgspec.convert, type=MethodCard),
    "Paper": partial(msgspec.convert, type=Paper),
    "path": Path,
    "list": lambda parts: [unpack(part) for part in parts],
    "tuple": lambda parts: tuple(unpack(part) for part in parts),
}


def pack(value: Any) -> Any:
    """A value as JSON, lists as [name in `_READERS`, content]; PluginError for another type."""
    kind = type(value).__name__
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Path):
        return ["path", str(value)]
    if isinstance(value, RunSpec | Record):
        return [kind, value.to_dict()]
    if isinstance(value, MethodCard | Paper):
        facts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        # A function, which only lists of methods call.
        facts.pop("trained", None)
        return [kind, msgspec.to_builtins(facts, enc_hook=dict)]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: pack(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [kind, [pack(part) for part in value]]
    if getattr(value, "shape", None) == ():
        return pack(value.item())
    raise PluginError(
        f"{value!r:.80} is a {kind}: what a plug-in hands over are texts, numbers, lists, tuples "
        "and paths"
    )


def unpack(value: Any) -> Any:
    """The value that `pack` wrote."""
    if isinstance(value, dict):
        return {name: unpack(part) for name, part in value.items()}
    if not isinstance(value, list):
        return value
    kind, content = value
    return _READERS[kind](content)


def pack_type(kind: Any) -> Any:
    """The type of a hyper-parameter as JSON; None for one that no hyper-parameter may have."""
    if kind in _BASIC.values():
        return kind.__name__
    if kind is type(None):
        return "None"
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return ["Literal", [pack(part) for part in parts]]
    return ["Union", [pack_type(part) for part in parts]] if parts else None


def unpack_type(value: Any) -> Any:
    """The type that `pack_type` wrote."""
    if isinstance(value, str):
        return _BASIC.get(value, type(None))
    kind, parts = value
    if kind == "Literal":
        return Literal[tuple(unpack(part) for part in parts)]
    return typing.Union[tuple(map(unpack_type, parts))]  # noqa: UP007


def pack_error(error: BaseException) -> dict[str, Any]:
    """The kind and text of an error, and those of its cause."""
    facts: dict[str, Any] = {"kind": type(error).__name__, "text": str(error)}
    if isinstance(error, KeyError) and error.args:
        facts["text"] = str(error.args[0])
    if error.__cause__ is not None:
        facts["cause"] = pack_error(error.__cause__)
    return facts


def unpack_error(values: Mapping[str, Any]) -> Exception:
    """The error that `pack_error` wrote; of a new class for a kind that is not ours."""
    name, text = values["kind"], values["text"]
    kind: Any = getattr(errors, name, None)
    error: Exception
    if isinstance(kind, type) and issubclass(kind, FsbenchError):
        error = kind(text)
    elif name in ("KeyError", "ValueError"):
        error = KeyError(text) if name == "KeyError" else ValueError(text)
    else:
        # Of this name, which messages state.
        error = type(name, (Exception,), {})(text)
    if "cause" in values:
        error.__cause__ = unpack_error(values["cause"])
    return error


MODULE = "fewshot_bench.api.plugin_server"
# Errors of reading what is no answer.
_ERRORS = (
    *(ValueError, TypeError, KeyError, AttributeError, OSError),
    *(msgspec.MsgspecError, ContractError),
)
# Seconds that a process gets to end by itself, such as to write what a hook has begun.
END_SECONDS = 5.0
# Seconds that its last words may take, which a process that it has started can hold up.
SAID_SECONDS = 1.0


class HostEnded(PluginError):
    """The process of a plug-in has ended, instead of giving an answer."""


class PluginHost:
    """The process of one foreign plug-in, or of one file with methods.

    name: for messages.
    """

    def __init__(self, name: str, plugin: str = "") -> None:
        """Start the process. plugin: the full name of the plug-in that it imports, if any."""
        self.name, self.plugin = name, plugin
        self.hooks: Sequence[str] = ()
        self._lock = threading.Lock()
        self._classes: dict[str, type] = {}
        self._channel, other = Channel.pair()
        with forward(lambda text: os.write(2, text.encode())) as (errors, self._said):
            self._process = start(
                MODULE,
                [],
                {**environment_at_start(), plugins.ONLY: plugin},
                [other],
                errors=errors,
                # It imports much of what workers do.
                preload=find_preload(),
            )

    def ask(self, operation: str, **values: Any) -> Any:
        """The answer to a request; raises what the code of the plug-in raised.

        HostEnded if the process has ended.
        """
        with self._lock, self._reading():
            try:
                self._channel.send({"operation": operation, **values})
                answer, _ = self._channel.receive(MOST_BYTES)
            except (Closed, ConnectionError):
                code = self._process.wait()
                self._said.join(SAID_SECONDS)
                raise HostEnded(f"{self.name} ended its process (exit code {code})") from None
            error = unpack_error(answer["error"]) if "error" in answer else None
            value = None if error else answer["value"]
        if error is not None:
            raise error
        return value

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """PluginError for what is no answer: code of the plug-in wrote into the channel."""
        try:
            yield
        except _ERRORS as error:
            raise PluginError(
                f"{self.name} wrote into the channel to fsbench: {error!s:.80}"
            ) from None

    def describe(self) -> tuple[Mapping[str, Sequence[Entry]], str | None]:
        """The entries of the plug-in by kind of catalog, and the reason if it failed."""
        try:
            described = self.ask("describe_plugin")
            with self._reading():
                entries = {
                    kind: [self._entry(kind, values) for values in listed]
                    for kind, listed in described["entries"].items()
                }
                self.hooks = () if described["error"] else described["hooks"]
                return entries, described["error"]
        except PluginError as error:
            return {}, str(error)

    def _entry(self, kind: str, values: Mapping[str, Any]) -> Entry:
        options = tuple(self._option(kind, values["name"], option) for option in values["options"])
        # Its own name for itself, whatever it says: what is built in is not decided there.
        origin = f"{self.plugin}, {values['origin'].partition(', ')[2]}"
        given = {"suites": tuple(values["suites"]), "options": options, "origin": origin}
        papers = as_papers("papers", unpack(values["papers"]))
        return Entry(**{**values, **given, "papers": papers})

    def _option(self, kind: str, entry: str, values: Mapping[str, Any]) -> Option:
        option = {"kind": kind, "entry": entry, "option": values["name"]}

        def call(function: str, value: Any) -> Any:
            asked = {"function": function, "value": pack(value)}
            return unpack(self.ask("call_option", **option, **asked))

        named = values["type"]
        return Option(
            **{
                **values,
                "type": partial(call, "type") if named is None else unpack_type(named),
                "default": unpack(values["default"]),
                "asks_gpus": partial(call, "asks_gpus") if values["asks_gpus"] else None,
            }
        )

    def method_class(self, method: str) -> type:
        """The description of a method as a class; PluginError if it breaks a rule."""
        if method not in self._classes:
            described = self.ask("describe_method", method=method)
            with self._reading():
                self._classes[method] = _class(self, method, described)
        return self._classes[method]

    def call(self, hook: str, arguments: Mapping[str, Any]) -> list[Any]:
        """The value that a hook returns, in a list; PluginError as `plugins.call`."""
        try:
            results = self.ask("call_hook", hook=hook, arguments=pack(dict(arguments)))
        except HostEnded as error:
            raise PluginError(f"{hook} of {error}") from error
        with self._reading():
            return [unpack(value) for value in results]

    def set_variables(self, variables: Mapping[str, str]) -> None:
        """Set environment variables that its hooks read."""
        with suppress(PluginError):
            self.ask("set_variables", variables=dict(variables))

    def close(self) -> None:
        """End the process."""
        self._channel.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._said.join(SAID_SECONDS)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()


def _class(host: PluginHost, method: str, described: Mapping[str, Any]) -> type:
    """A frozen dataclass with the hyper-parameters of a method, built by the method's process."""

    def build(self: Any) -> None:
        facts = host.ask("build_method", method=method, values=pack(configuration(self)))
        for name, value in {**unpack(facts["values"]), **unpack(facts["constants"])}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_facts", facts)

    def card(self: Any) -> Any:
        if "card_error" in self._facts:
            raise unpack_error(self._facts["card_error"])
        return unpack(self._facts["card"])

    def call(self: Any, *sizes: int, function: str) -> Any:
        given = {"method": method, "values": pack(configuration(self)), "sizes": list(sizes)}
        return unpack(host.ask("call_method", function=function, **given))

    def fit(self: Any, task: Any, backbone: Any, ctx: Any) -> Any:
        raise PluginError(f"'{method}' runs in a worker, not in the process that plans")

    names: dict[str, Any] = {
        name: partialmethod(call, function=name) for name in described["functions"]
    }
    names |= unpack(described["constants"])
    names |= {"__post_init__": build, "fit": fit, "_fit_at": described["fit"]}
    module, file, folders = described["root"]
    names |= {ROOT_OF_DESCRIBED: Root(module, file, tuple(folders)), "_facts": None}
    if described["has_card"]:
        names["card"] = property(card)
    fields = [
        (
            field["name"],
            unpack_type(field["type"]),
            dataclasses.field(default=unpack(field["default"]), metadata=field["metadata"]),
        )
        for field in described["fields"]
    ]
    kind = dataclasses.make_dataclass(described["class"], fields, namespace=names, frozen=True)
    kind.__module__ = described["module"]
    return kind


class PluginHosts:
    """The processes of all foreign plug-ins and files of a run."""

    def __init__(self) -> None:
        self._hosts: dict[str, PluginHost] = {}

    def of_plugin(self, plugin: str) -> PluginHost:
        """The process of a plug-in."""
        return self._start(f"plug-in {plugin}", plugin)

    def of_file(self, method: str) -> PluginHost | None:
        """The process of the file of a method; None if this process has imported it already."""
        reference = method_code.parts(method_code.canonical(method))
        if reference is None or method_code.is_imported(Path(reference[0])):
            return None
        return self._start(f"'{reference[0]}'", "")

    def _start(self, name: str, plugin: str) -> PluginHost:
        if name not in self._hosts:
            self._hosts[name] = PluginHost(name, plugin)
        return self._hosts[name]

    def close(self) -> None:
        """End all processes."""
        for host in self._hosts.values():
            host.close()
