"""Locks between processes: lock files that users share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fewshot_bench.utils.locks import exclusive

MODES = {0o002: 0o664, 0o022: 0o644, 0o077: 0o600, 0o277: 0o600, 0o577: 0o600, 0o777: 0o600}


@pytest.mark.parametrize(("umask", "mode"), MODES.items())
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


@pytest.mark.parametrize("left", [0o000, 0o200, 0o400, 0o044])
def test_a_lock_file_that_was_left_without_rights_is_used(tmp_path: Path, left: int) -> None:
    lock = tmp_path / ".one.lock"
    lock.touch()
    lock.chmod(left)
    with exclusive(tmp_path, "one"):
        pass
    assert lock.stat().st_mode & 0o777 == left | 0o600
