"""Values of the environment that look like secrets: they stand in no record."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

NAMES = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY")
# Shorter values are words that may stand anywhere.
SHORTEST = 8
MASK = "***"


def masked(value: Any) -> Any:
    """The same value from JSON, where the texts of secret variables are replaced by `***`."""
    secrets = {
        text
        for name, text in os.environ.items()
        if NAMES.search(name.upper()) and len(text) >= SHORTEST
    }
    return _masked(value, sorted(secrets, key=len, reverse=True)) if secrets else value


def _masked(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return value
    if isinstance(value, Mapping):
        return {_masked(key, secrets): _masked(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_masked(item, secrets) for item in value)
    return value
