"""Typeset LaTeX, and skip tests where a program is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.helpers import PATIENCE

NAMES = (
    r"a_b & 50% #1 $x$ \input{/etc/passwd}",
    "{un}balanced} ~^",
    "\"quoted\" 'names' `x` <b>|</b>",
    "[4pt] é ß ÿ — ± → \u4e00",
    "\\\\ \\end{tabular} %",
    "-\u00ad\u00a0-- ?` !` << >> ,,",
    *(chr(code) for code in range(0xA1, 0x100) if chr(code).isprintable()),
)


DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs}
\usepackage{textcomp}
\usepackage[T1]{fontenc}
\usepackage{longtable}
\usepackage{graphicx}
\usepackage[table]{xcolor}
\begin{document}
%s
\end{document}
"""


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip if a program is not installed, unless FSBENCH_TEST_LATEX=1."""
    missing = [name for name in programs if shutil.which(name) is None]
    must = os.environ.get("FSBENCH_TEST_LATEX") == "1"
    return pytest.mark.skipif(bool(missing) and not must, reason=f"not installed: {missing}")


def typeset(folder: Path, body: str) -> str:
    """Typeset the document behind `table.pdf`; return pdflatex's log."""
    (folder / "table.tex").write_text(DOCUMENT % body)
    quiet = ("-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape")
    done = ran(folder, "pdflatex", *quiet, "table.tex")
    log = done.stdout.decode("latin-1")
    assert done.returncode == 0, log[-3000:]
    return log


def ran(folder: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program in this folder, with a timeout."""
    return subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=PATIENCE)
