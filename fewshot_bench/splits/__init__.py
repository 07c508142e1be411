"""Splits: drawn, read from files, written, checked, and the published ones."""
