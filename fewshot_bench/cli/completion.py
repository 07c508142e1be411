"""Shell completion of registered names.

Nothing heavy is imported, and nothing may be printed: it would appear in the line being typed.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fewshot_bench.api.method_rules import EVERY
from fewshot_bench.api.metrics import BUILT_IN
from fewshot_bench.api.registry import registry

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# `_RN50 = dict(`, then `"RN50": _RN50,` or `"RN50": dict(`; its tag is `openai=_pcfg(`.
_ENTRY = re.compile(r'^(_\w+) = |^    "([^"]+)": (_\w+)?|(?:^ +|dict\()(\w+)=_\w+\(', re.MULTILINE)
Source = Callable[[], Iterable[str]]
Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem | str]"]


def one_of(*sources: Source) -> Complete:
    """Complete a single name."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem | str]:
        return [name for name in _names(sources) if name.startswith(incomplete)]

    return complete


def several_of(*sources: Source) -> Complete:
    """Complete the last name of a comma-separated list, without names already in it."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem | str]:
        before, comma, last = incomplete.rpartition(",")
        given = {name.strip() for name in before.split(",")}
        names = [n for n in _names(sources) if n.startswith(last.lstrip()) and n not in given]
        return [f"{before}{comma}{name}" for name in names]

    return complete


def methods() -> Iterable[str]:
    """Registered methods."""
    return registry().methods.entries


def datasets() -> Iterable[str]:
    """Registered data sets, without families such as `folder:`, which need an argument."""
    return (name for name in registry().datasets.entries if not name.endswith(":"))


def suites() -> Iterable[str]:
    """Suites of data sets."""
    return registry().datasets.suites()


def suites_of_methods() -> Iterable[str]:
    """Suites of methods, including the one of all methods."""
    return [EVERY, *registry().methods.suites()]


def backbones() -> Iterable[str]:
    """Registered backbones, and MODEL/TAG of all weights that open_clip lists."""
    return [*registry().backbones.entries, *_weights_of_open_clip()]


def engines() -> Iterable[str]:
    """Registered engines."""
    return registry().engines.entries


def metrics() -> Iterable[str]:
    """Metrics, including those of plug-ins."""
    return [*BUILT_IN, *registry().metrics.entries]


def options() -> Iterable[str]:
    """Options that plug-ins register, without dashes."""
    return registry().options.entries


def mend_fish() -> None:
    """Register completion for fish that keeps commas, where click's cuts a name or help off."""
    from click.shell_completion import FishComplete, add_completion_class

    class Fish(FishComplete):
        source_template = FishComplete.source_template.replace(
            'string split ","', 'string split -m 1 ","'
        )

    add_completion_class(Fish)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discard output printed inside, such as by a plug-in on import."""
    nowhere = io.StringIO()
    with contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        yield


def _names(sources: Iterable[Source]) -> list[str]:
    """All names, sorted; a source that fails gives none, and commands report the reason."""
    names: list[str] = []
    for source in sources:
        with contextlib.suppress(Exception), silence():
            names += source()
    return sorted(dict.fromkeys(names))


def _weights_of_open_clip() -> list[str]:
    """MODEL/TAG names, read in open_clip's source, since importing it would import torch."""
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        return []
    text = Path(spec.origin).with_name("pretrained.py").read_text(encoding="utf-8")
    tags: dict[str, list[str]] = {}
    models: dict[str, list[str]] = {}
    last: list[str] = []
    for name, model, same, tag in _ENTRY.findall(text):
        if name:
            last = tags[name] = []
        elif model:
            last = models[model] = tags.get(same, []) if same else []
        else:
            last.append(tag)
    return [f"{model}/{tag}" for model, own in models.items() for tag in own]
