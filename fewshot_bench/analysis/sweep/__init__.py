"""Ablations: results of a method under every combination of some options."""
