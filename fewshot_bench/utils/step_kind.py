"""Kinds of training steps (`--step`), and how a run tells its workers which one is asked for."""

from __future__ import annotations

import os
from typing import Literal

from fewshot_bench.utils.errors import unknown

Kind = Literal["auto", "eager", "graph", "compile", "soft"]
KINDS: tuple[Kind, ...] = ("auto", "eager", "graph", "compile")
# A graph in software, for tests of any device.
SOFT: Kind = "soft"
VARIABLE = "FSBENCH_STEP"
# The back end of torch.compile for `--step compile`.
COMPILER = "FSBENCH_COMPILER"


def read_kind() -> Kind:
    """The kind in `FSBENCH_STEP`, `auto` by default; UsageError for another text."""
    text = os.environ.get(VARIABLE) or "auto"
    for kind in (*KINDS, SOFT):
        if text == kind:
            return kind
    raise unknown("kind of training step", text, KINDS, "fsbench run --help")
