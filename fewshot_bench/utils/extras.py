"""`require`: import a package of an optional extra, with an error that names the extra."""

from __future__ import annotations

import importlib
from typing import Any

from fewshot_bench.utils.errors import UsageError


def require(package: str, extra: str, what: str, instead: str = "") -> Any:
    """Import a package; if it is missing, UsageError names the feature and the extra to install.

    what: the feature that needs the package. instead: an alternative without it.
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
