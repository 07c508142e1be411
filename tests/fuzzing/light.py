"""Readers without torch: records, splits, lists of data sets, configs, archives, plug-ins."""

from __future__ import annotations

from tests.fuzzing import (
    configs,
    data_lists,
    downloads,
    records,
    split_files,
)

SUBJECTS = (
    *records.SUBJECTS,
    *split_files.SUBJECTS,
    *data_lists.SUBJECTS,
    *configs.SUBJECTS,
    *downloads.SUBJECTS,
)
