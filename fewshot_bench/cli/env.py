"""`fsbench env`: what a bug report needs."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command("env", short_help="Show versions, hardware and settings, for a bug report.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(as_json: bool) -> None:
    """Show versions, hardware and settings, for a bug report.

    Values of environment variables that look like a secret are hidden.
    """
    from fewshot_bench.cli.bug_report import collect

    found = collect()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        for label, text in _lines(name, value):
            click.echo(f"{label:<24} {text}")


def _lines(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [(name, " ".join(str(v) for v in part.values() if v is not None)) for part in value]
    if isinstance(value, dict) and value:
        return [(f"{name}.{key}", _text(part)) for key, part in value.items()]
    return [(name, _text(value))]


def _text(value: Any) -> str:
    if value is None or value in ([], {}):
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
