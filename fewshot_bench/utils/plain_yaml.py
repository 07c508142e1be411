"""YAML whose scalars all stay text, so that 1e-3, `no` and 010 are not converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fewshot_bench.utils.text import size_text

MOST_BYTES = 2**22
"""Maximum bytes of a YAML or TOML file, whose readers take seconds for a megabyte."""
Build = Callable[[list[tuple[Any, Any]], int], dict[str, Any]]


def load_plain(text: str, build: Build) -> Any:
    """Parse YAML into lists, text, and mappings built by `build(pairs, line)`.

    line: where the mapping starts, from 1. `build` must reject invalid pairs, including duplicate
    keys. yaml.YAMLError if the text is no YAML, or longer than MOST_BYTES.
    """
    import yaml

    if len(text) > MOST_BYTES:
        size = f"{size_text(len(text))}, expected at most {size_text(MOST_BYTES)}"
        raise yaml.YAMLError(f"it has {size}: use JSON for more")

    class Loader(yaml.BaseLoader):
        """Builds mappings with `build`."""

    def build_mapping(loader: yaml.BaseLoader, node: yaml.MappingNode) -> dict[str, Any]:
        pairs = [
            (loader.construct_object(key, deep=True), loader.construct_object(value, deep=True))
            for key, value in node.value
        ]
        return build(pairs, node.start_mark.line + 1)

    Loader.add_constructor("tag:yaml.org,2002:map", build_mapping)
    try:
        return yaml.load(text, Loader=Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
