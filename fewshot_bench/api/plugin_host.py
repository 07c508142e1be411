"""Foreign plug-ins in processes of their own: the process that runs cells imports none of them.

`PluginHost` is the handle of one such process, `PluginHosts` holds those of a run. A method is
described by a class with its hyper-parameters, whose values its own process checks.
"""

from __future__ import annotations

import dataclasses
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partialmethod
from pathlib import Path
from typing import Any

from fewshot_bench.api import method_files, plugins
from fewshot_bench.api.catalog import Entry
from fewshot_bench.api.method_code import FILE_OF_DESCRIBED
from fewshot_bench.api.options import Option
from fewshot_bench.api.paper import as_papers
from fewshot_bench.api.plugin_values import packed, unpacked, unpacked_error, unpacked_type
from fewshot_bench.utils.errors import ContractError, PluginError
from fewshot_bench.utils.messages import MOST_BYTES, Channel, Closed
from fewshot_bench.utils.start import environment_at_start, running_preload, start

MODULE = "fewshot_bench.api.plugin_server"
# Seconds that a process gets to end by itself, such as to write what a hook has begun.
END_SECONDS = 5.0


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
        self._process = start(
            MODULE,
            [],
            {**environment_at_start(), plugins.ONLY: plugin},
            [other],
            errors=2,
            # It imports much of what workers do.
            preload=running_preload(),
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
                raise HostEnded(f"{self.name} ended its process (exit code {code})") from None
            error = unpacked_error(answer["error"]) if "error" in answer else None
            value = None if error else answer["value"]
        if error is not None:
            raise error
        return value

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """PluginError for what is no answer: code of the plug-in wrote into the channel."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, OSError, ContractError) as error:
            raise PluginError(
                f"{self.name} wrote into the channel to fsbench: {error!s:.80}"
            ) from None

    def describe(self) -> tuple[Mapping[str, Sequence[Entry]], str | None]:
        """The entries of the plug-in by kind of catalog, and the reason if it failed."""
        try:
            found = self.ask("describe_plugin")
            with self._reading():
                entries = {
                    kind: [self._entry(kind, values) for values in listed]
                    for kind, listed in found["entries"].items()
                }
                self.hooks = () if found["error"] else found["hooks"]
                return entries, found["error"]
        except PluginError as error:
            return {}, str(error)

    def _entry(self, kind: str, values: Mapping[str, Any]) -> Entry:
        options = tuple(self._option(kind, values["name"], one) for one in values["options"])
        # Its own name for itself, whatever it says: what is built in is not decided there.
        origin = f"{self.plugin}, {values['origin'].partition(', ')[2]}"
        given = {"suites": tuple(values["suites"]), "options": options, "origin": origin}
        papers = as_papers("papers", unpacked(values["papers"]))
        return Entry(**{**values, **given, "papers": papers})

    def _option(self, kind: str, entry: str, values: Mapping[str, Any]) -> Option:
        place = {"kind": kind, "entry": entry, "option": values["name"]}

        def read(text: str) -> Any:
            return unpacked(self.ask("read_option", **place, text=text))

        def asks(value: Any) -> bool:
            return bool(self.ask("ask_for_gpus", **place, value=packed(value)))

        named = values["type"]
        return Option(
            **{
                **values,
                "type": read if named is None else unpacked_type(named),
                "default": unpacked(values["default"]),
                "asks_gpus": asks if values["asks_gpus"] else None,
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
            found = self.ask("call_hook", hook=hook, arguments=packed(dict(arguments)))
        except HostEnded as error:
            raise PluginError(f"{hook} of {error}") from error
        with self._reading():
            return [unpacked(value) for value in found]

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

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()


def _class(host: PluginHost, method: str, described: Mapping[str, Any]) -> type:
    """A frozen dataclass with the hyper-parameters of a method, built by the method's process."""

    def build(self: Any) -> None:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        facts = host.ask("build_method", method=method, values=packed(values))
        for name, value in {**unpacked(facts["values"]), **unpacked(facts["constants"])}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_facts", facts)

    def card(self: Any) -> Any:
        if "card_error" in self._facts:
            raise unpacked_error(self._facts["card_error"])
        return unpacked(self._facts["card"])

    def call(self: Any, *sizes: int, function: str) -> Any:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        given = {"method": method, "values": packed(values), "sizes": list(sizes)}
        return unpacked(host.ask("call_method", function=function, **given))

    def fit(self: Any, task: Any, backbone: Any, ctx: Any) -> Any:
        raise PluginError(f"'{method}' runs in a worker, not in the process that plans")

    names: dict[str, Any] = {
        name: partialmethod(call, function=name) for name in described["functions"]
    }
    names |= unpacked(described["constants"])
    names |= {"__post_init__": build, "fit": fit, "_fit_at": described["fit"]}
    names |= {FILE_OF_DESCRIBED: described["file"], "_facts": None}
    if described["has_card"]:
        names["card"] = property(card)
    fields = [
        (
            field["name"],
            unpacked_type(field["type"]),
            dataclasses.field(default=unpacked(field["default"]), metadata=field["metadata"]),
        )
        for field in described["fields"]
    ]
    found = dataclasses.make_dataclass(described["class"], fields, namespace=names, frozen=True)
    found.__module__ = described["module"]
    return found


class PluginHosts:
    """The processes of all foreign plug-ins and files of a run."""

    def __init__(self) -> None:
        self._plugins: dict[str, PluginHost] = {}
        self._files: dict[str, PluginHost] = {}

    def of_plugin(self, plugin: str) -> PluginHost:
        """The process of a plug-in."""
        if plugin not in self._plugins:
            self._plugins[plugin] = PluginHost(f"plug-in {plugin}", plugin)
        return self._plugins[plugin]

    def of_file(self, method: str) -> PluginHost | None:
        """The process of the file of a method; None if this process has imported it already."""
        found = method_files.parts(method_files.canonical(method))
        if found is None or method_files.is_imported(Path(found[0])):
            return None
        path = found[0]
        if path not in self._files:
            self._files[path] = PluginHost(f"'{path}'")
        return self._files[path]

    def close(self) -> None:
        """End all processes."""
        for host in (*self._plugins.values(), *self._files.values()):
            host.close()
