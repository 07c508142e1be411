"""Ablations: what a method gives under every combination of some options."""
