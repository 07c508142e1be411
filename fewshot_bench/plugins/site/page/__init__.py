"""Pages of the site: each one file with its data in columns, drawn by one small script."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Hashable, Iterable, Mapping
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from fewshot_bench.plugins.report.page import embed_script, template


def encode_column(values: Iterable[Hashable]) -> dict[str, Any]:
    """A column as its distinct values (`of`), and for each row the place of its own (`at`)."""
    places: dict[Hashable, int] = {}
    at = [places.setdefault(value, len(places)) for value in values]
    return {"of": list(places), "at": at}


def write_page(
    name: str, data: Mapping[str, Any], details: Mapping[str, Any] | None = None, **shown: Any
) -> str:
    """The page of a template. data: for its script; details: packed, and read on first use."""
    own, shared = files(__name__), files("fewshot_bench.plugins.report.page")
    scripts = [folder / script for folder, script in ((shared, "script.js"), (own, "site.js"))]
    packed = gzip.compress(_json(details).encode(), 9, mtime=0) if details else b""
    return template(name, __package__.rpartition(".")[0]).render(
        shown,
        data=Markup(_json(data)),
        details=Markup(base64.b64encode(packed).decode()),
        **embed_script("".join(script.read_text("utf-8") for script in scripts)),
    )


def _json(values: Any) -> str:
    """JSON that may stand in a script: no text in it ends the element."""
    return json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")
