"""Helpers without knowledge of the field: errors, files, locks, processes, text. No torch."""
