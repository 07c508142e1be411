"""Locks between processes: lock files that users share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fewshot_bench.utils.locks import exclusive


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_users_who_share_a_folder_share_its_locks(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with exclusive(tmp_path, "one"):
            pass
        # Taking it again changes nothing.
        with exclusive(tmp_path, "one"):
            pass
    finally:
        os.umask(before)
    (lock,) = tmp_path.iterdir()
    assert lock.stat().st_mode & 0o777 == mode
