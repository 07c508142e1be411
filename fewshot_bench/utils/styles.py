"""Whether text for a terminal has colors and bold words: NO_COLOR (https://no-color.org)."""

from __future__ import annotations

import os
from typing import Literal


def color_system() -> Literal["auto"] | None:
    """For a rich console; None, where NO_COLOR is set, leaves out bold and underlined text too."""
    return None if os.environ.get("NO_COLOR") else "auto"
