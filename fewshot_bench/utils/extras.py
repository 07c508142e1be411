"""`require`: a package that an extra brings; where it is missing, one line names how to get it."""

from __future__ import annotations

import importlib
from typing import Any

from fewshot_bench.utils.errors import UsageError


def require(package: str, extra: str, what: str, instead: str = "") -> Any:
    """Import a package; UsageError names what needs it, and the extra to install.

    instead: what to do without it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package.partition(".")[0]:
            raise
        other = f", or {instead}" if instead else ""
        raise UsageError(
            f"{what} needs {package}, which is not installed: "
            f"pip install 'fewshot-bench[{extra}]'{other}"
        ) from None
