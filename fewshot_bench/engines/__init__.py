"""Engines run the cells of a plan and hand back each outcome as it exists."""
