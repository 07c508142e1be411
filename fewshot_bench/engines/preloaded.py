"""Imports that workers share: the server that they are forked from imports this module.

No plug-in is loaded, so that a forked worker differs from a fresh one only in its imports.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
from contextlib import suppress

# All that a worker needs, and the formats that Pillow registers for the first image that it opens.
MODULES = (
    *("fewshot_bench.engines.worker", "fewshot_bench.runner.run"),
    *("fewshot_bench.training.provisional", "fewshot_bench.backbones.open_clip", "psutil"),
    *("PIL.JpegImagePlugin", "PIL.PngImagePlugin"),
)


def _import_all() -> None:
    # Objects of imports stay: to look for garbage among them takes a fifth of the time.
    gc.disable()
    for name in MODULES:
        # The forked process repeats a failed import, and its engine reports the error.
        with suppress(Exception):
            importlib.import_module(name)
    with suppress(Exception):
        from fewshot_bench.backbones.open_clip import import_library

        import_library()
    if os.environ.get("OMP_NUM_THREADS") == "1":
        # A process that has computed in several threads must not fork; the toy uses one thread.
        from fewshot_bench.backbones import embedded

        with suppress(Exception):
            embedded.prepare()
    # All objects so far stay alive: exempt them from garbage collection in every fork.
    gc.freeze()
    gc.enable()


os.setsid()
nowhere = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(nowhere, number)
os.close(nowhere)
_import_all()
# The server holds nothing that would have to be cleaned up.
atexit.register(os._exit, 0)
