"""Splits: drawing, reading, writing and checking them, and the published ones."""
